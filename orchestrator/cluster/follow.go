package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterdr/muster/providers/fault"
)

// Resolve finds the resource that serves a kind of an apiVersion such as "apps/v1". Errors: NotFound
// when the server doesn't serve the apiVersion now, which a new definition may change; Invalid when it
// serves it without that kind.
func (c *Client) Resolve(ctx context.Context, apiVersion, kind string) (Resource, error) {
	version, err := schema.ParseGroupVersion(apiVersion)
	if err != nil || version.Version == "" {
		return Resource{}, fault.Newf("find kind", fault.Invalid, apiVersion, `want an apiVersion such as "v1" or "apps/v1"`)
	}
	path := "/apis/" + url.PathEscape(version.Group) + "/" + url.PathEscape(version.Version)
	if version.Group == "" {
		path = "/api/" + url.PathEscape(version.Version)
	}
	var list metav1.APIResourceList
	if err := c.call(ctx, request{method: "GET", path: path}, &list); err != nil {
		if statusCode(err) == 404 {
			return Resource{}, fault.Newf("find kind", fault.NotFound, apiVersion, "%s does not serve it", c.server)
		}
		return Resource{}, err
	}
	var kinds []string
	for _, r := range list.APIResources {
		if strings.Contains(r.Name, "/") || !slices.Contains(r.Verbs, "list") {
			continue // subresources, and requests such as TokenReview
		}
		if r.Kind == kind {
			return Resource{
				Group: version.Group, Version: version.Version, Name: r.Name, Kind: r.Kind, Namespaced: r.Namespaced,
				Creatable: slices.Contains(r.Verbs, "create"), Watchable: slices.Contains(r.Verbs, "watch"),
			}, nil
		}
		kinds = append(kinds, r.Kind)
	}
	slices.Sort(kinds)
	return Resource{}, fault.Newf("find kind", fault.Invalid, kind, "%s has no such kind; it has %s", apiVersion, strings.Join(slices.Compact(kinds), ", "))
}

// Subset chooses objects of one resource. With neither Name nor Selector it is all of them.
type Subset struct {
	Namespace string // empty means all
	Name      string
	Selector  string // of labels: "app=web,tier!=test"
}

func (s Subset) query() url.Values {
	query := url.Values{}
	if s.Name != "" {
		query.Set("fieldSelector", fields.OneTermEqualSelector("metadata.name", s.Name).String())
	}
	if s.Selector != "" {
		query.Set("labelSelector", s.Selector)
	}
	return query
}

// Look is told what is selected now, sorted by namespace and name, and reports whether it has seen
// enough. It must not change the objects.
type Look func(objects []Object) (enough bool, err error)

// watchFor is how long the server keeps one watch open.
const watchFor = 5 * time.Minute

// Follow lists what is selected, then follows its changes, and calls look each time, until look has
// seen enough or fails. Changes that come fast are looked at together. A resource that can't be
// watched is listed every pause, and a watch that ends is begun anew after it. managedFields are
// left out.
func (c *Client) Follow(ctx context.Context, r Resource, s Subset, pause time.Duration, look Look) error {
	for {
		held, revision, err := c.selected(ctx, r, s)
		if err != nil {
			return err
		}
		if enough, err := look(held.sorted()); enough || err != nil {
			return err
		}
		if r.Watchable {
			if enough, err := c.watch(ctx, r, s, revision, held, look); enough || err != nil {
				return err
			}
		}
		if err := sleep(ctx, pause); err != nil {
			return classify("follow", r.Name+"."+groupDir(r.Group), err)
		}
	}
}

// selection holds objects by namespace/name.
type selection map[string]Object

func (held selection) put(o Object) {
	remove(o, "metadata", "managedFields")
	held[o.namespace()+"/"+o.name()] = o
}

func (held selection) sorted() []Object {
	var objects []Object
	for _, key := range slices.Sorted(maps.Keys(held)) {
		objects = append(objects, held[key])
	}
	return objects
}

// selected lists the objects, page by page, and the revision that they were listed at.
func (c *Client) selected(ctx context.Context, r Resource, s Subset) (selection, string, error) {
	held := selection{}
	query := s.query()
	query.Set("limit", strconv.Itoa(pageSize))
	for {
		var page struct {
			Metadata listMeta `json:"metadata"`
			Items    []Object `json:"items"`
		}
		if err := c.call(ctx, request{method: "GET", path: r.path(s.Namespace), query: query}, &page); err != nil {
			return nil, "", err
		}
		for _, o := range page.Items {
			o["apiVersion"], o["kind"] = r.apiVersion(), r.Kind // lists leave them out
			held.put(o)
		}
		if page.Metadata.Continue == "" {
			return held, page.Metadata.ResourceVersion, nil
		}
		query.Set("continue", page.Metadata.Continue)
	}
}

// change is one event of a watch.
type change struct {
	Type   string `json:"type"`
	Object Object `json:"object"`
}

// watch follows changes until look has seen enough. Without that it returns when the watch ends,
// whatever ended it: a list tells what came of it.
func (c *Client) watch(ctx context.Context, r Resource, s Subset, revision string, held selection, look Look) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	query := s.query()
	query.Set("watch", "1")
	query.Set("resourceVersion", revision)
	query.Set("timeoutSeconds", strconv.Itoa(int(watchFor/time.Second)))
	response, err := c.send(ctx, request{method: "GET", path: r.path(s.Namespace), query: query})
	if err != nil {
		switch statusCode(err) {
		case 410, 504: // the revision is too old by now
			return false, nil
		case 403, 405: // whoever may list need not be allowed to watch
			return false, nil
		}
		return false, err
	}
	defer response.Body.Close()
	changes := make(chan change, 256)
	go readChanges(ctx, response.Body, changes)
	for first := range changes {
		if !held.apply(first) {
			return false, nil
		}
		for waiting := len(changes); waiting > 0; waiting-- {
			if !held.apply(<-changes) {
				return false, nil
			}
		}
		if enough, err := look(held.sorted()); enough || err != nil {
			return enough, err
		}
	}
	return false, nil
}

func readChanges(ctx context.Context, body io.Reader, into chan<- change) {
	defer close(into)
	decoder := json.NewDecoder(body)
	decoder.UseNumber()
	for {
		var next change
		if decoder.Decode(&next) != nil {
			return
		}
		select {
		case into <- next:
		case <-ctx.Done():
			return
		}
	}
}

// apply reports false for an event that ends a watch.
func (held selection) apply(next change) bool {
	switch next.Type {
	case "ADDED", "MODIFIED":
		held.put(next.Object)
	case "DELETED":
		delete(held, next.Object.namespace()+"/"+next.Object.name())
	default: // ERROR, or nothing, since the stream has ended
		return false
	}
	return true
}

// String tells the selection for people: "web in shop", "app=web", "all".
func (s Subset) String() string {
	what := s.Name
	if what == "" {
		what = s.Selector
	}
	if what == "" {
		what = "all"
	}
	if s.Namespace == "" {
		return what
	}
	return fmt.Sprintf("%s in %s", what, s.Namespace)
}
