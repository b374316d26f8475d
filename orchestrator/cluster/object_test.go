package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/musterdr/muster/providers/fault"
)

func TestDigestPassesOverVolatileFieldsAlone(t *testing.T) {
	base := `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a","uid":"u"},"data":{"k":"v"}}`
	digest := Digest(object(t, base))
	if want := sha256.Sum256([]byte(`{"apiVersion":"v1","data":{"k":"v"},"kind":"Secret","metadata":{"name":"a","uid":"u"}}`)); digest != hex.EncodeToString(want[:]) {
		t.Errorf("digest is %s", digest)
	}
	for _, c := range []struct {
		name, text string
		same       bool
	}{
		{"key order", `{"kind":"Secret","data":{"k":"v"},"metadata":{"uid":"u","name":"a"},"apiVersion":"v1"}`, true},
		{"status", strings.Replace(base, `"data"`, `"status":{"x":1},"data"`, 1), true},
		{"resourceVersion", strings.Replace(base, `"uid"`, `"resourceVersion":"9","uid"`, 1), true},
		{"generation", strings.Replace(base, `"uid"`, `"generation":9,"uid"`, 1), true},
		{"managedFields", strings.Replace(base, `"uid"`, `"managedFields":[{}],"uid"`, 1), true},
		{"uid", strings.Replace(base, `"uid":"u"`, `"uid":"w"`, 1), false},
		{"data", strings.Replace(base, `"v"}`, `"w"}`, 1), false},
		{"label", strings.Replace(base, `"uid"`, `"labels":{"a":"b"},"uid"`, 1), false},
		{"finalizer", strings.Replace(base, `"uid"`, `"finalizers":["f"],"uid"`, 1), false},
	} {
		o := object(t, c.text)
		before := toJSON(t, o)
		if same := Digest(o) == digest; same != c.same {
			t.Errorf("%s: same digest is %v, want %v", c.name, same, c.same)
		}
		if toJSON(t, o) != before {
			t.Errorf("%s: Digest changed the object", c.name)
		}
	}
}

func TestStoredDropsWhatCreateRefuses(t *testing.T) {
	o := object(t, `{"kind":"A","metadata":{"name":"a","uid":"u","resourceVersion":"9","generation":2,"managedFields":[{}]},"status":{"x":1}}`)
	want := `{"kind":"A","metadata":{"generation":2,"name":"a","uid":"u"},"status":{"x":1}}`
	if got := string(appendCanonical(nil, stored(o))); got != want {
		t.Errorf("stored %s, want %s", got, want)
	}
}

func TestFileNames(t *testing.T) {
	for name, want := range map[string]string{
		"web-0":              "web-0.yaml",
		"system:node":        "system%3Anode.yaml",
		".hidden":            "%2Ehidden.yaml",
		"a.b":                "a.b.yaml",
		"50%":                "50%25.yaml",
		"kube-root-ca.crt":   "kube-root-ca.crt.yaml",
		"under_score~tilde/": "under_score%7Etilde%2F.yaml",
	} {
		got := fileName(name)
		if got != want {
			t.Errorf("%q becomes %q, want %q", name, got, want)
		}
		back, err := url.PathUnescape(strings.TrimSuffix(got, ".yaml"))
		if err != nil || back != name {
			t.Errorf("%q reads back as %q: %v", got, back, err)
		}
	}
	one, two := fileName(strings.Repeat("a", 252)), fileName(strings.Repeat("a", 253))
	if len(one) > 255 || len(two) > 255 || one == two {
		t.Errorf("long names become %q and %q", one, two)
	}
	if strings.Contains(fileName(strings.Repeat(":", 200)), "%~") {
		t.Error("an escape was cut in two")
	}
}

func TestParsePage(t *testing.T) {
	for _, c := range []struct {
		name, text string
		items      int
		next       string
		broken     bool
	}{
		{"metadata first", `{"kind":"List","metadata":{"continue":"c"},"items":[{"a":1},{"a":2}]}`, 2, "c", false},
		{"metadata last", `{"apiVersion":"v1","items":[{"a":1}],"metadata":{"continue":"d"}}`, 1, "d", false},
		{"no items", `{"metadata":{},"items":null}`, 0, "", false},
		{"cut in an item", `{"metadata":{},"items":[{"a":1},{"a"`, 1, "", true},
		{"cut after an item", `{"metadata":{},"items":[{"a":1}`, 1, "", true},
		{"cut before the end", `{"metadata":{},"items":[{"a":1}]`, 1, "", true},
		{"not a list", `{"items":3}`, 0, "", true},
		{"empty", ``, 0, "", true},
	} {
		items := 0
		meta, err := parsePage(strings.NewReader(c.text), func(json.RawMessage) error { items++; return nil })
		var cut *brokenAnswer
		if items != c.items || meta.Continue != c.next || errors.As(err, &cut) != c.broken {
			t.Errorf("%s: %d items, continue %q, error %v", c.name, items, meta.Continue, err)
		}
	}
	refused := errors.New("refused")
	_, err := parsePage(strings.NewReader(`{"items":[{}]}`), func(json.RawMessage) error { return refused })
	if !errors.Is(err, refused) {
		t.Errorf("the callback's error became %v", err)
	}
}

func TestIndexReadsBackAndRefusesDisorder(t *testing.T) {
	entries := []Entry{
		{Group: "apps", Version: "v1", Resource: "deployments", Kind: "Deployment", Namespace: "b", Name: "x", Digest: "2"},
		{Version: "v1", Resource: "secrets", Kind: "Secret", Namespace: "a", Name: "<&>", Digest: "1", ID: "k1", Size: 7},
	}
	SortEntries(entries)
	var text strings.Builder
	if err := WriteIndex(&text, entries); err != nil {
		t.Fatal(err)
	}
	back, err := ReadIndex(strings.NewReader(text.String()))
	if err != nil || len(back) != 2 || back[0] != entries[0] || back[1] != entries[1] {
		t.Errorf("read back %v: %v", back, err)
	}
	lines := strings.SplitAfter(text.String(), "\n")
	for name, bad := range map[string]string{
		"order":     lines[1] + lines[0],
		"duplicate": lines[0] + lines[0],
		"cut":       text.String()[:len(text.String())-9],
		"garbage":   "x",
	} {
		if _, err := ReadIndex(strings.NewReader(bad)); !fault.Is(err, fault.Corrupt) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

func FuzzReadIndex(f *testing.F) {
	f.Add(`{"group":"","resource":"secrets","name":"a"}`)
	f.Add(`{"group":"apps","version":"v1","resource":"deployments","kind":"Deployment","namespace":"a","name":"b"}`)
	f.Add(`{"version":"..","resource":"a/b","kind":"K","namespace":"%2e%2e","name":"\u0000"}`)
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := ReadIndex(strings.NewReader(text))
		if err == nil && WriteIndex(io.Discard, entries) != nil {
			t.Error("cannot write what was read")
		}
		for _, entry := range entries {
			if entry.check() != nil {
				continue
			}
			at := objectPath(resourceOf(entry), entry.Key())
			parsed, err := url.ParseRequestURI(at)
			if err != nil || parsed.RawQuery != "" || path.Clean(parsed.EscapedPath()) != at {
				t.Errorf("%s is at %q: %v", entry.Key(), at, err)
			}
		}
	})
}
