package cluster

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/musterdr/muster/providers/fault"
)

// stub is a client of an API server that gives the given answers, one a request. A real server
// cannot be made to break off in the middle of a page.
func stub(t *testing.T, answers ...func(http.ResponseWriter, *http.Request)) *Client {
	t.Helper()
	next := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if next == len(answers) {
			t.Errorf("one request too many: %s", r.URL)
			return
		}
		next++
		answers[next-1](w, r)
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() {
		if next != len(answers) {
			t.Errorf("%d of %d requests came", next, len(answers))
		}
	})
	return &Client{server: server.URL, http: server.Client(), pages: newTurnstile(1)}
}

func answer(text string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
}

// cut promises more bytes than it sends.
func cut(text string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "9999")
		fmt.Fprint(w, text)
	}
}

func refuse(code int, headers ...string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"kind":"Status","status":"Failure","message":"refused","code":%d}`, code)
	}
}

func TestListGoesOnWhereAnAnswerBrokeOff(t *testing.T) {
	var queries []string
	seen := func(next func(http.ResponseWriter, *http.Request)) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			queries = append(queries, r.URL.RawQuery)
			next(w, r)
		}
	}
	client := stub(t,
		seen(answer(`{"metadata":{"continue":"token","remainingItemCount":3},"items":[1,2]}`)),
		seen(cut(`{"metadata":{},"items":[3,4`)),
		seen(refuse(http.StatusTooManyRequests, "Retry-After", "0")),
		seen(answer(`{"metadata":{},"items":[3,4,5]}`)))
	var items []string
	var remaining int64
	err := client.list(t.Context(), Resource{Version: "v1", Name: "secrets"}, 77, func(n int64) { remaining += n }, func(raw json.RawMessage) error {
		items = append(items, string(raw))
		return nil
	})
	if err != nil || strings.Join(items, "") != "12345" || remaining != 3 {
		t.Errorf("items %v, %d remaining after the first page, error %v", items, remaining, err)
	}
	if !strings.Contains(queries[0], "resourceVersion=77&resourceVersionMatch=Exact") || strings.Contains(queries[1], "resourceVersion") {
		t.Errorf("queries are %v", queries)
	}
}

func TestListErrors(t *testing.T) {
	for _, c := range []struct {
		name    string
		answers []func(http.ResponseWriter, *http.Request)
		kind    fault.Kind
		text    string
	}{
		{"compacted at once", []func(http.ResponseWriter, *http.Request){refuse(410)}, fault.Transient, "take the etcd snapshot again"},
		{"compacted between pages", []func(http.ResponseWriter, *http.Request){
			answer(`{"metadata":{"continue":"c"},"items":[]}`), refuse(410)}, fault.Transient, "revision 77 was compacted"},
		{"forbidden", []func(http.ResponseWriter, *http.Request){refuse(403)}, fault.Denied, "refused"},
		{"unauthorized", []func(http.ResponseWriter, *http.Request){refuse(401)}, fault.Denied, "refused"},
		{"gone", []func(http.ResponseWriter, *http.Request){refuse(404)}, fault.NotFound, "refused"},
		{"failing", []func(http.ResponseWriter, *http.Request){refuse(500)}, fault.Transient, "refused"},
	} {
		client := stub(t, c.answers...)
		err := client.list(t.Context(), Resource{Version: "v1", Name: "secrets"}, 77, nil, func(json.RawMessage) error { return nil })
		if !fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: error is %v", c.name, err)
		}
	}
}

func TestConnectRefusesWhatItCannotUse(t *testing.T) {
	secret := "c2VjcmV0LWtleQ"
	for _, c := range []struct {
		name   string
		access Access
		kind   fault.Kind
	}{
		{"no such file", Access{KubeconfigFile: t.TempDir() + "/none"}, fault.NotFound},
		{"not a kubeconfig", Access{Kubeconfig: []byte("users: [{user: {client-key-data: " + secret)}, fault.Invalid},
		{"no such context", Access{Kubeconfig: []byte("apiVersion: v1\nkind: Config\n"), Context: "x"}, fault.NotFound},
	} {
		_, err := Connect(c.access)
		if !fault.Is(err, c.kind) || strings.Contains(fmt.Sprint(err), secret) {
			t.Errorf("%s: error is %v", c.name, err)
		}
	}
}

func TestWrongAuthorityIsDenied(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(answer("{}")))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it complains of the handshake
	server.StartTLS()
	defer server.Close()
	client := &Client{server: server.URL, http: &http.Client{}, pages: newTurnstile(1)}
	if _, err := client.newestRevision(t.Context()); !fault.Is(err, fault.Denied) {
		t.Errorf("error is %v", err)
	}
}
