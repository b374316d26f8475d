package repository

import (
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"path"
	"sort"
	"strings"
	"time"

	kopiafs "github.com/kopia/kopia/fs"
	"github.com/kopia/kopia/repo/object"
	"github.com/kopia/kopia/snapshot"
	"github.com/kopia/kopia/snapshot/snapshotfs"

	"github.com/musterdr/muster/providers/fault"
)

// Tree is a stored folder.
type Tree struct {
	ID    ID    `json:"id"`
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

// File is one file of a tree that is being made. Path is relative and slash-separated.
type File struct {
	Path    string
	Object  Object
	Mode    fs.FileMode
	ModTime time.Time
}

// node is a folder on its way into the repository.
type node struct {
	files   []File
	folders map[string]*node
}

// PutTree stores a folder of objects. A path that leads out of it, or stands there twice, is refused.
func (r *Repository) PutTree(ctx context.Context, files []File) (Tree, error) {
	root := &node{folders: map[string]*node{}}
	seen := map[string]bool{}
	for _, file := range files {
		if !fs.ValidPath(file.Path) || file.Path == "." || seen[file.Path] {
			return Tree{}, fault.Newf("store tree", fault.Invalid, file.Path, "want a relative path without dots, once")
		}
		seen[file.Path] = true
		root.add(strings.Split(file.Path, "/"), file)
	}
	entry, err := r.putNode(ctx, root)
	if err != nil {
		return Tree{}, err
	}
	return treeOf(entry), nil
}

func treeOf(entry *snapshot.DirEntry) Tree {
	return Tree{ID: ID(entry.ObjectID.String()), Files: int(entry.DirSummary.TotalFileCount), Bytes: entry.DirSummary.TotalFileSize}
}

func (n *node) add(parts []string, file File) {
	if len(parts) == 1 {
		n.files = append(n.files, file)
		return
	}
	child := n.folders[parts[0]]
	if child == nil {
		child = &node{folders: map[string]*node{}}
		n.folders[parts[0]] = child
	}
	child.add(parts[1:], file)
}

func (r *Repository) putNode(ctx context.Context, n *node) (*snapshot.DirEntry, error) {
	builder := &snapshotfs.DirManifestBuilder{}
	for _, file := range n.files {
		id, err := object.ParseID(string(file.Object.ID))
		if err != nil {
			return nil, fault.New("store tree", fault.Invalid, file.Path, err)
		}
		mode := file.Mode
		if mode == 0 {
			mode = 0o600
		}
		builder.AddEntry(&snapshot.DirEntry{
			Name: path.Base(file.Path), Type: snapshot.EntryTypeFile, Permissions: snapshot.Permissions(mode.Perm()),
			FileSize: file.Object.Size, ModTime: kopiafs.UTCTimestampFromTime(file.ModTime), ObjectID: id,
		})
	}
	names := make([]string, 0, len(n.folders))
	for name := range n.folders {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		entry, err := r.putNode(ctx, n.folders[name])
		if err != nil {
			return nil, err
		}
		entry.Name = name
		builder.AddEntry(entry)
	}
	return r.putFolder(ctx, builder)
}

// putFolder writes a folder in kopia's format and returns its entry, without a name.
func (r *Repository) putFolder(ctx context.Context, builder *snapshotfs.DirManifestBuilder) (*snapshot.DirEntry, error) {
	manifest := builder.Build(kopiafs.UTCTimestampFromTime(time.Unix(0, 0)), "")
	session, err := r.session(ctx)
	if err != nil {
		return nil, err
	}
	// "k" is kopia's prefix for the contents of folders.
	w := session.NewObjectWriter(ctx, object.WriterOptions{Description: "folder", Prefix: "k", Compressor: compressor, MetadataCompressor: compressor})
	defer w.Close() // it only frees memory
	if err := json.NewEncoder(w).Encode(manifest); err != nil {
		return nil, r.config.fail("store folder", err)
	}
	id, err := w.Result()
	if err != nil {
		return nil, r.config.fail("store folder", err)
	}
	return &snapshot.DirEntry{
		Type: snapshot.EntryTypeDirectory, Permissions: 0o700, ObjectID: id, DirSummary: manifest.Summary,
	}, nil
}

// folderBytes bounds a folder's listing; one entry takes some 200 bytes.
const folderBytes = 1 << 30

// readFolder reads a folder and refuses entries that could lead out of it.
func (r *Repository) readFolder(ctx context.Context, id ID) ([]*snapshot.DirEntry, error) {
	opened, err := r.Open(ctx, id)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	var manifest snapshot.DirManifest
	if err := json.NewDecoder(io.LimitReader(opened, folderBytes)).Decode(&manifest); err != nil {
		return nil, fault.New("read folder", fault.Corrupt, string(id), err)
	}
	seen := map[string]bool{}
	for _, entry := range manifest.Entries {
		if !fs.ValidPath(entry.Name) || entry.Name == "." || strings.ContainsAny(entry.Name, "/\x00") || seen[entry.Name] {
			return nil, fault.Newf("read folder", fault.Corrupt, string(id), "it has an entry named %q", entry.Name)
		}
		seen[entry.Name] = true
	}
	return manifest.Entries, nil
}

// find walks down from a folder.
func (r *Repository) find(ctx context.Context, root ID, name string) (*snapshot.DirEntry, error) {
	at := &snapshot.DirEntry{Type: snapshot.EntryTypeDirectory}
	id := root
	for _, part := range strings.Split(name, "/") {
		if at.Type != snapshot.EntryTypeDirectory {
			return nil, fault.New("find file", fault.NotFound, name, nil)
		}
		entries, err := r.readFolder(ctx, id)
		if err != nil {
			return nil, err
		}
		at = nil
		for _, entry := range entries {
			if entry.Name == part {
				at = entry
			}
		}
		if at == nil {
			return nil, fault.Newf("find file", fault.NotFound, name, "the recovery point has no such file")
		}
		id = ID(at.ObjectID.String())
	}
	return at, nil
}

func (r *Repository) walk(ctx context.Context, id ID, dir string, fn func(string, *snapshot.DirEntry) error) error {
	entries, err := r.readFolder(ctx, id)
	if err != nil {
		return err
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].Name < entries[j].Name })
	for _, entry := range entries {
		name := path.Join(dir, entry.Name)
		if entry.Type == snapshot.EntryTypeDirectory {
			err = r.walk(ctx, ID(entry.ObjectID.String()), name, fn)
		} else {
			err = fn(name, entry)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
