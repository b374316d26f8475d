package repository

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/musterdr/muster/providers/fault"
)

// hostileSegment stores a segment as no archive of ours has it, and an archive around it.
func (f fixture) hostileSegment(t *testing.T, folder string, headers ...tarHeader) Archive {
	t.Helper()
	var body bytes.Buffer
	for _, h := range headers {
		body.Write(h.encode())
		body.Write(make([]byte, h.size+padding(h.size)))
	}
	stored, err := f.Put(t.Context(), "hostile", &body)
	must(t, err)
	w, err := f.newIndexWriter(t.Context(), ArchiveConfig{})
	must(t, err)
	session, err := f.session(t.Context())
	must(t, err)
	whole := newObjectIndex(t.Context(), session, f.Repository, "hostile")
	defer whole.abort()
	add := func(folder string, stored Object) {
		must(t, w.add(indexLine{Folder: fileName(folder), Count: 1, Size: stored.Size, SHA256: stored.SHA256}))
		must(t, whole.entry(stored.Size, string(stored.ID)))
	}
	if folder != "." {
		root, err := f.Put(t.Context(), "root", bytes.NewReader(tarHeader{path: "./", kind: tarFolder, sparse: -1}.encode()))
		must(t, err)
		add(".", root)
	}
	add(folder, stored)
	end, err := f.Put(t.Context(), "end", bytes.NewReader(make([]byte, 2*tarBlock)))
	must(t, err)
	must(t, whole.entry(end.Size, string(end.ID)))
	id, err := whole.commit()
	must(t, err)
	index, digest, err := w.commit(ArchiveStats{})
	must(t, err)
	return Archive{Object: Object{ID: id, Size: whole.size}, Index: index, Digest: digest}
}

func TestHostileArchives(t *testing.T) {
	f := newFixture(t)
	file := func(path string) tarHeader { return tarHeader{path: path, kind: tarRegular, sparse: -1} }
	for name, archive := range map[string]Archive{
		"up":            f.hostileSegment(t, ".", file("../out")),
		"absolute":      f.hostileSegment(t, ".", file("/out")),
		"folder up":     f.hostileSegment(t, ".", tarHeader{path: "../out/", kind: tarFolder, sparse: -1}),
		"other folder":  f.hostileSegment(t, "a", file("b/x")),
		"deeper":        f.hostileSegment(t, ".", file("a/x")),
		"link up":       f.hostileSegment(t, ".", tarHeader{path: "x", kind: tarLink, target: "../out", sparse: -1}),
		"absolute link": f.hostileSegment(t, ".", tarHeader{path: "x", kind: tarLink, target: "/etc/passwd", sparse: -1}),
	} {
		if _, err := f.RestoreArchive(t.Context(), archive, filepath.Join(t.TempDir(), "target"), RestoreOptions{}); !fault.Is(err, fault.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Run("through a link", func(t *testing.T) {
		// A symbolic link in the target, or from the archive, stands where a folder should be.
		outside, target := t.TempDir(), t.TempDir()
		must(t, os.Symlink(outside, filepath.Join(target, "a")))
		archive := f.hostileSegment(t, "a", tarHeader{path: "a/", kind: tarFolder, mode: 0o700, sparse: -1}, file("a/x"))
		if _, err := f.RestoreArchive(t.Context(), archive, target, RestoreOptions{NonEmpty: true}); err == nil {
			t.Error("it was followed")
		}
		if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
			t.Errorf("%v, %v", left, err)
		}
	})
}

// TestArchiveDamage flips a bit of a base's and of an archive's content.
func TestArchiveDamage(t *testing.T) {
	f := newFixture(t)
	root := t.TempDir()
	must(t, os.WriteFile(filepath.Join(root, "file"), randomBytes(t, 3<<20), 0o600))
	archive, _ := f.archive(t, ArchiveConfig{Root: root})
	path := packs(t, f.dir)[0]
	content, err := os.ReadFile(path)
	must(t, err)
	content[len(content)/2] ^= 1
	must(t, os.WriteFile(path, content, 0o600))
	r := reopen(t, f.config)
	if _, err := r.RestoreArchive(t.Context(), archive, filepath.Join(t.TempDir(), "target"), RestoreOptions{}); !fault.Is(err, fault.Corrupt) {
		t.Fatal(err)
	}
	must(t, os.Remove(path))
	if _, _, err := r.ArchiveFolder(t.Context(), ArchiveConfig{Root: root, Base: &archive}); !fault.Is(err, fault.Corrupt) {
		t.Fatal(err)
	}
	missing := archive
	missing.Index.ID = "00112233445566778899aabbccddeeff"
	if _, _, err := r.ArchiveFolder(t.Context(), ArchiveConfig{Root: root, Base: &missing}); !fault.Is(err, fault.Corrupt) {
		t.Fatal(err)
	}
}

// FuzzArchiveIndex reads an index that anybody may have written.
func FuzzArchiveIndex(f *testing.F) {
	f.Add([]byte(`{"format":"muster-files","version":1}` + "\n" + `{"folder":".","count":1,"size":512,"sha256":"` + strings.Repeat("0", 64) + `"}` + "\n" +
		`{"link":"x","inode":1,"target":""}` + "\n" + `{"end":{"folders":1,"entries":1,"digest":"x"}}` + "\n"))
	f.Add([]byte(`{"format":"muster-files","version":2}` + "\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		in, err := newIndexReader(bytes.NewReader(content))
		for err == nil {
			var line indexLine
			line, err = in.next()
			if err == nil && line.Folder != nil && *line.Folder != "." && !fs.ValidPath(strings.ToValidUTF8(string(*line.Folder), "x")) {
				t.Fatalf("folder %q", *line.Folder)
			}
		}
		if !errors.Is(err, io.EOF) && fault.KindOf(err) != fault.Corrupt && fault.KindOf(err) != fault.Unsupported {
			t.Fatal(err)
		}
	})
}
