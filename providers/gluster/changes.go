package gluster

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// mark is the moment of an attachment by the clocks of the bricks' peers, which may differ.
type mark struct {
	Version int    `json:"v"`
	Volume  string `json:"volume"` // its UUID
	From    int64  `json:"from"`   // seconds; no brick's clock was before it
	Until   int64  `json:"until"`  // no brick's clock was after it
	Mount   string `json:"mount"`  // the attachment
}

const markVersion = 1

func (m mark) encode() string {
	raw, _ := json.Marshal(m) // strings and numbers always marshal
	return string(raw)
}

// The options of a volume that this is about.
const (
	changelogOn       = "changelog.changelog"
	changelogRollover = "changelog.rollover-time"
	sharding          = "features.shard"
)

// usualRollover is how many seconds a changelog is written before the next is begun.
const usualRollover = 15

func (v volumeInfo) rollover() int64 {
	if n, err := strconv.ParseInt(v.option(changelogRollover), 10, 64); err == nil && n > 0 {
		return n
	}
	return usualRollover
}

// markNow switches the changelog on where it is off, and names this moment. The mark is empty where changes
// cannot be told: a peer with a brick cannot be reached, or files lie in shards, whose changes are recorded
// under names of their own.
func (p *pool) markNow(ctx context.Context, v volumeInfo, mount string) (string, error) {
	if p.settings.Changes == changesNone || v.on(sharding) {
		return "", nil
	}
	if !v.on(changelogOn) {
		if _, err := p.gluster(ctx, "switch changelog on", v.Name, "volume", "set", v.Name, changelogOn, "on"); err != nil {
			return "", err
		}
	}
	m := mark{Version: markVersion, Volume: v.ID, Mount: mount}
	err := p.poll(ctx, func() (bool, error) {
		looks, err := p.look(ctx, v)
		if err != nil {
			return false, err
		}
		m.From, m.Until = looks[0].now, looks[0].now
		for _, l := range looks {
			m.From, m.Until = min(m.From, l.now), max(m.Until, l.now)
		}
		return !slices.ContainsFunc(looks, func(l look) bool { return l.since == 0 || l.since > m.From }), nil
	})
	if ctx.Err() != nil {
		return "", ended(ctx, "mark", v.Name)
	}
	if err != nil {
		return "", nil //nolint:nilerr // no mark: the next capture compares everything
	}
	return m.encode(), nil
}

// pollTime bounds the wait for a changelog that was switched on.
const pollTime = 10 * time.Second

func (p *pool) poll(ctx context.Context, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, pollTime)
	defer cancel()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		timer := time.NewTimer(100 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

// Changes implements providers.Files by the changelogs of all bricks between the two moments. They are
// whole only after the changelog that was being written at the later one has been ended: it waits for that,
// 15 seconds unless the volume's changelog.rollover-time says otherwise.
func (p *provider) Changes(ctx context.Context, request providers.ChangesRequest, each func([]string) error) error {
	const op = "list changed files"
	pool, err := p.ready(op)
	if err != nil {
		return err
	}
	if pool.settings.Changes == changesNone {
		return fault.Newf(op, fault.Unsupported, Name, "changelogs are switched off in the provider's settings (changes)")
	}
	s, err := openVolume(op, request.Volume)
	if err != nil {
		return err
	}
	since, err := readMark(op, s, request.Since)
	if err != nil {
		return err
	}
	until, err := readMark(op, s, request.Until)
	if err != nil {
		return err
	}
	if since.From > until.Until {
		return fault.Newf(op, fault.Invalid, s.Volume, "the first mark is younger than the second")
	}
	v, err := pool.same(ctx, op, s)
	if err != nil {
		return err
	}
	m := pool.mountpoint(until.Mount)
	if there, err := m.mounted(); err != nil || !there {
		return cannotTell(op, v.Name, "the later attachment is gone")
	}
	records, err := pool.changelogs(ctx, op, v, since.From, until.Until)
	if err != nil {
		return err
	}
	folders, err := m.resolve(ctx, op, records)
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(slices.Sorted(maps.Keys(folders)), 1000) {
		if err := each(chunk); err != nil {
			return err
		}
	}
	return nil
}

func cannotTell(op, subject, format string, args ...any) error {
	return fault.Newf(op, fault.NotFound, subject, format+": compare everything", args...)
}

func readMark(op string, s state, text string) (mark, error) {
	var m mark
	if err := json.Unmarshal([]byte(text), &m); err != nil || m.Version != markVersion || !mountID.MatchString(m.Mount) {
		return m, cannotTell(op, s.Volume, "the mark %.40q is none of this version", text)
	}
	if m.Volume != s.ID {
		return m, fault.Newf(op, fault.Invalid, s.Volume, "the mark is of another volume")
	}
	return m, nil
}

// look is what one peer tells of the changelogs of its bricks.
type look struct {
	now   int64
	since int64 // since when all its bricks have written changelogs without a gap; 0: one has none
}

// lookScript prints this peer's clock, and for each brick when its present series of changelogs began.
const lookScript = `date +%s
for brick; do
	newest=0
	for f in "$brick"/.glusterfs/changelogs/htime/HTIME.*; do
		t=${f##*.}
		case $t in ''|*[!0-9]*) continue ;; esac
		[ "$t" -gt "$newest" ] && newest=$t
	done
	echo "$newest"
done`

// look asks all peers with bricks of the volume.
func (p *pool) look(ctx context.Context, v volumeInfo) ([]look, error) {
	hosts := v.hosts()
	looks := make([]look, len(hosts))
	err := p.onBricks(ctx, v, func(ctx context.Context, i int, s *shell, bricks []string) error {
		out, err := p.on(ctx, s, lookScript, bricks...)
		if err != nil {
			return err
		}
		numbers, err := parseNumbers(out.stdout)
		if err != nil || len(numbers) != len(bricks)+1 {
			return fault.Newf("look at changelogs", fault.Corrupt, s.subject(), "the peer answers %q", firstLines(out.stdout, out.stderr))
		}
		looks[i] = look{now: numbers[0], since: slices.Max(numbers[1:])}
		if slices.Contains(numbers[1:], 0) {
			looks[i].since = 0
		}
		return nil
	})
	return looks, err
}

// hosts are those of the bricks, each once.
func (v volumeInfo) hosts() []string {
	var hosts []string
	for _, b := range v.Bricks {
		if host, _ := b.split(); !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// onBricks does something on every peer with bricks, at once, with the bricks' paths.
func (p *pool) onBricks(ctx context.Context, v volumeInfo, do func(ctx context.Context, i int, s *shell, bricks []string) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for i, host := range v.hosts() {
		s, err := p.shell("reach bricks", host)
		if err != nil {
			return err
		}
		var bricks []string
		for _, b := range v.Bricks {
			if at, path := b.split(); at == host {
				bricks = append(bricks, path)
			}
		}
		group.Go(func() error { return do(ctx, i, s, bricks) })
	}
	return group.Wait()
}
