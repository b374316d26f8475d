package mem

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// treeCopy is a file volume's tree, copied to become a snapshot's or another volume's.
type treeCopy struct {
	draft   *draft
	instant time.Time
	folders map[string]string
	kept    bool
}

// end removes a copy that nobody kept.
func (c *treeCopy) end() {
	if c != nil && !c.kept {
		c.draft.discard()
	}
}

// keepIf keeps the copy when it is the tree that something refers to.
func (c *treeCopy) keepIf(tree string) {
	if c != nil && c.draft.id == tree {
		c.kept = true
		c.draft.keep()
	}
}

// newTree makes an empty tree.
func (b *Backend) newTree(ctx context.Context) (*draft, error) {
	unlock, err := b.keeper.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return b.trees.draft()
}

func (b *Backend) pathOf(tree string) string { return filepath.Join(b.trees.dir, tree) }

// copyTree copies a tree with owners, modes, times, links and attributes, and takes its digests.
func (b *Backend) copyTree(ctx context.Context, tree string) (*treeCopy, error) {
	d, err := b.newTree(ctx)
	if err != nil {
		return nil, err
	}
	c := &treeCopy{draft: d, instant: b.now()}
	if err := copyFiles(ctx, b.pathOf(tree), d.path); err != nil {
		d.discard()
		return nil, err
	}
	if c.folders, err = digests(ctx, d.path); err != nil {
		d.discard()
		return nil, err
	}
	return c, nil
}

func copyFiles(ctx context.Context, from, to string) error {
	var trouble bytes.Buffer
	command := exec.CommandContext(ctx, "cp", "-a", "--reflink=auto", "--", from+"/.", to)
	command.Stderr = &trouble
	err := command.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ended(ctx, "copy files")
	}
	if _, lost := os.Stat(from); lost != nil {
		return broken("copy files", from, lost)
	}
	return fault.Newf("copy files", fault.Transient, from, "%w: %s", err, bytes.TrimSpace(trouble.Bytes()))
}

// withTree gives a file volume its tree, a copy of source unless that is empty, and commits it.
func (b *Backend) withTree(ctx context.Context, v *volume, source string, commit func(*state) error) error {
	if v.Content != providers.ContentFiles {
		return b.commitNew(ctx, commit, func() {})
	}
	var d *draft
	if source == "" {
		fresh, err := b.newTree(ctx)
		if err != nil {
			return err
		}
		d = fresh
	} else {
		c, err := b.copyTree(ctx, source)
		if err != nil {
			return err
		}
		d = c.draft
	}
	v.Tree = d.id
	kept := false
	err := b.commitNew(ctx, commit, func() { kept = true })
	if !kept {
		d.discard()
		return err
	}
	d.keep()
	return err
}

// commitNew is update; it calls saved when commit wanted the change and it is durable.
func (b *Backend) commitNew(ctx context.Context, commit func(*state) error, saved func()) error {
	changed := false
	err := b.update(ctx, func(s *state) error {
		err := commit(s)
		changed = err == nil
		return err
	})
	if err == nil && changed {
		saved()
	}
	return err
}

// digests are those of every folder's entries: names, modes, and the content of files.
func digests(ctx context.Context, root string) (map[string]string, error) {
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if ctx.Err() != nil {
			return ended(ctx, "read files")
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		all[relative], err = digestOf(path)
		return err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

func digestOf(folder string) (string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return "", broken("read files", folder, err)
	}
	sum := sha256.New()
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			return "", broken("read files", folder, err)
		}
		fmt.Fprintf(sum, "%q %v\n", entry.Name(), info.Mode())
		if err := addContent(sum, filepath.Join(folder, entry.Name()), info); err != nil {
			return "", broken("read files", folder, err)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func addContent(to io.Writer, path string, info fs.FileInfo) error {
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err == nil {
			fmt.Fprintf(to, "-> %q\n", target)
		}
		return err
	case info.Mode().IsRegular():
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		fmt.Fprintf(to, "%d %d\n", info.Size(), info.ModTime().UnixNano())
		_, err = io.Copy(to, file)
		return err
	}
	return nil
}
