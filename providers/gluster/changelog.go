package gluster

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// records are what changelogs tell, by IDs of files and folders (GFIDs).
type records struct {
	parents  map[string]bool // folders in which names came, went or changed
	subjects map[string]bool // what came, went or got another name
	contents map[string]bool // what was written to, or got other attributes
}

// changelogScript prints the IDs in the changelogs that were ended between two seconds. A changelog of
// version 1 in its second encoding is a line of header, and records that end with NUL: "D<id>", "M<id>…" for
// data and metadata; "E<id>" and then "<id of the folder>/<name>" for names, twice when one is changed. What
// is no such word, names with line breaks in them for one, at worst adds an ID that nothing has. Files
// without the header are named after a "!".
const changelogScript = `export LC_ALL=C
from=$1 until=$2
shift 2
id='[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}'
choose() {
	for brick; do
		find "$brick/.glusterfs/changelogs" -type f -name 'CHANGELOG.[0-9]*' || echo failed >&2
	done | while IFS= read -r f; do
		t=${f##*.}
		case $t in *[!0-9]*) continue ;; esac
		if [ "$t" -ge "$from" ] && [ "$t" -le "$until" ]; then printf '%s\000' "$f"; fi
	done
}
choose "$@" | xargs -0r grep -LaE '^GlusterFS Changelog \| version: v1\.[0-9]+ \| encoding : 2$' | sed 's/^/!/'
choose "$@" | xargs -0r cat | tr '\000' '\n' | grep -aoE "^([EDM]$id|$id/)" | sort -u
echo end`

// changelogs reads what all bricks have recorded from one second to another. A change of second s stands in
// a changelog that ends at s or later, and a rollover later at most.
func (p *pool) changelogs(ctx context.Context, op string, v volumeInfo, from, until int64) (records, error) {
	all := records{parents: map[string]bool{}, subjects: map[string]bool{}, contents: map[string]bool{}}
	if !v.on(changelogOn) {
		return all, cannotTell(op, v.Name, "its changelog is switched off")
	}
	last := until + v.rollover() + 1
	if err := p.awaitRollover(ctx, op, v, from, last); err != nil {
		return all, err
	}
	var mu sync.Mutex
	err := p.onBricks(ctx, v, func(ctx context.Context, _ int, s *shell, bricks []string) error {
		args := append([]string{strconv.FormatInt(from, 10), strconv.FormatInt(last, 10)}, bricks...)
		out, err := p.on(ctx, s, changelogScript, args...)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		return all.read(op, s.subject(), out)
	})
	return all, tellable(ctx, op, v.Name, err)
}

// tellable turns what stands between us and the changelogs into "cannot tell".
func tellable(ctx context.Context, op, volume string, err error) error {
	switch {
	case err == nil || fault.Is(err, fault.NotFound):
		return err
	case ctx.Err() != nil:
		return ended(ctx, op, volume)
	}
	return cannotTell(op, volume, "the changelogs of all bricks are needed: %w", err)
}

// awaitRollover waits until every brick has ended the changelog of the last second, and checks that all have
// written without a gap since the first.
func (p *pool) awaitRollover(ctx context.Context, op string, v volumeInfo, from, last int64) error {
	for {
		looks, err := p.look(ctx, v)
		if err != nil {
			return tellable(ctx, op, v.Name, err)
		}
		now := looks[0].now
		for _, l := range looks {
			if now = min(now, l.now); l.since == 0 || l.since > from {
				return cannotTell(op, v.Name, "a brick's changelog has a gap: it was switched off, or the brick is new")
			}
		}
		if now > last {
			return nil
		}
		providers.Report(ctx, providers.Progress{Text: "waiting until the changelog of the attachment's moment has ended"})
		timer := time.NewTimer(min(time.Duration(last-now+1)*time.Second, 3*time.Second))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ended(ctx, op, v.Name)
		}
	}
}

func (r records) read(op, peer string, out outcome) error {
	text, whole := bytes.CutSuffix(out.stdout, []byte("end\n"))
	if out.status != 0 || !whole || len(out.stderr) > 0 {
		return cannotTell(op, peer, "its changelogs cannot be read: %s", firstLines(out.stderr, []byte("the answer is cut off")))
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		id := strings.TrimSuffix(strings.TrimLeft(line, "EDM"), "/")
		switch {
		case line == "":
		case line[0] == '!' || !uuid.MatchString(id):
			return cannotTell(op, peer, "%.120q is no changelog of a known format", line)
		case line[0] == 'E':
			r.subjects[id] = true
		case line[0] == 'D' || line[0] == 'M':
			r.contents[id] = true
		default:
			r.parents[id] = true
		}
	}
	return nil
}

func parseNumbers(text []byte) ([]int64, error) {
	var numbers []int64
	for _, field := range bytes.Fields(text) {
		n, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

// mountID is what key makes.
var mountID = regexp.MustCompile(`^[0-9a-f]{12}$`)

// resolvers is how many IDs are asked for at once.
const resolvers = 8

// resolve turns records into folders, by asking the mount for the paths of IDs. What has no path any more was
// deleted, and its folder has a record of that.
func (m mountpoint) resolve(ctx context.Context, op string, all records) (map[string]bool, error) {
	f := &finder{root: m.path(), folders: map[string]bool{}}
	done := make(chan error, 1)
	go func() {
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(resolvers)
		for _, part := range []struct {
			ids  map[string]bool
			find func(context.Context, string) error
		}{{all.parents, f.folder}, {all.subjects, f.tree}, {all.contents, f.entry}} {
			for id := range part.ids {
				if ctx.Err() != nil {
					break
				}
				group.Go(func() error { return part.find(ctx, id) })
			}
		}
		done <- group.Wait()
	}()
	select {
	case err := <-done: // a mount whose bricks are gone may keep it waiting
		return f.folders, tellable(ctx, op, m.path(), err)
	case <-ctx.Done():
		return nil, ended(ctx, op, m.path())
	}
}

// finder collects folders.
type finder struct {
	root string

	mu      sync.Mutex
	folders map[string]bool
}

func (f *finder) add(folders ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, folder := range folders {
		f.folders[folder] = true
	}
}

// byID is the path under which the client shows a file by its ID (aux-gfid-mount).
func (f *finder) byID(id string) string { return filepath.Join(f.root, ".gfid", id) }

// folder adds a folder.
func (f *finder) folder(_ context.Context, id string) error {
	paths, isFolder, err := f.paths(id)
	if err == nil && isFolder {
		f.add(paths...)
	}
	return err
}

// entry adds the folders in which something stands; a folder's own attributes may be kept with either.
func (f *finder) entry(_ context.Context, id string) error {
	paths, isFolder, err := f.paths(id)
	for _, p := range paths {
		f.add(path.Dir(p))
		if isFolder {
			f.add(p)
		}
	}
	return err
}

// tree adds a folder that got another name, and all below it: everything there has other paths now.
func (f *finder) tree(ctx context.Context, id string) error {
	paths, isFolder, err := f.paths(id)
	if err != nil || !isFolder {
		return err
	}
	for _, top := range paths {
		err := filepath.WalkDir(filepath.Join(f.root, top), func(at string, entry fs.DirEntry, err error) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if err == nil && entry.IsDir() {
				relative, err := filepath.Rel(f.root, at)
				f.add(relative)
				return err
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// anonymous begins the path of a folder of the self-heal daemon's own, which no client may see
// (GF_REPLICATE_ANON_DIR, "Operation not permitted"): what lies there has no name for users any more.
const anonymous = "/.glusterfs-anonymous-inode-"

// paths are all of an ID, relative to the root ("." for itself); none when it is gone.
func (f *finder) paths(id string) (paths []string, isFolder bool, err error) {
	info, err := os.Lstat(f.byID(id))
	if gone(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	value, err := lgetxattr(f.byID(id), "glusterfs.gfidtopath")
	if gone(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	text := strings.TrimRight(value, "\x00")
	if strings.HasPrefix(text, anonymous) {
		return nil, false, nil
	}
	if !strings.HasPrefix(text, "/") {
		return nil, false, errors.New("gluster gives " + strconv.Quote(text) + " for a path")
	}
	if info.IsDir() {
		return []string{relative(text)}, true, nil
	}
	if strings.Count(text, ":/") > maxLinks {
		return nil, false, errors.New("a file has more links than can be told apart")
	}
	return f.links(id, text), false, nil
}

// maxLinks bounds the work for one file, which grows with the square.
const maxLinks = 100

func relative(absolute string) string { return path.Join(".", strings.TrimPrefix(absolute, "/")) }

// links splits the paths of a file's hard links. They are joined by ":", which may stand in a name too: then
// every stretch between two of them is tried.
func (f *finder) links(id, text string) []string {
	parts := strings.Split(text, ":/")
	if len(parts) == 1 {
		return []string{relative(text)}
	}
	var found []string
	for i := range parts {
		for j := i + 1; j <= len(parts); j++ {
			candidate := relative("/" + strings.TrimPrefix(strings.Join(parts[i:j], ":/"), "/"))
			if own, err := lgetxattr(filepath.Join(f.root, candidate), "glusterfs.gfid.string"); err == nil && strings.TrimRight(own, "\x00") == id {
				found = append(found, candidate)
			}
		}
	}
	return found
}

func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENODATA)
}

// lgetxattr reads an attribute of any length that the kernel lets through.
func lgetxattr(path, name string) (string, error) {
	value := make([]byte, 64<<10)
	n, err := unix.Lgetxattr(path, name, value)
	if err != nil {
		return "", &fs.PathError{Op: "read attribute " + name, Path: path, Err: err}
	}
	return string(value[:n]), nil
}
