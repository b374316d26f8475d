package machine

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"

	"github.com/musterdr/muster/providers/fault"
)

func archive(t *testing.T, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &out
}

func TestHostileArchives(t *testing.T) {
	for _, c := range []struct {
		name    string
		headers []tar.Header
		text    string // of the error; empty means that it is fine
	}{
		{"ordinary", []tar.Header{{Name: "./etc/", Typeflag: tar.TypeDir}, {Name: "./etc/a..b"}, {Name: "./lib", Typeflag: tar.TypeSymlink, Linkname: "usr/lib"}}, ""},
		{"parent", []tar.Header{{Name: "./a/../../etc/shadow"}}, "leads out of the root"},
		{"absolute", []tar.Header{{Name: "/etc/shadow"}}, "leads out of the root"},
		{"through a link", []tar.Header{{Name: "./a", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, {Name: "./a/shadow"}}, "through the link /a"},
		{"through a link further up", []tar.Header{{Name: "./a", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, {Name: "./a/b/c"}}, "through the link /a"},
		{"hard link", []tar.Header{{Name: "./a", Typeflag: tar.TypeLink, Linkname: "../../etc/shadow"}}, "it is a hard link to"},
	} {
		err := checkArchive(archive(t, c.headers...))
		switch {
		case c.text == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.text != "" && (!fault.Is(err, fault.Corrupt) || !strings.Contains(err.Error(), c.text)):
			t.Errorf("%s: %v, want %q", c.name, err, c.text)
		}
	}
	if err := checkArchive(strings.NewReader(strings.Repeat("no tar at all ", 100))); !fault.Is(err, fault.Corrupt) {
		t.Error(err)
	}
}
