package repository

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/musterdr/muster/providers/fault"
)

// describe says everything about a folder that an archive must keep; it shares no code with archives.
func describe(root string) (map[string]string, error) {
	out := map[string]string{}
	links := map[uint64][]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var s unix.Stat_t
		if err := unix.Lstat(path, &s); err != nil {
			return err
		}
		text := fmt.Sprintf("%o %d:%d %d.%d %x", s.Mode, s.Uid, s.Gid, s.Mtim.Sec, s.Mtim.Nsec, s.Rdev)
		switch s.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(content)
			text += fmt.Sprintf(" %d %s", s.Size, hex.EncodeToString(sum[:]))
			links[s.Ino] = append(links[s.Ino], path)
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " -> " + target
		}
		names := make([]byte, 1<<16)
		n, err := unix.Llistxattr(path, names)
		if err != nil {
			return err
		}
		xattrs := strings.Split(string(names[:n]), "\x00")
		sort.Strings(xattrs)
		for _, name := range xattrs {
			if name == "" {
				continue
			}
			value := make([]byte, 1<<16)
			n, err := unix.Lgetxattr(path, name, value)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %s=%x", name, value[:n])
		}
		relative, err := filepath.Rel(root, path)
		out[relative] = text
		return err
	})
	for _, paths := range links {
		if len(paths) > 1 {
			for _, path := range paths {
				relative, _ := filepath.Rel(root, path)
				first, _ := filepath.Rel(root, paths[0])
				out[relative] += " same as " + first
			}
		}
	}
	return out, err
}

func difference(got, want map[string]string) string {
	var lines []string
	for path, text := range want {
		if got[path] != text {
			lines = append(lines, fmt.Sprintf("%q\n  want %s\n  got  %s", path, text, got[path]))
		}
	}
	for path, text := range got {
		if _, ok := want[path]; !ok {
			lines = append(lines, fmt.Sprintf("%q\n  extra %s", path, text))
		}
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

func must(t interface{ Fatal(...any) }, err error) {
	if err != nil {
		t.Fatal(err)
	}
}

// richTree makes a folder of everything that a filesystem can hold.
func richTree(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("owners and devices need root")
	}
	root := filepath.Join(t.TempDir(), "source")
	must(t, os.MkdirAll(filepath.Join(root, "a/b/c"), 0o755))
	must(t, os.MkdirAll(filepath.Join(root, "a-b"), 0o711)) // sorts between "a" and "a/b" as text
	must(t, os.MkdirAll(filepath.Join(root, "empty"), 0o1777))
	write := func(name string, content []byte) {
		must(t, os.WriteFile(filepath.Join(root, name), content, 0o640))
	}
	write("a/small", []byte("hello\n"))
	write("a/none", nil)
	write("a/b/two MiB", randomBytes(t, 2<<20))
	write("a/b/large", randomBytes(t, largeFile+12345))
	write("a-b/"+strings.Repeat("n", 255), []byte("long name"))
	write("a/b/c/bad\xff\xfename", []byte("not UTF-8"))
	write("a/b/c/new\nline \"quoted\"", []byte("odd"))
	write("a/setuid", []byte("#!"))
	must(t, os.Chown(filepath.Join(root, "a/setuid"), 3_000_000, 12)) // more than 21 bits
	must(t, unix.Chmod(filepath.Join(root, "a/setuid"), 0o6755))
	must(t, os.Link(filepath.Join(root, "a/small"), filepath.Join(root, "a/b/again")))
	must(t, os.Link(filepath.Join(root, "a/b/large"), filepath.Join(root, "a/b/c/large too")))
	must(t, os.Symlink("../../outside", filepath.Join(root, "a/link")))
	must(t, os.Symlink(strings.Repeat("deep/", 40), filepath.Join(root, "a/long link")))
	must(t, unix.Mkfifo(filepath.Join(root, "a/fifo"), 0o600))
	must(t, unix.Mknod(filepath.Join(root, "a/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	for name, size := range map[string]int64{"a/sparse": 12 << 20, "a/little sparse": 1 << 20, "a/holes alone": 128 << 10} {
		f, err := os.Create(filepath.Join(root, name))
		must(t, err)
		must(t, f.Truncate(size))
		if name != "a/holes alone" {
			_, err = f.WriteAt(randomBytes(t, 4096), size/2)
			must(t, err)
		}
		must(t, f.Close())
	}
	must(t, unix.Lsetxattr(filepath.Join(root, "a/small"), "user.od=d%25", []byte("one\x00two\n"), 0))
	must(t, unix.Lsetxattr(filepath.Join(root, "a/b"), "user.folder", []byte("yes"), 0))
	must(t, unix.Lsetxattr(filepath.Join(root, "a/link"), "trusted.link", []byte("itself"), 0))
	// An ACL: user::rw-, user:1234:r--, group::r--, mask::r--, other::---.
	acl := []byte{2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 0xd2, 4, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 0x10, 0, 4, 0, 255, 255, 255, 255, 0x20, 0, 0, 0, 255, 255, 255, 255}
	must(t, unix.Lsetxattr(filepath.Join(root, "a/small"), "system.posix_acl_access", acl, 0))
	must(t, os.Chtimes(filepath.Join(root, "a/none"), time.Time{}, time.Unix(-5, 300)))
	must(t, os.Chtimes(filepath.Join(root, "a/b/c"), time.Time{}, time.Unix(1<<33, 999_999_999)))
	return root
}

func (f fixture) archive(t *testing.T, config ArchiveConfig) (Archive, ArchiveStats) {
	t.Helper()
	archive, stats, err := f.ArchiveFolder(t.Context(), config)
	must(t, err)
	must(t, f.Flush(t.Context()))
	return archive, stats
}

func restored(t *testing.T, r *Repository, archive Archive) string {
	t.Helper()
	target := filepath.Join(t.TempDir(), "target")
	_, err := r.RestoreArchive(t.Context(), archive, target, RestoreOptions{})
	must(t, err)
	return target
}

func TestArchiveKeepsEverything(t *testing.T) {
	root := richTree(t)
	want, err := describe(root)
	must(t, err)
	f := newFixture(t)
	archive, stats := f.archive(t, ArchiveConfig{Root: root})
	if stats.LeftCount != 0 || int(stats.Entries) != len(want) {
		t.Fatalf("%d entries: %+v", len(want), stats)
	}
	t.Run("restore", func(t *testing.T) {
		target := restored(t, f.Repository, archive)
		got, err := describe(target)
		must(t, err)
		if d := difference(got, want); d != "" {
			t.Fatal(d)
		}
		var s unix.Stat_t
		must(t, unix.Stat(filepath.Join(target, "a/sparse"), &s))
		if s.Blocks*512 > 1<<20 { // of 12 MiB
			t.Errorf("a sparse file came back with %d blocks", s.Blocks)
		}
		report, err := f.VerifyArchive(t.Context(), archive, target)
		if err != nil || report.DifferenceCount != 0 || int(report.Entries) != len(want) {
			t.Fatalf("verify: %+v, %v", report, err)
		}
		if _, err := f.RestoreArchive(t.Context(), archive, target, RestoreOptions{}); !fault.Is(err, fault.Exists) {
			t.Fatalf("restore into a full folder: %v", err)
		}
		must(t, os.WriteFile(filepath.Join(target, "a/b/two MiB"), []byte("cut off"), 0o600))
		must(t, os.Remove(filepath.Join(target, "a/link")))
		if _, err := f.RestoreArchive(t.Context(), archive, target, RestoreOptions{NonEmpty: true}); err != nil {
			t.Fatal(err)
		}
		if got, err = describe(target); err != nil || difference(got, want) != "" {
			t.Fatal(difference(got, want), err)
		}
	})
	t.Run("stock tar", func(t *testing.T) {
		opened, err := f.Open(t.Context(), archive.Object.ID)
		must(t, err)
		defer opened.Close()
		target := t.TempDir()
		command := exec.Command("tar", "-x", "--warning=no-timestamp", "--numeric-owner", "-p", "--xattrs", "--xattrs-include=*", "-C", target)
		command.Stdin = opened
		if out, err := command.CombinedOutput(); err != nil || len(out) > 0 {
			t.Fatalf("%s, %v", out, err)
		}
		got, err := describe(target)
		must(t, err)
		if d := difference(got, want); d != "" {
			t.Fatal(d)
		}
	})
	t.Run("nothing changed", func(t *testing.T) {
		again, stats := f.archive(t, ArchiveConfig{Root: root, Base: &archive})
		if again.Digest != archive.Digest || again.Object.ID != archive.Object.ID || stats.ReusedFolders != stats.Folders || stats.ReusedBytes+2*tarBlock != stats.Bytes {
			t.Fatalf("%+v", stats)
		}
		looked := false
		again, _ = f.archive(t, ArchiveConfig{Root: root, Base: &archive, Changed: func(string) bool { looked = true; return false }})
		if again.Object.ID != archive.Object.ID || !looked {
			t.Fatal("told that nothing has changed, it made another archive")
		}
	})
}

func TestVerifyArchiveFindsDifferences(t *testing.T) {
	root := richTree(t)
	f := newFixture(t)
	archive, _ := f.archive(t, ArchiveConfig{Root: root})
	for name, change := range map[string]func(target string) error{
		"a/small":     func(at string) error { return os.WriteFile(at, []byte("hellO\n"), 0o640) },
		"a/b/large":   func(at string) error { return unix.Lsetxattr(at, "user.more", []byte("x"), 0) },
		"a/link":      func(at string) error { return errors.Join(os.Remove(at), os.Symlink("elsewhere", at)) },
		"a/fifo":      os.Remove,
		"a/b/again":   func(at string) error { return errors.Join(os.Remove(at), os.WriteFile(at, []byte("hello\n"), 0o640)) },
		"empty":       func(at string) error { return os.Chmod(at, 0o700) },
		"empty/more":  func(at string) error { return os.WriteFile(at, nil, 0o640) },
		"a/b/c":       os.RemoveAll,
		"a/null":      func(at string) error { return os.Chown(at, 1, 1) },
		"a/b/two MiB": func(at string) error { return os.Truncate(at, 5) },
		"a/long link": func(at string) error { return errors.Join(os.Remove(at), os.Mkdir(at, 0o700)) },
	} {
		target := restored(t, f.Repository, archive)
		must(t, change(filepath.Join(target, name)))
		report, err := f.VerifyArchive(t.Context(), archive, target)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		found := false
		for _, d := range report.Differences {
			found = found || d.Subject == name
		}
		if !found {
			t.Errorf("%s: %+v", name, report)
		}
	}
}

// TestArchives changes a tree at random and compares what comes back.
func TestArchives(t *testing.T) {
	f := newFixture(t)
	names := []string{"a", "b", "a/a", "a/b", "a-", "a/a/x", "b/y", "b/z", "b/z/w"}
	rapid.Check(t, func(t *rapid.T) {
		root, err := os.MkdirTemp("", "muster-archive")
		must(t, err)
		defer os.RemoveAll(root)
		var base *Archive
		for capture := range rapid.IntRange(1, 4).Draw(t, "captures") {
			touched := map[string]bool{}
			for range rapid.IntRange(0, 8).Draw(t, "changes") {
				name := rapid.SampledFrom(names).Draw(t, "name")
				from := changeTree(t, root, name, names)
				// A provider may name more than what changed. Writing through one name of a file changes
				// it under the others, too.
				touch(touched, from)
				touch(touched, name)
				_ = filepath.WalkDir(filepath.Join(root, name), func(at string, _ fs.DirEntry, err error) error {
					if relative, relErr := filepath.Rel(root, at); err == nil && relErr == nil {
						touched[relative] = true // what a renamed folder holds has other paths now
					}
					return nil
				})
			}
			config := ArchiveConfig{Root: root, Base: base}
			if base != nil && rapid.Bool().Draw(t, "told") && !anyLinks(root) {
				config.Changed = func(folder string) bool { return touched[folder] }
			}
			archive, _, err := f.ArchiveFolder(context.Background(), config)
			must(t, err)
			must(t, f.Flush(context.Background()))
			want, err := describe(root)
			must(t, err)
			target := fmt.Sprintf("%s-%d", root, capture)
			defer os.RemoveAll(target)
			_, err = f.RestoreArchive(context.Background(), archive, target, RestoreOptions{})
			must(t, err)
			got, err := describe(target)
			must(t, err)
			if d := difference(got, want); d != "" {
				t.Fatal(d)
			}
			base = &archive
		}
	})
}

// touch adds a name and all folders that hold it.
func touch(touched map[string]bool, name string) {
	for ; name != "."; name = filepath.Dir(name) {
		touched[name] = true
	}
	touched["."] = true
}

func anyLinks(root string) bool {
	found := false
	_ = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		var s unix.Stat_t
		if err == nil && unix.Lstat(path, &s) == nil && s.Mode&unix.S_IFMT == unix.S_IFREG && s.Nlink > 1 {
			found = true
		}
		return nil
	})
	return found
}

// changeTree does something at name, and tells what else it has changed, or ".".
func changeTree(t *rapid.T, root, name string, names []string) string {
	at := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return "." // a file is in the way
	}
	info, err := os.Lstat(at)
	isFolder := err == nil && info.IsDir()
	switch rapid.IntRange(0, 6).Draw(t, "what") {
	case 0, 1:
		if !isFolder {
			content := make([]byte, rapid.IntRange(0, 20000).Draw(t, "size"))
			rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed"))).Read(content)
			must(t, os.WriteFile(at, content, 0o600))
		}
	case 2:
		must(t, os.RemoveAll(at))
	case 3:
		if err != nil {
			must(t, os.Mkdir(at, 0o700))
		}
	case 4:
		if err == nil {
			must(t, os.Chmod(at, fs.FileMode(rapid.IntRange(0o600, 0o777).Draw(t, "mode"))))
		}
	case 5:
		if other := filepath.Join(root, rapid.SampledFrom(names).Draw(t, "other")); err != nil {
			_ = os.Link(other, at) // it may not be there, or be a folder
		}
	case 6:
		if err != nil {
			other := rapid.SampledFrom(names).Draw(t, "other")
			_ = os.Rename(filepath.Join(root, other), at) // as above
			return other
		}
	}
	return "."
}

func TestArchiveExcludes(t *testing.T) {
	f := newFixture(t)
	root := t.TempDir()
	for _, name := range []string{"keep/a", "cache/b", "keep/cache/c", "keep/d.tmp", "only/this/e"} {
		must(t, os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o700))
		must(t, os.WriteFile(filepath.Join(root, name), []byte(name), 0o600))
	}
	first, _ := f.archive(t, ArchiveConfig{Root: root})
	// The base was made with other exclusions: it must not bring back what is excluded now.
	archive, _ := f.archive(t, ArchiveConfig{Root: root, Base: &first, Exclude: []string{"cache", "*.tmp", "./only/this"}})
	got, err := describe(restored(t, f.Repository, archive))
	must(t, err)
	var paths []string
	for path := range got {
		paths = append(paths, path)
	}
	sort.Strings(paths)
	if want := ". keep keep/a only"; strings.Join(paths, " ") != want {
		t.Fatalf("%v, want %s", paths, want)
	}
}
