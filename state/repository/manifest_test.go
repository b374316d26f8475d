package repository

import (
	"encoding/base64"
	"testing"

	"github.com/musterdr/muster/providers/fault"
)

// FuzzManifest reads a manifest and a signature that anybody may have written; and the same manifest as it
// would be if the key's owner had signed it.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"p","namespaces":{"index":{"path":"objects.jsonl","sha256":"00"}}}`), []byte("AAAA\n"))
	f.Add([]byte(`{"version":2,"id":"p","etcd":{},"machines":[{"devices":[{}]}],"volumes":[{"image":{"image":{"path":"a","sha256":"b"}}},{"files":null},{"mode":7}]}`), []byte(""))
	f.Add([]byte(`{"version":3,"id":"p"}`), []byte("not base64"))
	f.Add([]byte(`{"id":"q"}`), []byte("="))
	f.Add([]byte(`[]`), []byte("\x00"))
	key, err := NewKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, content, signature []byte) {
		if _, err := readManifest(key, "p", content, signature); !fault.Is(err, fault.Denied) {
			t.Fatalf("without the key: %v", err)
		}
		signed := []byte(base64.StdEncoding.EncodeToString(key.sign(content)))
		m, err := readManifest(key, "p", content, signed)
		switch {
		case err != nil && !fault.Is(err, fault.Corrupt) && !fault.Is(err, fault.Unsupported) && !fault.Is(err, fault.Denied):
			t.Fatal(err)
		case err == nil && (m.ID != "p" || m.Version > ManifestVersion):
			t.Fatalf("took %+v", m)
		}
		for path, content := range m.contents() {
			if content.Path != path || content.SHA256 == "" {
				t.Fatalf("%q is %+v", path, content)
			}
		}
	})
}
