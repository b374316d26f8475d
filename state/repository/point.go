package repository

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"sort"
	"strings"
	"time"

	kopiafs "github.com/kopia/kopia/fs"
	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/maintenance"
	"github.com/kopia/kopia/repo/manifest"
	"github.com/kopia/kopia/repo/object"
	"github.com/kopia/kopia/snapshot"
	"github.com/kopia/kopia/snapshot/snapshotfs"
	"github.com/kopia/kopia/snapshot/snapshotmaintenance"

	"github.com/musterdr/muster/providers/fault"
)

// Point is one recovery point.
type Point struct {
	ID      string    `json:"id"`
	Cluster string    `json:"cluster"`
	Created time.Time `json:"created"`
	Instant time.Time `json:"instant"` // the moment it stands for
	Files   int       `json:"files"`
	Bytes   int64     `json:"bytes"`
	Root    ID        `json:"root"` // what `kopia restore` takes

	snapshot manifest.ID
}

// Subtree is a part of a point: a tree under a path, or one file.
type Subtree struct {
	Path string
	Tree Tree
	File *Object // instead of Tree
}

const (
	manifestFile  = "manifest.json"
	signatureFile = "manifest.sig"
	tagPoint      = "muster-point"
	tagInstant    = "muster-instant"
	// tagFormat tells an older muster that it can't read a point before it opens anything of it.
	tagFormat     = "muster-format"
	formatVersion = "1"
	userName      = "muster"
)

// Seal makes a recovery point of subtrees and a manifest, which it signs. The point is durable when
// it returns. Sealing the same Manifest.ID again returns the point that is there. The manifest's version
// follows from its content.
func (r *Repository) Seal(ctx context.Context, m Manifest, subtrees []Subtree) (Point, error) {
	if known, err := r.Point(ctx, m.ID); err == nil && known.ID == m.ID {
		return known, nil
	} else if err != nil && !fault.Is(err, fault.NotFound) {
		return Point{}, err
	}
	m.Version = m.oldestVersion()
	content, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return Point{}, fault.New("seal recovery point", fault.Internal, m.ID, err)
	}
	signature := base64.StdEncoding.EncodeToString(r.config.Key.sign(content)) + "\n"
	for name, body := range map[string][]byte{manifestFile: content, signatureFile: []byte(signature)} {
		stored, err := r.Put(ctx, name, bytes.NewReader(body))
		if err != nil {
			return Point{}, err
		}
		subtrees = append(subtrees, Subtree{Path: name, File: &stored})
	}
	root, err := r.merge(ctx, subtrees, m.Created)
	if err != nil {
		return Point{}, err
	}
	return r.saveSnapshot(ctx, m, root)
}

// merge builds the point's root folder from parts whose content is stored already.
func (r *Repository) merge(ctx context.Context, subtrees []Subtree, at time.Time) (*snapshot.DirEntry, error) {
	below := map[string][]Subtree{}
	builder := &snapshotfs.DirManifestBuilder{}
	for _, part := range subtrees {
		name, rest, deeper := strings.Cut(part.Path, "/")
		if deeper {
			part.Path = rest
			below[name] = append(below[name], part)
			continue
		}
		entry, err := r.entryOf(ctx, part, at)
		if err != nil {
			return nil, err
		}
		builder.AddEntry(entry)
	}
	for name, parts := range below {
		entry, err := r.merge(ctx, parts, at)
		if err != nil {
			return nil, err
		}
		entry.Name = name
		builder.AddEntry(entry)
	}
	return r.putFolder(ctx, builder)
}

func (r *Repository) entryOf(ctx context.Context, part Subtree, at time.Time) (*snapshot.DirEntry, error) {
	entry := &snapshot.DirEntry{Name: part.Path, ModTime: kopiafs.UTCTimestampFromTime(at)}
	id := part.Tree.ID
	if part.File != nil {
		id = part.File.ID
		entry.Type, entry.Permissions, entry.FileSize = snapshot.EntryTypeFile, 0o600, part.File.Size
	} else {
		if _, err := r.readFolder(ctx, id); err != nil {
			return nil, err
		}
		entry.Type, entry.Permissions = snapshot.EntryTypeDirectory, 0o700
		entry.DirSummary = &kopiafs.DirectorySummary{TotalFileCount: int64(part.Tree.Files), TotalFileSize: part.Tree.Bytes}
	}
	parsed, err := object.ParseID(string(id))
	if err != nil {
		return nil, fault.New("seal recovery point", fault.Invalid, part.Path, err)
	}
	entry.ObjectID = parsed
	return entry, nil
}

func (r *Repository) saveSnapshot(ctx context.Context, m Manifest, root *snapshot.DirEntry) (Point, error) {
	session, err := r.session(ctx)
	if err != nil {
		return Point{}, err
	}
	root.Name = m.Cluster
	saved := &snapshot.Manifest{
		Source:      snapshot.SourceInfo{Host: m.Cluster, UserName: userName, Path: "/" + m.Cluster},
		Description: "muster recovery point " + m.ID,
		StartTime:   kopiafs.UTCTimestampFromTime(m.Instant), EndTime: kopiafs.UTCTimestampFromTime(m.Created),
		RootEntry: root,
		Tags:      map[string]string{tagPoint: m.ID, tagInstant: m.Instant.UTC().Format(time.RFC3339Nano), tagFormat: formatVersion},
	}
	// Content first: the snapshot must never refer to what is not durable.
	if err := session.Flush(ctx); err != nil {
		return Point{}, r.config.fail("seal recovery point", err)
	}
	if _, err := snapshot.SaveSnapshot(ctx, session, saved); err != nil {
		return Point{}, r.config.fail("seal recovery point", err)
	}
	if err := session.Flush(ctx); err != nil {
		return Point{}, r.config.fail("seal recovery point", err)
	}
	return pointOf(saved), nil
}

func pointOf(s *snapshot.Manifest) Point {
	p := Point{ID: s.Tags[tagPoint], Cluster: s.Source.Host, Created: s.EndTime.ToTime().UTC(), Instant: s.StartTime.ToTime().UTC(), snapshot: s.ID}
	if at, err := time.Parse(time.RFC3339Nano, s.Tags[tagInstant]); err == nil {
		p.Instant = at
	}
	if s.RootEntry != nil {
		p.Root = ID(s.RootEntry.ObjectID.String())
		if summary := s.RootEntry.DirSummary; summary != nil {
			p.Files, p.Bytes = int(summary.TotalFileCount), summary.TotalFileSize
		}
	}
	return p
}

// Points lists all recovery points, newest first.
func (r *Repository) Points(ctx context.Context) ([]Point, error) {
	from, err := r.reading(ctx)
	if err != nil {
		return nil, err
	}
	ids, err := snapshot.ListSnapshotManifests(ctx, from, nil, nil)
	if err != nil {
		return nil, r.config.fail("list recovery points", err)
	}
	snapshots, err := snapshot.LoadSnapshots(ctx, from, ids)
	if err != nil {
		return nil, r.config.fail("list recovery points", err)
	}
	points := []Point{}
	for _, s := range snapshots {
		if s.Tags[tagPoint] == "" { // somebody else's snapshot in the same repository
			continue
		}
		if version := s.Tags[tagFormat]; version != formatVersion {
			return nil, fault.Newf("list recovery points", fault.Unsupported, s.Tags[tagPoint],
				"it is in format %q and this muster reads %s: use a newer muster", version, formatVersion)
		}
		points = append(points, pointOf(s))
	}
	sort.Slice(points, func(i, j int) bool { return points[i].Instant.After(points[j].Instant) })
	return points, nil
}

// Point finds a recovery point by its ID, a unique prefix of it, or "latest".
func (r *Repository) Point(ctx context.Context, id string) (Point, error) {
	points, err := r.Points(ctx)
	if err != nil {
		return Point{}, err
	}
	if len(points) == 0 {
		return Point{}, fault.Newf("find recovery point", fault.NotFound, id, "the repository %s holds none", r.config.URL)
	}
	if id == "latest" {
		return points[0], nil
	}
	var matches []Point
	for _, p := range points {
		if p.ID == id {
			return p, nil
		}
		if strings.HasPrefix(p.ID, id) {
			matches = append(matches, p)
		}
	}
	switch len(matches) {
	case 0:
		return Point{}, fault.Newf("find recovery point", fault.NotFound, id, "there is no such point: muster points list shows all")
	case 1:
		return matches[0], nil
	default:
		return Point{}, fault.Newf("find recovery point", fault.Invalid, id, "%d points begin so; the newest is %s", len(matches), matches[0].ID)
	}
}

const manifestBytes = 64 << 20

// Manifest reads a point's manifest. Its signature is checked before anything in it is believed:
// fault.Denied when it was not made by the pinned key.
func (r *Repository) Manifest(ctx context.Context, p Point) (Manifest, error) {
	content, err := r.readSmall(ctx, p, manifestFile)
	if err != nil {
		return Manifest{}, err
	}
	encoded, err := r.readSmall(ctx, p, signatureFile)
	if err != nil {
		return Manifest{}, err
	}
	return readManifest(r.config.Key, p.ID, content, encoded)
}

// readManifest reads the manifest of the point with the ID, and its signature file.
func readManifest(key *Key, id string, content, encoded []byte) (Manifest, error) {
	signature, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(encoded)))
	if err != nil || !key.verify(content, signature) {
		return Manifest{}, fault.Newf("check manifest", fault.Denied, id,
			"its signature is not by %s: it was forged, or made with another key", key.PublicKey())
	}
	var m Manifest
	if err := json.Unmarshal(content, &m); err != nil {
		return Manifest{}, fault.New("read manifest", fault.Corrupt, id, err)
	}
	if m.Version > ManifestVersion {
		return Manifest{}, fault.Newf("read manifest", fault.Unsupported, id,
			"it is of version %d and this muster reads up to %d: use a newer muster", m.Version, ManifestVersion)
	}
	if m.ID != id {
		return Manifest{}, fault.Newf("check manifest", fault.Denied, id, "it is the manifest of another point, %s", m.ID)
	}
	return m, nil
}

func (r *Repository) readSmall(ctx context.Context, p Point, name string) ([]byte, error) {
	opened, err := r.OpenPath(ctx, p, name)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	if opened.Size() > manifestBytes {
		return nil, fault.Newf("read manifest", fault.Corrupt, p.ID, "%s has %d bytes", name, opened.Size())
	}
	return io.ReadAll(opened)
}

// OpenPath opens a file of a point.
func (r *Repository) OpenPath(ctx context.Context, p Point, name string) (*Reader, error) {
	entry, err := r.find(ctx, p.Root, name)
	if err != nil {
		return nil, err
	}
	return r.Open(ctx, ID(entry.ObjectID.String()))
}

// Walk calls fn for every file below a folder of a point, in the order of their paths.
func (r *Repository) Walk(ctx context.Context, p Point, dir string, fn func(path string, size int64, open func() (*Reader, error)) error) error {
	root := p.Root
	if dir != "" {
		entry, err := r.find(ctx, p.Root, dir)
		if err != nil {
			return err
		}
		root = ID(entry.ObjectID.String())
	}
	return r.walk(ctx, root, dir, func(path string, entry *snapshot.DirEntry) error {
		return fn(path, entry.FileSize, func() (*Reader, error) { return r.Open(ctx, ID(entry.ObjectID.String())) })
	})
}

// Delete removes a point. Content that other points use stays; the rest goes with Maintain.
func (r *Repository) Delete(ctx context.Context, p Point) error {
	session, err := r.session(ctx)
	if err != nil {
		return err
	}
	if err := session.DeleteManifest(ctx, p.snapshot); err != nil {
		return r.config.fail("delete recovery point", err)
	}
	return r.Flush(ctx)
}

// Maintain compacts the repository and removes what no point refers to. kopia's safety margins
// apply: content is removed a day or more after the last reference to it went.
func (r *Repository) Maintain(ctx context.Context) error {
	err := repo.DirectWriteSession(ctx, r.repo, repo.WriteSessionOptions{Purpose: "maintenance"}, func(ctx context.Context, w repo.DirectRepositoryWriter) error {
		params, err := maintenance.GetParams(ctx, w)
		if err != nil {
			return err
		}
		params.Owner = w.ClientOptions().UsernameAtHost()
		if err := maintenance.SetParams(ctx, w, params); err != nil {
			return err
		}
		return snapshotmaintenance.Run(ctx, w, maintenance.ModeFull, true, maintenance.SafetyFull)
	})
	return r.config.fail("maintain repository", err)
}
