package gluster_test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// plant fills a volume with what copies may lose: owners, modes, attributes, ACLs, hard links, odd names.
func plant(t *testing.T, root string) {
	t.Helper()
	for name, content := range map[string]string{
		"plain": "plain", "a/b/c/deep": "deep", "a/large": strings.Repeat("0123456789abcdef", 1<<16), "empty": "",
		"x,y/comma": "comma", "colon:/file": "colon", "sp ace/new\nline": "line", "ünï/ça": "non-ASCII", "program": "#!/bin/sh",
	} {
		write(t, filepath.Join(root, name), content)
	}
	at := func(name string) string { return filepath.Join(root, name) }
	must(t, os.Link(at("a/large"), at("x,y/linked")))
	must(t, os.Link(at("colon:/file"), at("colon:/again")))
	must(t, os.Symlink("../plain", at("a/link")))
	must(t, os.Lchown(at("a/b"), 1234, 4321))
	must(t, os.Lchown(at("plain"), 1001, 1002))
	must(t, os.Lchown(at("a/link"), 7, 8))
	must(t, unix.Chmod(at("program"), 0o4755))
	must(t, unix.Chmod(at("a/b"), 0o2770))
	must(t, unix.Lsetxattr(at("plain"), "user.note", []byte("kept"), 0))
	must(t, unix.Lsetxattr(at("a"), "user.folder", []byte{0, 1, 2}, 0))
	must(t, unix.Mkfifo(at("fifo"), 0o600))
	must(t, os.Truncate(at("empty"), 1<<20))
}

func write(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(content), 0o644))
}

// copyTree is what a capture and a restore do together, by tar.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	script := `tar --create --file=- --xattrs --xattrs-include='user.*' --acls --numeric-owner --sparse -C "$0" . |
		tar --extract --file=- --xattrs --xattrs-include='user.*' --acls --numeric-owner --preserve-permissions -C "$1"`
	out, err := exec.CommandContext(t.Context(), "/bin/sh", "-euc", script, from, to).CombinedOutput()
	if err != nil {
		t.Fatalf("copy: %v: %s", err, out)
	}
}

// picture describes every file: what is equal in two trees is equal in their pictures.
func picture(t *testing.T, root string) map[string]string {
	t.Helper()
	all, links := map[string]string{}, map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%v %d:%d", info.Mode(), stat.Uid, stat.Gid)
		if !info.IsDir() && stat.Nlink > 1 {
			if links[stat.Ino] == "" {
				links[stat.Ino] = name
			}
			line += " like " + links[stat.Ino]
		}
		switch {
		case info.Mode().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %x %d", sha256.Sum256(content), info.ModTime().UnixNano())
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		all[name] = line + attributes(path)
		return nil
	})
	must(t, err)
	return all
}

func attributes(path string) string {
	names := make([]byte, 4096)
	n, err := unix.Llistxattr(path, names)
	if err != nil {
		return ""
	}
	var lines []string
	for name := range strings.SplitSeq(string(names[:n]), "\x00") {
		if !strings.HasPrefix(name, "user.") {
			continue
		}
		value := make([]byte, 4096)
		if n, err := unix.Lgetxattr(path, name, value); err == nil {
			lines = append(lines, fmt.Sprintf(" %s=%x", name, value[:n]))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func samePictures(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	if len(want) < 10 {
		t.Errorf("%s: there are only %d files", what, len(want))
	}
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s: %q is %q, want %q", what, name, got[name], want[name])
		}
	}
	if !slices.Equal(slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want))) {
		t.Errorf("%s: the names are %q, want %q", what, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}
