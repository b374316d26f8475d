package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

const (
	// readers is how many kinds are listed at once.
	readers = 6
	// waiting is how many items may stand between readers and writers; together with one page's
	// buffers it bounds what a capture holds in memory.
	waiting = 256
	// captureTries bounds how often a capture begins again at a newer revision.
	captureTries = 3
)

// Store receives a capture's content. *repository.Repository is one.
type Store interface {
	Put(ctx context.Context, name string, content io.Reader) (repository.Object, error)
	PutTree(ctx context.Context, files []repository.File) (repository.Tree, error)
}

// Progress is told how far an operation is; orchestrator.Progress is one.
type Progress interface {
	Total(bytes, items int64)
	Add(bytes, items int64)
	Status(text string)
}

// CaptureConfig says what to capture.
type CaptureConfig struct {
	Client *Client
	Store  Store
	// Revision is the one to list at; 0 means the newest.
	Revision int64
	Selection
	// SkipDenied leaves out, with the reason, what the client's identity may not list. Without it that is
	// an error.
	SkipDenied bool
	Progress   Progress
	Now        func() time.Time
}

// Captured is what a capture put into the store.
type Captured struct {
	Layer      repository.NamespacesLayer
	Cluster    repository.Tree // files below cluster/
	Namespaces repository.Tree // files below namespaces/
	Index      repository.Object
}

// Capture lists every selected kind at one exact revision and stores each object as a YAML file, and
// their index. It holds the index in memory, but never more than a few objects.
//
// Without a revision of its own to keep to, it begins again at a newer one when etcd compacts the one
// it reads at.
//
// Errors: Transient when the revision was compacted or the server does not answer, Denied when a
// kind may not be listed.
func Capture(ctx context.Context, config CaptureConfig) (Captured, error) {
	filter, err := config.filter()
	if err != nil {
		return Captured{}, err
	}
	discovered, left, err := config.Client.Discover(ctx)
	if err != nil {
		return Captured{}, err
	}
	resources, excluded := filter.resources(discovered)
	left = append(left, excluded...)
	for try := 1; ; try++ {
		c := &capture{config: config, filter: filter, needs: newNeeds(resolverOf(discovered)), left: slices.Clone(left)}
		captured, err := c.take(ctx, resources)
		if statusCode(err) != http.StatusGone || config.Revision > 0 {
			return captured, err
		}
		if try == captureTries {
			return Captured{}, fault.Newf("capture", fault.Transient, config.Client.server,
				"etcd compacted %d revisions before every kind was listed: select less, or raise kube-apiserver's --etcd-compaction-interval: %w", try, err)
		}
		config.Progress.Status("etcd compacted the revision: beginning again at a newer one")
	}
}

// capture is one capture at work.
type capture struct {
	config CaptureConfig
	filter *filter
	needs  *needs

	mu      sync.Mutex
	total   int64
	entries []Entry
	left    []repository.LeftOut
}

type item struct {
	resource Resource
	raw      json.RawMessage
}

// take captures at the wanted revision, or at the newest.
func (c *capture) take(ctx context.Context, resources []Resource) (Captured, error) {
	taken := c.config.Now()
	if c.config.Revision == 0 {
		var err error
		if c.config.Revision, err = c.newestRevision(ctx, resources); err != nil {
			return Captured{}, err
		}
	}
	if err := c.run(ctx, resources); err != nil {
		return Captured{}, err
	}
	return c.finish(ctx, taken)
}

// newestRevision asks the first kind that the identity may list where it is to be listed: who captures
// some kinds or namespaces need not be able to list others.
func (c *capture) newestRevision(ctx context.Context, resources []Resource) (int64, error) {
	err := fault.Newf("read newest revision", fault.Invalid, c.config.Client.server, "nothing that the cluster itself keeps is selected: select more")
	for _, r := range resources {
		if r.Foreign {
			continue
		}
		var revision int64
		revision, err = c.config.Client.revisionOf(ctx, r.path(c.filter.scopes(r)[0].namespace))
		if statusCode(err) != http.StatusForbidden {
			return revision, err
		}
	}
	return 0, err
}

// run reads every resource. What goes with selected objects is known when all of these have been
// seen, so that objects of no namespace are then read twice: what is not needed is never stored.
func (c *capture) run(ctx context.Context, resources []Resource) error {
	if !c.filter.needed() {
		return c.pass(ctx, resources, c.selects)
	}
	spaced, own := split(resources)
	if err := c.pass(ctx, spaced, c.selects); err != nil {
		return err
	}
	if err := c.pass(ctx, own, c.offers); err != nil {
		return err
	}
	needed := c.needs.needed()
	return c.pass(ctx, kindsOf(own, needed), func(_ context.Context, key Key, _ Object) (bool, error) { return needed[key], nil })
}

func split(resources []Resource) (namespaced, own []Resource) {
	for _, r := range resources {
		if r.Namespaced {
			namespaced = append(namespaced, r)
		} else {
			own = append(own, r)
		}
	}
	return namespaced, own
}

// kindsOf keeps the resources of which there is a key.
func kindsOf(resources []Resource, keys map[Key]bool) []Resource {
	kinds := map[Key]bool{}
	for key := range keys {
		kinds[Key{Group: key.Group, Resource: key.Resource}] = true
	}
	return slices.DeleteFunc(slices.Clone(resources), func(r Resource) bool { return !kinds[Key{Group: r.Group, Resource: r.Name}] })
}

// choice reports whether an object is to be stored.
type choice func(ctx context.Context, key Key, object Object) (bool, error)

// selects is the choice of the plan.
func (c *capture) selects(ctx context.Context, key Key, object Object) (bool, error) {
	skipped, err := c.filter.skips(ctx, key, object)
	if err == nil && !skipped && c.filter.needed() {
		c.needs.selected(key, object)
	}
	return !skipped, err
}

// offers stores nothing: it looks what an object of no namespace goes with.
func (c *capture) offers(_ context.Context, key Key, object Object) (bool, error) {
	if !c.filter.skipsKey(key) {
		c.needs.offered(key, object)
	}
	return false, nil
}

// pass lists resources and stores what is chosen.
func (c *capture) pass(ctx context.Context, resources []Resource, chosen choice) error {
	items := make(chan item, waiting)
	writers, writing := errgroup.WithContext(ctx)
	for range 2 * runtime.GOMAXPROCS(0) {
		writers.Go(func() error { return c.write(writing, items, chosen) })
	}
	listing, reading := errgroup.WithContext(writing) // a writer that fails ends the readers
	listing.SetLimit(readers)
	for _, resource := range resources {
		listing.Go(func() error { return c.read(reading, resource, items) })
	}
	readErr := listing.Wait()
	close(items)
	// A writer's failure is the cause of the readers' cancellation, so it goes first.
	if err := writers.Wait(); err != nil {
		return err
	}
	return readErr
}

// read lists one resource into items.
func (c *capture) read(ctx context.Context, r Resource, items chan<- item) error {
	for _, scope := range c.filter.scopes(r) {
		err := c.list(ctx, scope, items)
		if reason := c.passedOver(scope, err); reason != "" {
			c.leave(scope.subject(), reason)
		} else if err != nil {
			return fault.New("capture", fault.KindOf(err), scope.subject(), err)
		}
	}
	return nil
}

// passedOver is the reason why the result of a list stands among what was left out, empty when it
// does not.
func (c *capture) passedOver(s scope, err error) string {
	switch code := statusCode(err); {
	case err == nil && s.Foreign:
		return foreignKind
	case code == http.StatusForbidden && c.config.SkipDenied:
		return "the identity of the capture may not list it"
	case code == http.StatusNotFound || code == http.StatusMethodNotAllowed:
		return "the server stopped serving it while the capture ran"
	case code >= 500 && s.Foreign:
		return "the API server that keeps it does not answer: " + err.Error()
	}
	return ""
}

func (c *capture) list(ctx context.Context, s scope, items chan<- item) error {
	revision := c.config.Revision
	if s.Foreign {
		revision = 0
	}
	return c.config.Client.listScope(ctx, s, revision, c.expect, func(raw json.RawMessage) error {
		select {
		case items <- item{resource: s.Resource, raw: raw}:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
}

func (c *capture) leave(subject, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = append(c.left, repository.LeftOut{Subject: subject, Reason: reason})
}

func (c *capture) expect(items int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total += items
	c.config.Progress.Total(0, c.total)
}

// write stores the chosen items until there are no more.
func (c *capture) write(ctx context.Context, items <-chan item, chosen choice) error {
	var buffer []byte
	for item := range items {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		object, err := decodeObject(item.raw)
		if err != nil {
			return fault.New("capture", fault.Corrupt, item.resource.Name, err)
		}
		object["apiVersion"], object["kind"] = item.resource.apiVersion(), item.resource.Kind // lists of built-in kinds leave both out
		wanted, err := chosen(ctx, item.resource.key(object), object)
		if err != nil {
			return err
		}
		if !wanted {
			continue
		}
		buffer, err = c.store(ctx, item.resource, object, buffer[:0])
		if err != nil {
			return err
		}
	}
	return nil
}

// store puts one object; it returns its buffer for the next one.
func (c *capture) store(ctx context.Context, r Resource, object Object, buffer []byte) ([]byte, error) {
	entry := Entry{
		Group: r.Group, Version: r.Version, Resource: r.Name, Kind: r.Kind,
		Namespace: object.namespace(), Name: object.name(), UID: object.uid(),
		ResourceVersion: object.text("metadata", "resourceVersion"), Digest: Digest(object),
	}
	buffer = appendYAML(buffer, stored(object))
	put, err := c.config.Store.Put(ctx, entry.Path(), bytes.NewReader(buffer))
	if err != nil {
		return nil, fault.New("capture", fault.KindOf(err), entry.Path(), err)
	}
	entry.ID, entry.Size = put.ID, put.Size
	// Objects that no storage holds have no creation time; their files have none either then.
	entry.created, _ = time.Parse(time.RFC3339, object.text("metadata", "creationTimestamp"))
	c.config.Progress.Add(put.Size, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries = append(c.entries, entry)
	return buffer, nil
}

// finish writes trees and index.
func (c *capture) finish(ctx context.Context, taken time.Time) (Captured, error) {
	SortEntries(c.entries)
	var captured Captured
	var err error
	if captured.Cluster, captured.Namespaces, err = c.trees(ctx); err != nil {
		return Captured{}, err
	}
	captured.Index, err = c.putIndex(ctx)
	if err != nil {
		return Captured{}, err
	}
	sortLeft(c.left)
	captured.Layer = repository.NamespacesLayer{
		Revision: c.config.Revision, Taken: taken, Kinds: summarize(c.entries), Objects: len(c.entries),
		Digest: IndexDigest(c.entries), Selection: c.config.recorded(), Left: c.left,
		Index: repository.Content{Path: IndexPath, Size: captured.Index.Size, SHA256: captured.Index.SHA256},
	}
	return captured, nil
}

// IndexPath is where the index stands in a recovery point.
const IndexPath = "objects.jsonl"

func (c *capture) trees(ctx context.Context) (cluster, namespaces repository.Tree, err error) {
	var own []repository.File
	spaced := make([]repository.File, 0, len(c.entries)) // nearly all
	for _, entry := range c.entries {
		file := repository.File{
			Path: entry.pathInTree(), Object: repository.Object{ID: entry.ID, Size: entry.Size},
			Mode: 0o600, ModTime: entry.created,
		}
		if entry.Namespace == "" {
			own = append(own, file)
		} else {
			spaced = append(spaced, file)
		}
	}
	if cluster, err = c.config.Store.PutTree(ctx, own); err != nil {
		return cluster, namespaces, fmt.Errorf("store cluster/: %w", err)
	}
	if namespaces, err = c.config.Store.PutTree(ctx, spaced); err != nil {
		return cluster, namespaces, fmt.Errorf("store namespaces/: %w", err)
	}
	return cluster, namespaces, nil
}

func (c *capture) putIndex(ctx context.Context) (repository.Object, error) {
	reader, writer := io.Pipe()
	go func() { writer.CloseWithError(WriteIndex(writer, c.entries)) }()
	defer reader.Close() // ends the writer when the store gave up
	object, err := c.config.Store.Put(ctx, IndexPath, reader)
	if err != nil {
		return object, fmt.Errorf("store %s: %w", IndexPath, err)
	}
	return object, nil
}
