package gluster_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	lab "github.com/musterdr/muster/testenv/gluster"
)

// TestChanges finds exactly the folders that were changed, glusterfind's blind spots among them.
func TestChanges(t *testing.T) {
	c := need(t)
	t.Parallel()
	p := configured(t, c, nil)
	v := create(t, p, 0, fast(map[string]string{"replica": "2"}))
	_, err := c.CLI(t.Context(), "volume", "set", v.ID, "changelog.rollover-time", "2")
	must(t, err)
	live := attach(t, p, v, false)
	at := func(name string) string { return filepath.Join(live.Path, name) }
	plant(t, live.Path)
	for _, name := range []string{"still/file", "moved/in/file", "from/file", "to/other", "gone/file", "linked/file", "mode/file", "attribute/file", "ends:/one"} {
		write(t, at(name), "before")
	}
	must(t, os.Link(at("ends:/one"), at("still/two")))
	// What was written just now may stand in a changelog that reaches beyond the mark: await its end.
	planted := attach(t, p, v, true)
	changed(t, p, providers.ChangesRequest{Volume: v.Handle, Since: planted.Mark, Until: planted.Mark})
	since := attach(t, p, v, true)

	write(t, at("x,y/comma"), "after")                                      // glusterfind cuts the path in two
	must(t, os.Rename(at("moved"), at("a/moved")))                          // all below has other paths
	must(t, os.Rename(at("from/file"), at("to/file")))                      // both folders
	must(t, os.Remove(at("gone/file")))                                     //
	must(t, os.Link(at("linked/file"), at("gone/link")))                    // glusterfind then overlooks the next:
	write(t, at("linked/file"), "after")                                    //
	must(t, os.Chmod(at("mode/file"), 0o600))                               //
	must(t, unix.Lsetxattr(at("attribute/file"), "user.x", []byte("y"), 0)) //
	write(t, at("ends:/one"), "after")                                      // and so still/two
	write(t, at("sp ace/new\nline"), "after")                               //
	write(t, at("fresh/folder/file"), "new")
	until := attach(t, p, v, true)

	request := providers.ChangesRequest{Volume: v.Handle, Since: since.Mark, Until: until.Mark}
	got := changed(t, p, request)
	want := []string{
		".", "a", "a/moved", "a/moved/in", "attribute", "ends:", "fresh", "fresh/folder", "from", "gone", "linked", "mode", "sp ace", "still", "to", "x,y",
	}
	if !slices.Equal(got, want) {
		t.Errorf("changed: %q\nwant:    %q", got, want)
	}
	// What was written a moment ago is named again, and nothing else.
	if again := changed(t, p, providers.ChangesRequest{Volume: v.Handle, Since: until.Mark, Until: attach(t, p, v, true).Mark}); !isSubset(again, want) {
		t.Errorf("nothing was written, and %q has changed", again)
	}
	agreesWithGlusterfind(t, c, v, since.Mark, until.Mark, got)

	// Nobody knows what happened while the changelog was off.
	for _, state := range []string{"off", "on"} {
		_, err := c.CLI(t.Context(), "volume", "set", v.ID, "changelog.changelog", state)
		must(t, err)
		refused(t, p.Changes(t.Context(), request, func([]string) error { return nil }), fault.NotFound)
	}
	request.Since = "some other provider's mark"
	refused(t, p.Changes(t.Context(), request, func([]string) error { return nil }), fault.NotFound)
}

func isSubset(some, all []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(all, s) })
}

func changed(t *testing.T, p providers.Provider, r providers.ChangesRequest) []string {
	t.Helper()
	var all []string
	must(t, p.Changes(t.Context(), r, func(some []string) error {
		all = append(all, some...)
		return nil
	}))
	return all
}

// agreesWithGlusterfind holds the answer to the tool that reads the same changelogs: what it names, where it
// names it whole, is among the folders. It may name nothing: it counts in whole seconds, and leaves out
// changelogs that begin or end at the edge.
func agreesWithGlusterfind(t *testing.T, c *lab.Cluster, v providers.Volume, since, until string, got []string) {
	t.Helper()
	second := func(mark, field string) string {
		_, rest, _ := strings.Cut(mark, `"`+field+`":`)
		return rest[:strings.IndexAny(rest, ",}")]
	}
	script := "for more in 0 1 2 3; do glusterfind query " + v.ID + " /root/changed --since-time " + second(since, "from") +
		" --end-time $((" + second(until, "until") + " + more)) --disable-partial >/dev/null && cat /root/changed; done"
	out, err := c.Exec(t.Context(), c.Peers[0].Name, script)
	must(t, err)
	for line := range strings.Lines(out) {
		kind, path, _ := strings.Cut(strings.TrimSpace(line), " ")
		if kind != "NEW" && kind != "DELETE" {
			continue
		}
		folder := filepath.Dir(strings.ReplaceAll(path, "%20", " "))
		if !slices.Contains(got, folder) {
			t.Errorf("glusterfind says %q; %q is not among the folders", line, folder)
		}
	}
}
