package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/providers/fault"
)

const (
	maxDifferences = 200 // that a Comparison lists; the counts are always whole
	maxFields      = 12  // that one Difference names
)

// CompareConfig says what to compare.
type CompareConfig struct {
	Client   *Client
	Recorded // the captured side
	Mode     Mode
	// Selection narrows the comparison to what a replay with the same one brings: see ReplayConfig.
	Selection
	// Rebound are the names of PersistentVolumes whose backend's volumes are new ones: see Rebind.
	Rebound []string
	// Reclassed are claims, namespace/name, that have another class: see Reclass.
	Reclassed []string
	// Transform and Outcomes are those of a replay: what it changed on the way, where it put objects, and
	// what it left as it was.
	Transform []Transformation
	Outcomes  []ObjectOutcome
}

// Comparison is how a living cluster stands to a captured one. Expected = Equal + Excused + Missing
// + Different; Extra objects are those that the capture does not know and nothing excuses.
type Comparison struct {
	Mode     Mode  `json:"mode"`
	Revision int64 `json:"revision"` // of the living cluster
	Tally
	Kinds []KindTally `json:"kinds"`
	// Captured and Living are digests over what is not excused, after normalisation: equal when and
	// only when nothing is missing, different or extra.
	Captured    string       `json:"captured"`
	Living      string       `json:"living"`
	Differences []Difference `json:"differences,omitempty"` // bounded
	Exceptions  []Exception  `json:"exceptions,omitempty"`
}

// Tally counts objects.
type Tally struct {
	Expected  int `json:"expected"`
	Equal     int `json:"equal"`
	Excused   int `json:"excused"`
	Missing   int `json:"missing"`
	Different int `json:"different"`
	Extra     int `json:"extra"`
}

// KindTally counts the objects of one kind.
type KindTally struct {
	Group    string `json:"group"`
	Resource string `json:"resource"`
	Tally
}

// Difference is one object that is not as it was.
type Difference struct {
	Key  string `json:"key"`
	What string `json:"what"` // missing, different, extra
	// Fields are JSON pointers of what differs; never values.
	Fields []string `json:"fields,omitempty"`
}

// Exception counts the objects that one documented reason excused.
type Exception struct {
	Reason string `json:"reason"`
	Count  int    `json:"count"`
}

// Same reports whether everything came back.
func (c Comparison) Same() bool { return c.Missing == 0 && c.Different == 0 && c.Extra == 0 }

// Compare lists the living cluster at one revision and compares it with a capture, object by object.
func Compare(ctx context.Context, config CompareConfig) (Comparison, error) {
	only, err := config.Select(ctx, config.Selection)
	if err != nil {
		return Comparison{}, err
	}
	filter, err := filterOf(config.Layer)
	if err != nil {
		return Comparison{}, err
	}
	c := &comparison{config: config, filter: filter, entries: map[Key]*expected{}, reasons: map[string]int{}, tallies: map[Key]*Tally{}}
	if c.transform, err = newTransformer(config.Transform); err != nil {
		return Comparison{}, err
	}
	c.expect(only)
	found, err := c.gather(ctx)
	if err != nil {
		return Comparison{}, err
	}
	c.excuses = newExcuses(config.Mode, found)
	if c.revision, err = config.Client.newestRevision(ctx); err != nil {
		return Comparison{}, err
	}
	resources, err := c.resources(ctx)
	if err != nil {
		return Comparison{}, err
	}
	if err := c.living(ctx, resources); err != nil {
		return Comparison{}, err
	}
	if err := c.missing(ctx); err != nil {
		return Comparison{}, err
	}
	return c.result(), nil
}

// comparison is one comparison at work.
type comparison struct {
	config CompareConfig
	filter *filter
	excuses
	transform *transformer
	revision  int64

	mu       sync.Mutex
	entries  map[Key]*expected
	tallies  map[Key]*Tally // by group and resource
	reasons  map[string]int
	diffs    []Difference
	captured []line
	lively   []line
	lost     []candidate // captured and not living, not excused by a rule
	spare    []candidate // living and not captured, not excused by a rule
}

// expected is a captured object, by its key in the living cluster.
type expected struct {
	Entry
	told Outcome // by the replay, if there was one
	seen bool
}

func (c *comparison) expect(entries []Entry) {
	outcomes := make(map[Key]ObjectOutcome, len(c.config.Outcomes))
	for _, outcome := range c.config.Outcomes {
		outcomes[outcome.Key()] = outcome
	}
	for _, entry := range entries {
		key, outcome := entry.Key(), outcomes[entry.Key()]
		if outcome.Result != "" {
			key = outcome.Target()
		}
		c.entries[key] = &expected{Entry: entry, told: outcome.Outcome}
	}
}

// excusedBy returns the reason why an object need not be as it was captured, empty when there is none.
func (c *comparison) excusedBy(e *expected, captured Object) string {
	if e.told.Result == Passed || e.told.Result == Kept {
		return e.told.Message
	}
	return c.excused(e.Key(), captured)
}

// before is the captured side of a comparison: as a replay would create it.
func (c *comparison) before(ctx context.Context, key Key, e *expected, captured Object) (Object, error) {
	normal := c.normalise(e.Key(), captured)
	changed, err := c.transform.apply(ctx, e.Key(), normal)
	if err != nil || len(c.transform.steps) == 0 {
		return normal, err
	}
	return c.normalise(key, changed), nil
}

type line struct{ key, digest string }

// candidate is an object that one side lacks. Pods that a controller replaced are paired by owner.
type candidate struct {
	key    Key
	owner  string // of the controller, empty when there is none
	digest string
}

// resources lists what to read: the captured kinds in their captured versions, and all others that
// the cluster serves.
func (c *comparison) resources(ctx context.Context) ([]Resource, error) {
	served, _, err := c.config.Client.Discover(ctx)
	if err != nil {
		return nil, err
	}
	versions := map[Key]string{}
	for _, entry := range c.config.Entries {
		if entry.check() != nil {
			continue
		}
		versions[Key{Group: entry.Group, Resource: entry.Resource}] = entry.Version
	}
	served, _ = c.filter.resources(served)
	for i, r := range served {
		if version, found := versions[Key{Group: r.Group, Resource: r.Name}]; found {
			served[i].Version = version
		}
	}
	return served, nil
}

// living compares every object of the cluster.
func (c *comparison) living(ctx context.Context, resources []Resource) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(readers, runtime.GOMAXPROCS(0)))
	for _, r := range resources {
		group.Go(func() error {
			revision := c.revision
			if r.Foreign {
				revision = 0
			}
			err := c.config.Client.list(ctx, r, revision, nil, func(raw json.RawMessage) error { return c.one(ctx, r, raw) })
			if statusCode(err) == 404 {
				return nil // no longer served in this version: its objects count as missing
			}
			return err
		})
	}
	return group.Wait()
}

func (c *comparison) one(ctx context.Context, r Resource, raw json.RawMessage) error {
	object, err := decodeObject(raw)
	if err != nil {
		return fault.New("compare", fault.Corrupt, r.Name, err)
	}
	object["apiVersion"], object["kind"] = r.apiVersion(), r.Kind
	key := r.key(object)
	c.mu.Lock()
	entry := c.entries[key]
	if entry != nil {
		entry.seen = true
	}
	c.mu.Unlock()
	if entry == nil {
		return c.unknown(ctx, key, object)
	}
	return c.both(ctx, key, entry, object)
}

// both compares an object that both sides have.
func (c *comparison) both(ctx context.Context, key Key, entry *expected, living Object) error {
	digest := Digest(living)
	if reason := c.excused(key, living); reason != "" {
		c.excuse(key, reason, true)
		return nil
	}
	if digest == entry.Digest && c.config.Mode == ModeRebuild && !c.hasFieldRule(key, living) {
		c.equal(key, digest)
		return nil
	}
	captured, err := c.load(ctx, entry.Entry)
	if err != nil && unreadable(err) != "" {
		c.different(key, entry.Digest, digest, nil)
		return nil
	}
	if err != nil {
		return err
	}
	if reason := c.excusedBy(entry, captured); reason != "" {
		c.excuse(key, reason, true)
		return nil
	}
	before, err := c.before(ctx, key, entry, captured)
	if err != nil {
		return err
	}
	after := c.normalise(key, living)
	was, is := Digest(before), Digest(after)
	if was == is || entry.told.Result == Updated && contains(map[string]any(stable(after)), map[string]any(stable(before))) {
		c.equal(key, was)
		return nil
	}
	c.different(key, was, is, differingFields(stable(before), stable(after), maxFields))
	return nil
}

// load reads a captured object; of a replay, as it is when no replay holds it.
func (c *comparison) load(ctx context.Context, entry Entry) (Object, error) {
	object, err := c.config.read(ctx, entry)
	if err != nil || c.config.Mode != ModeReplay {
		return object, err
	}
	return unheld(object), nil
}

func (c *comparison) equal(key Key, digest string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	tally := c.tally(key)
	tally.Expected++
	tally.Equal++
	c.captured = append(c.captured, line{key.String(), digest})
	c.lively = append(c.lively, line{key.String(), digest})
}

func (c *comparison) different(key Key, was, is string, fields []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	tally := c.tally(key)
	tally.Expected++
	tally.Different++
	c.captured = append(c.captured, line{key.String(), was})
	c.lively = append(c.lively, line{key.String(), is})
	c.differ(Difference{Key: key.String(), What: "different", Fields: fields})
}

func (c *comparison) differ(d Difference) {
	if len(c.diffs) < maxDifferences {
		c.diffs = append(c.diffs, d)
	}
}

// excuse counts an object that a rule covers; expected is false for one that the capture lacks.
func (c *comparison) excuse(key Key, reason string, expected bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reasons[reason]++
	if expected {
		tally := c.tally(key)
		tally.Expected++
		tally.Excused++
	}
}

func (c *comparison) tally(key Key) *Tally {
	kind := Key{Group: key.Group, Resource: key.Resource}
	if c.tallies[kind] == nil {
		c.tallies[kind] = &Tally{}
	}
	return c.tallies[kind]
}

// unknown looks at an object that the capture does not know.
func (c *comparison) unknown(ctx context.Context, key Key, o Object) error {
	if c.config.Mode == ModeReplay {
		return nil // the cluster ran before the replay and may hold what it wants
	}
	if skipped, err := c.filter.skips(ctx, key, o); skipped || err != nil {
		return err
	}
	if key.Namespace == "" && c.filter.needed() {
		return nil // whether it would have been needed, the captured objects do not tell
	}
	if reason := c.excused(key, o); reason != "" {
		c.excuse(key, reason, false)
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spare = append(c.spare, candidate{key: key, owner: controllerOf(key, o), digest: Digest(c.normalise(key, o))})
	return nil
}

// missing looks at every entry that the cluster did not show.
func (c *comparison) missing(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2 * runtime.GOMAXPROCS(0))
	for key, entry := range c.entries {
		if entry.seen {
			continue
		}
		group.Go(func() error {
			object, err := c.load(ctx, entry.Entry)
			if err != nil && unreadable(err) != "" {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.lost = append(c.lost, candidate{key: key, digest: entry.Digest})
				return nil
			}
			if err != nil {
				return err
			}
			if reason := c.excusedBy(entry, object); reason != "" {
				c.excuse(key, reason, true)
				return nil
			}
			before, err := c.before(ctx, key, entry, object)
			if err != nil {
				return err
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			c.lost = append(c.lost, candidate{key: key, owner: controllerOf(key, object), digest: Digest(before)})
			return nil
		})
	}
	return group.Wait()
}

// controllerOf names the controller of a pod: whoever made one makes others in its place.
func controllerOf(key Key, o Object) string {
	if key.Group != "" || key.Resource != "pods" {
		return ""
	}
	for _, owner := range o.owners() {
		if owner.controller {
			return strings.Join([]string{key.Namespace, owner.group, owner.kind, owner.name}, "/")
		}
	}
	return ""
}

const (
	replaced = "its controller replaced the pod"
	scaled   = "a controller made it since"
)

// pair excuses pods that their controller replaced one for one, and then takes what is left for
// missing and extra.
func (c *comparison) pair() {
	sortCandidates(c.lost)
	sortCandidates(c.spare)
	spare := map[string]int{}
	for _, s := range c.spare {
		spare[s.owner]++
	}
	for _, lost := range c.lost {
		if lost.owner != "" && spare[lost.owner] > 0 {
			spare[lost.owner]--
			c.excuse(lost.key, replaced, true)
			continue
		}
		tally := c.tally(lost.key)
		tally.Expected++
		tally.Missing++
		c.captured = append(c.captured, line{lost.key.String(), lost.digest})
		c.differ(Difference{Key: lost.key.String(), What: "missing"})
	}
	for _, extra := range c.spare {
		if extra.owner != "" {
			c.excuse(extra.key, scaled, false)
			continue
		}
		c.tally(extra.key).Extra++
		c.lively = append(c.lively, line{extra.key.String(), extra.digest})
		c.differ(Difference{Key: extra.key.String(), What: "extra"})
	}
}

func sortCandidates(list []candidate) {
	slices.SortFunc(list, func(a, b candidate) int { return a.key.Compare(b.key) })
}

func (c *comparison) result() Comparison {
	c.pair()
	result := Comparison{
		Mode: c.config.Mode, Revision: c.revision, Captured: digestLines(c.captured), Living: digestLines(c.lively), Differences: c.diffs,
	}
	for kind, tally := range c.tallies {
		result.Kinds = append(result.Kinds, KindTally{Group: kind.Group, Resource: kind.Resource, Tally: *tally})
		result.add(*tally)
	}
	slices.SortFunc(result.Kinds, func(a, b KindTally) int {
		return Key{Group: a.Group, Resource: a.Resource}.Compare(Key{Group: b.Group, Resource: b.Resource})
	})
	slices.SortFunc(result.Differences, func(a, b Difference) int { return strings.Compare(a.Key, b.Key) })
	for reason, count := range c.reasons {
		result.Exceptions = append(result.Exceptions, Exception{Reason: reason, Count: count})
	}
	slices.SortFunc(result.Exceptions, func(a, b Exception) int { return strings.Compare(a.Reason, b.Reason) })
	return result
}

func (t *Tally) add(other Tally) {
	t.Expected += other.Expected
	t.Equal += other.Equal
	t.Excused += other.Excused
	t.Missing += other.Missing
	t.Different += other.Different
	t.Extra += other.Extra
}

func digestLines(lines []line) string {
	slices.SortFunc(lines, func(a, b line) int { return strings.Compare(a.key, b.key) })
	sum := sha256.New()
	for _, l := range lines {
		fmt.Fprintf(sum, "%s %s\n", l.key, l.digest)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// gather compares the machines of both sides.
func (c *comparison) gather(ctx context.Context) (facts, error) {
	living := map[string]string{}
	nodes := Resource{Version: "v1", Name: "nodes", Kind: "Node"}
	err := c.config.Client.list(ctx, nodes, 0, nil, func(raw json.RawMessage) error {
		node, err := decodeObject(raw)
		if err != nil {
			return err
		}
		living[node.name()] = internalIP(node)
		return nil
	})
	if err != nil {
		return facts{}, err
	}
	found := facts{gone: map[string]bool{}, kept: map[string]bool{}, rebound: c.config.Rebound, reclassed: c.config.Reclassed}
	captured := 0
	for _, entry := range c.config.Entries {
		if entry.Group != "" || entry.Resource != "nodes" {
			continue
		}
		captured++
		node, err := c.load(ctx, entry) // one that can't be read is at no address
		if err != nil && unreadable(err) == "" {
			return facts{}, err
		}
		address, lives := living[entry.Name]
		found.gone[entry.Name] = !lives
		found.kept[entry.Name] = lives && address == internalIP(node)
		found.moved = found.moved || !found.kept[entry.Name]
	}
	found.moved = found.moved || captured != len(living)
	return found, nil
}

func internalIP(node Object) string {
	addresses, _ := at(node, "status", "addresses").([]any)
	for _, address := range addresses {
		if entry, ok := address.(map[string]any); ok && entry["type"] == "InternalIP" {
			text, _ := entry["address"].(string)
			return text
		}
	}
	return ""
}
