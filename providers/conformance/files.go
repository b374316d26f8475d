package conformance

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

func fileCases() []trial {
	attaches := needs(providers.CapFiles)
	frozen := needs(providers.CapFiles, providers.CapSnapshot, providers.CapSnapFile)
	return []trial{
		{name: "attach", needs: attaches, of: files, body: attach},
		{name: "attach-snapshot", needs: needs(providers.CapFiles, providers.CapSnapshot), of: files, body: attachSnapshot},
		{name: "changes", needs: append(frozen, providers.CapChanges), of: files, body: changes},
	}
}

// The files that cases plant.
var garden = map[string]string{
	"top.txt": "at the top", "a/one": "1", "a/two": strings.Repeat("two ", 5000), "a/deep/er/leaf": "leaf", "empty": "", "b/three": "3",
}

func (c *scope) plant(root string) {
	for name, content := range garden {
		c.writeFile(filepath.Join(root, name), content)
	}
	if err := os.Symlink("one", filepath.Join(root, "a", "link")); err != nil {
		c.Errorf("plant a link: %v", err)
	}
}

func (c *scope) writeFile(path, content string) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		c.Fatalf("write into the volume: %v", err)
	}
	if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
		c.Fatalf("write into the volume: %v", err)
	}
}

// planted expects what was planted.
func (c *scope) planted(root string) {
	for name, want := range garden {
		c.fileHolds(filepath.Join(root, name), want)
	}
	if target, err := os.Readlink(filepath.Join(root, "a", "link")); err != nil || target != "one" {
		c.Errorf("the link a/link leads to %q (%v); expected %q", target, err, "one")
	}
	if info, err := os.Stat(filepath.Join(root, "top.txt")); err == nil && info.Mode().Perm() != 0o640 {
		c.Errorf("the mode of top.txt is %v; expected 0640", info.Mode().Perm())
	}
}

func (c *scope) fileHolds(path, want string) {
	got, err := os.ReadFile(path)
	if err != nil {
		c.Errorf("read from the volume: %v", err)
		return
	}
	if string(got) != want {
		c.Errorf("%s holds %d bytes that are not the %d that were written", filepath.Base(path), len(got), len(want))
	}
}

func (c *scope) attach(p providers.Provider, r providers.AttachRequest) providers.Attachment {
	if r.Token == "" {
		r.Token = c.token()
	}
	a, err := p.Attach(c.ctx, r)
	c.must("attach", err)
	c.keepMount(a)
	c.handleIsSane(a.Handle)
	if !filepath.IsAbs(a.Path) {
		c.Fatalf("attach: the path %q is not absolute", a.Path)
	}
	if info, err := os.Stat(a.Path); err != nil || !info.IsDir() {
		c.Fatalf("attach: the path %q is no folder (%v)", a.Path, err)
	}
	return a
}

// inside attaches a volume to write into it, or to look.
func (c *scope) inside(v providers.Volume, body func(root string)) { c.insideBy(c.provider, v, body) }

func (c *scope) insideBy(p providers.Provider, v providers.Volume, body func(root string)) {
	a := c.attach(p, providers.AttachRequest{Volume: v.Handle})
	body(a.Path)
	c.must("detach", p.Detach(c.ctx, a.Handle))
}

func attach(c *scope) {
	v := c.empty()
	r := providers.AttachRequest{Token: c.token(), Volume: v.Handle}
	a := c.attach(c.provider, r)
	c.plant(a.Path)
	if again := c.attach(c.provider, r); again.Path != a.Path {
		c.Errorf("the same token gave the folders %q and %q", a.Path, again.Path)
	}
	other := c.other()
	again := c.attach(other, r)
	c.planted(again.Path)
	if again.Path != a.Path {
		c.Errorf("the same token gave another client the folder %q, not %q", again.Path, a.Path)
	}
	c.must("detach by another client", other.Detach(c.ctx, again.Handle))
	c.must("detach again", c.provider.Detach(c.ctx, a.Handle))
	c.insideBy(other, v, c.planted)
	a = c.attach(c.provider, providers.AttachRequest{Volume: v.Handle, ReadOnly: true})
	c.planted(a.Path)
	c.must("detach", c.provider.Detach(c.ctx, a.Handle))
	c.attachRefuses(v)
}

func (c *scope) attachRefuses(v providers.Volume) {
	_, err := c.provider.Attach(c.ctx, providers.AttachRequest{Token: c.token()})
	c.refused("attach nothing", err, fault.Invalid)
	if !c.makes() {
		return
	}
	c.must("delete the volume", c.provider.DeleteVolume(c.ctx, v.Handle))
	_, err = c.provider.Attach(c.ctx, providers.AttachRequest{Token: c.token(), Volume: v.Handle})
	c.refused("attach a deleted volume", err, fault.NotFound)
}

func attachSnapshot(c *scope) {
	v := c.empty()
	c.inside(v, c.plant)
	n := c.snapshot(c.provider, v)
	if !c.info.Can(providers.CapSnapFile) {
		_, err := c.provider.Attach(c.ctx, providers.AttachRequest{Token: c.token(), Snapshot: n.Handle})
		c.refused("attach a snapshot, which the provider does not claim", err, fault.Unsupported)
		return
	}
	c.inside(v, func(root string) {
		c.writeFile(filepath.Join(root, "top.txt"), "changed")
		c.writeFile(filepath.Join(root, "a", "new"), "new")
		if err := os.Remove(filepath.Join(root, "b", "three")); err != nil {
			c.Errorf("remove a file: %v", err)
		}
	})
	r := providers.AttachRequest{Token: c.token(), Snapshot: n.Handle}
	a := c.attach(c.provider, r)
	c.planted(a.Path)
	if _, err := os.Stat(filepath.Join(a.Path, "a", "new")); err == nil {
		c.Errorf("the snapshot shows a file that is newer than it")
	}
	if a.Instant.IsZero() {
		c.Errorf("the attached snapshot has no instant")
	}
	again := c.attach(c.other(), r)
	if again.Path != a.Path || again.Mark != a.Mark {
		c.Errorf("the same token gave %q, mark %q, and %q, mark %q", a.Path, a.Mark, again.Path, again.Mark)
	}
	c.must("detach", c.provider.Detach(c.ctx, a.Handle))
	c.must("detach again", c.provider.Detach(c.ctx, a.Handle))
	c.must("delete the snapshot", c.provider.DeleteSnapshot(c.ctx, n.Handle))
	_, err := c.provider.Attach(c.ctx, providers.AttachRequest{Token: c.token(), Snapshot: n.Handle})
	c.refused("attach a deleted snapshot", err, fault.NotFound)
}

// marked is a snapshot's mark.
func (c *scope) marked(v providers.Volume) string {
	n := c.snapshot(c.provider, v)
	a := c.attach(c.provider, providers.AttachRequest{Snapshot: n.Handle})
	c.must("detach", c.provider.Detach(c.ctx, a.Handle))
	if a.Mark == "" {
		c.Fatalf("the attached snapshot has no mark")
	}
	return a.Mark
}

func changes(c *scope) {
	v := c.empty()
	c.inside(v, c.plant)
	first := c.marked(v)
	c.inside(v, func(root string) {
		c.writeFile(filepath.Join(root, "a", "deep", "er", "leaf"), "LEAF") // same size
		c.writeFile(filepath.Join(root, "new", "folder", "file"), "new")
		if err := os.Remove(filepath.Join(root, "b", "three")); err != nil {
			c.Errorf("remove a file: %v", err)
		}
	})
	second := c.marked(v)
	r := providers.ChangesRequest{Volume: v.Handle, Since: first, Until: second}
	for _, p := range []providers.Provider{c.provider, c.other()} {
		got := c.listChanges(p, r)
		for _, want := range []string{".", "a/deep/er", "b", "new", "new/folder"} {
			if !slices.Contains(got, want) {
				c.Errorf("folder %q has changed; the changes are %q", want, got)
			}
		}
	}
	err := c.provider.Changes(c.ctx, r, func([]string) error { return errStop })
	if !errors.Is(err, errStop) {
		c.Errorf("changes: an error of the callback became %v", err)
	}
	r.Since = "muster-no-such-mark"
	err = c.provider.Changes(c.ctx, r, func([]string) error { return nil })
	c.refused("changes since a mark that nobody knows", err, fault.NotFound)
}

func (c *scope) listChanges(p providers.Provider, r providers.ChangesRequest) []string {
	var got []string
	err := p.Changes(c.ctx, r, func(some []string) error {
		for _, folder := range some {
			if folder != filepath.Clean(folder) || filepath.IsAbs(folder) || strings.HasPrefix(folder, "..") {
				c.Errorf("changes: %q is no clean path relative to the attachment", folder)
			}
		}
		got = append(got, some...)
		return nil
	})
	c.must("list changes", err)
	return got
}
