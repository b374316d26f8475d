package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
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
	// Include and Exclude are path.Match patterns of namespaces; no Include means all. Objects of no
	// namespace are captured in any case, but for the Namespace objects that these leave out.
	Include, Exclude []string
	// ExcludeKinds are resources to leave out: "resource.group", or "resource" of the legacy group,
	// with patterns.
	ExcludeKinds []string
	Progress     Progress
	Now          func() time.Time
}

// Captured is what a capture put into the store.
type Captured struct {
	Layer      repository.NamespacesLayer
	Cluster    repository.Tree // files below cluster/
	Namespaces repository.Tree // files below namespaces/
	Index      repository.Object
}

// Capture lists every kind at one exact revision and stores each object as a YAML file, and their
// index. It holds the index in memory, but never more than a few objects.
//
// Errors: Transient when the revision was compacted or the server does not answer, Denied when a
// kind may not be listed.
func Capture(ctx context.Context, config CaptureConfig) (Captured, error) {
	filter, err := newFilter(config.Include, config.Exclude, config.ExcludeKinds)
	if err != nil {
		return Captured{}, err
	}
	taken := config.Now()
	if config.Revision == 0 {
		if config.Revision, err = config.Client.newestRevision(ctx); err != nil {
			return Captured{}, err
		}
	}
	resources, left, err := config.Client.Discover(ctx)
	if err != nil {
		return Captured{}, err
	}
	resources, excluded := filter.resources(resources)
	c := &capture{config: config, filter: filter, left: append(left, excluded...)}
	if err := c.run(ctx, resources); err != nil {
		return Captured{}, err
	}
	return c.finish(ctx, taken)
}

// capture is one capture at work.
type capture struct {
	config CaptureConfig
	filter *filter

	mu      sync.Mutex
	total   int64
	entries []Entry
	left    []repository.LeftOut
}

type item struct {
	resource Resource
	raw      json.RawMessage
}

func (c *capture) run(ctx context.Context, resources []Resource) error {
	items := make(chan item, waiting)
	writers, writing := errgroup.WithContext(ctx)
	for range 2 * runtime.GOMAXPROCS(0) {
		writers.Go(func() error { return c.write(writing, items) })
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
	revision := c.config.Revision
	if r.Foreign {
		revision = 0
	}
	err := c.config.Client.list(ctx, r, revision, c.expect, func(raw json.RawMessage) error {
		select {
		case items <- item{resource: r, raw: raw}:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	subject := r.Name + "." + groupDir(r.Group)
	switch code := statusCode(err); {
	case err == nil && r.Foreign:
		c.leave(subject, foreignKind)
	case code == 404 || code == 405:
		c.leave(subject, "the server stopped serving it while the capture ran")
	case code >= 500 && r.Foreign:
		c.leave(subject, "the API server that keeps it does not answer: "+err.Error())
	case err != nil:
		return fault.New("capture", fault.KindOf(err), subject, err)
	}
	return nil
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

// write stores items until there are no more.
func (c *capture) write(ctx context.Context, items <-chan item) error {
	var buffer []byte
	for item := range items {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		object, err := decodeObject(item.raw)
		if err != nil {
			return fault.New("capture", fault.Corrupt, item.resource.Name, err)
		}
		if c.filter.skips(item.resource, object) {
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
	object["apiVersion"], object["kind"] = r.apiVersion(), r.Kind // lists of built-in kinds leave both out
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
		Digest: IndexDigest(c.entries), Left: c.left,
		Index: repository.Content{Path: IndexPath, Size: captured.Index.Size, SHA256: captured.Index.SHA256},
	}
	return captured, nil
}

// IndexPath is where the index stands in a recovery point.
const IndexPath = "objects.jsonl"

func (c *capture) trees(ctx context.Context) (cluster, namespaces repository.Tree, err error) {
	var own, spaced []repository.File
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
