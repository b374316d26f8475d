package cluster

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterdr/muster/providers/fault"
)

// transport answers in a server's place where answer gives something.
type transport struct {
	base   http.RoundTripper
	answer func(*http.Request) *http.Response
}

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if made := t.answer(r); made != nil {
		made.Request = r
		return made, nil
	}
	return t.base.RoundTrip(r)
}

func response(code int, body string) *http.Response {
	return &http.Response{StatusCode: code, Header: http.Header{"Retry-After": {"0"}}, Body: io.NopCloser(bytes.NewReader([]byte(body)))}
}

// between puts answer between the client and its server.
func between(client *Client, answer func(*http.Request) *http.Response) {
	client.http = &http.Client{Transport: transport{client.http.Transport, answer}}
}

// compacting says of the first lists of Secrets at a revision that etcd has compacted it: a real one
// compacts when it likes.
func compacting(client *Client, times int) (revisions func() []string) {
	var mu sync.Mutex
	var seen []string
	between(client, func(r *http.Request) *http.Response {
		revision := r.URL.Query().Get("resourceVersion")
		if !strings.HasSuffix(r.URL.Path, "/secrets") || revision == "" {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		if seen = append(seen, revision); len(seen) > times {
			return nil
		}
		return response(http.StatusGone, `{"kind":"Status","code":410,"reason":"Expired","message":"compacted"}`)
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return seen
	}
}

func TestCaptureBeginsAgainAfterACompaction(t *testing.T) {
	for _, c := range []struct {
		name         string
		compactions  int
		tied         bool
		tries        int
		kind         fault.Kind
		text, absent string
	}{
		{name: "once", compactions: 2, tries: 3},
		{name: "always", compactions: 9, tries: 3, kind: fault.Transient, text: "--etcd-compaction-interval"},
		{name: "at a snapshot's revision", compactions: 9, tied: true, tries: 1, kind: fault.Transient, text: "take the etcd snapshot again", absent: "interval"},
	} {
		client := connect(t, shared.Need(t))
		at, err := client.newestRevision(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		revisions := compacting(client, c.compactions)
		config := CaptureConfig{Client: client, Store: newMemory(), Progress: &counted{}, Now: time.Now, Selection: Selection{Kinds: []string{"secrets", "configmaps"}}}
		if c.tied {
			config.Revision = at
		}
		captured, err := Capture(t.Context(), config)
		if len(revisions()) != c.tries {
			t.Errorf("%s: it read at %v, want %d tries", c.name, revisions(), c.tries)
		}
		if c.text == "" {
			if err != nil || captured.Layer.Revision < at {
				t.Errorf("%s: it ended at revision %d with %v", c.name, captured.Layer.Revision, err)
			}
			continue
		}
		if !fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) || c.absent != "" && strings.Contains(err.Error(), c.absent) {
			t.Errorf("%s: error is %v", c.name, err)
		}
	}
}

// TestCaptureIsPatient: a server that is busy is asked less at once, and in the end for everything.
func TestCaptureIsPatient(t *testing.T) {
	client := connect(t, shared.Need(t))
	newNamespace(t, client, "patient")
	create(t, client, "/api/v1/namespaces/patient/secrets", secret("s", nil))
	var mu sync.Mutex
	refused := 0
	between(client, func(r *http.Request) *http.Response {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Query().Get("resourceVersion") == "" || refused == 4 {
			return nil
		}
		refused++
		return response(http.StatusTooManyRequests, `{}`)
	})
	captured, store := captureAll(t, client, func(c *CaptureConfig) { c.Include = []string{"patient"} })
	if _, found := store.index(t, captured)["core/secrets/patient/s"]; !found || refused != 4 {
		t.Errorf("captured is %v after %d refusals", found, refused)
	}
}
