package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"

	"github.com/musterdr/muster/providers/fault"
)

const (
	pageSize = 500
	// pageAttempts bounds how often a page is asked for again when its answer breaks off.
	pageAttempts = 4
)

// listMeta is the metadata of one page.
type listMeta struct {
	ResourceVersion    string `json:"resourceVersion"`
	Continue           string `json:"continue"`
	RemainingItemCount int64  `json:"remainingItemCount"`
}

// newestRevision returns the newest revision of the cluster's etcd.
func (c *Client) newestRevision(ctx context.Context) (int64, error) {
	return c.revisionOf(ctx, "/api/v1/namespaces")
}

// revisionOf returns the newest revision by the list of one collection.
func (c *Client) revisionOf(ctx context.Context, path string) (int64, error) {
	var page struct {
		Metadata listMeta `json:"metadata"`
	}
	query := url.Values{"limit": {"1"}} // no resourceVersion: a read of the quorum
	if err := c.call(ctx, request{method: "GET", path: path, query: query}, &page); err != nil {
		return 0, err
	}
	revision, err := strconv.ParseInt(page.Metadata.ResourceVersion, 10, 64)
	if err != nil {
		return 0, fault.New("read newest revision", fault.Unsupported, c.server, err)
	}
	return revision, nil
}

// scope is what one list reads of a resource.
type scope struct {
	Resource
	namespace string // empty means all
	selector  string // of labels; empty means all
}

func (s scope) subject() string {
	if s.namespace == "" {
		return s.Resource.subject()
	}
	return s.Resource.subject() + inNamespace + s.namespace
}

// query asks for one page: of the revision, or, once there is one, where the token of the page before
// it points. The token holds the revision; the server refuses both together.
func (s scope) query(revision int64, token string) url.Values {
	query := url.Values{"limit": {strconv.Itoa(pageSize)}}
	if s.selector != "" {
		query.Set("labelSelector", s.selector)
	}
	switch {
	case token != "":
		query.Set("continue", token)
	case revision > 0:
		query.Set("resourceVersion", strconv.FormatInt(revision, 10))
		query.Set("resourceVersionMatch", "Exact")
	}
	return query
}

// list reads a resource of all namespaces: see listScope.
func (c *Client) list(ctx context.Context, r Resource, revision int64, remaining func(int64), each func(json.RawMessage) error) error {
	return c.listScope(ctx, scope{Resource: r}, revision, remaining, each)
}

// listScope reads a resource page by page and calls each with every item, in the server's order, as soon
// as it has been read; each lists nothing itself, for it holds one of the places that lists share. With a
// revision it reads the state at exactly that one; with 0 the newest state. remaining, which may be nil,
// is told after the first page how many items are to come.
func (c *Client) listScope(ctx context.Context, s scope, revision int64, remaining func(int64), each func(json.RawMessage) error) error {
	token := ""
	for first := true; first || token != ""; first = false {
		if err := c.pages.enter(ctx); err != nil {
			return classify("list", s.subject(), err)
		}
		meta, err := c.page(ctx, s, s.query(revision, token), each)
		c.pages.leave(err == nil)
		if err != nil {
			return expired(s, revision, err)
		}
		if first && remaining != nil && meta.RemainingItemCount > 0 {
			remaining(meta.RemainingItemCount)
		}
		token = meta.Continue
	}
	return nil
}

// expired names the remedy of a revision that etcd has compacted away.
func expired(s scope, revision int64, err error) error {
	if code := statusCode(err); code != 410 {
		return err
	}
	return fault.Newf("list", fault.Transient, s.subject(),
		"revision %d was compacted before every kind was listed: take the etcd snapshot again: %w", revision, err)
}

// page reads one page. An answer that breaks off is asked for again and the items that were handed
// on already are passed over: the same revision or token gives the same items.
func (c *Client) page(ctx context.Context, s scope, query url.Values, each func(json.RawMessage) error) (listMeta, error) {
	repeatable := query.Has("resourceVersion") || query.Has("continue")
	seen := 0
	for attempt := 1; ; attempt++ {
		position := 0
		meta, err := c.readPage(ctx, s, query, func(item json.RawMessage) error {
			if position++; position <= seen {
				return nil
			}
			seen++
			return each(item)
		})
		var broken *brokenAnswer
		if !errors.As(err, &broken) {
			return meta, err
		}
		if !repeatable && seen > 0 || attempt == pageAttempts || ctx.Err() != nil {
			return meta, classify("list", s.subject(), broken.error)
		}
		if err := sleep(ctx, backoff(attempt)); err != nil {
			return meta, classify("list", s.subject(), err)
		}
	}
}

// brokenAnswer is an answer that ended too early.
type brokenAnswer struct{ error }

func (c *Client) readPage(ctx context.Context, s scope, query url.Values, each func(json.RawMessage) error) (listMeta, error) {
	response, err := c.send(ctx, request{method: "GET", path: s.path(s.namespace), query: query})
	if err != nil {
		return listMeta{}, err
	}
	defer response.Body.Close()
	return parsePage(response.Body, each)
}

// parsePage reads a list without holding more than one item of it. Built-in kinds put the metadata
// before the items, custom resources after them.
func parsePage(body io.Reader, each func(json.RawMessage) error) (listMeta, error) {
	var meta listMeta
	decoder := json.NewDecoder(body)
	if err := expect(decoder, json.Delim('{')); err != nil {
		return meta, err
	}
	for decoder.More() {
		field, err := decoder.Token()
		if err != nil {
			return meta, &brokenAnswer{err}
		}
		switch field {
		case "metadata":
			err = broken(decoder.Decode(&meta))
		case "items":
			err = parseItems(decoder, each)
		default:
			var skipped json.RawMessage
			err = broken(decoder.Decode(&skipped))
		}
		if err != nil {
			return meta, err
		}
	}
	return meta, expect(decoder, json.Delim('}'))
}

func parseItems(decoder *json.Decoder, each func(json.RawMessage) error) error {
	open, err := decoder.Token()
	if err != nil {
		return &brokenAnswer{err}
	}
	if open == nil { // "items": null
		return nil
	}
	if open != json.Delim('[') {
		return &brokenAnswer{fmt.Errorf("items is %v, not a list", open)}
	}
	for decoder.More() {
		var item json.RawMessage
		if err := decoder.Decode(&item); err != nil {
			return &brokenAnswer{err}
		}
		if err := each(item); err != nil {
			return err
		}
	}
	return expect(decoder, json.Delim(']'))
}

func expect(decoder *json.Decoder, want json.Delim) error {
	got, err := decoder.Token()
	if err == nil && got != want {
		err = fmt.Errorf("the answer has %v in place of %v", got, want)
	}
	return broken(err)
}

func broken(err error) error {
	if err == nil {
		return nil
	}
	return &brokenAnswer{err}
}
