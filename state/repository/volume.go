package repository

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"path"
	"strings"
	"time"

	"github.com/musterdr/muster/providers/fault"
)

// VolumeLayer describes volumes/<name>/: one volume as it was.
type VolumeLayer struct {
	ID       string `json:"id"`       // the backend's name for the volume: "rbd/pvc-1"
	Path     string `json:"path"`     // its folder in the point: VolumePath
	Storage  string `json:"storage"`  // the name under which the Cluster document knows the backend
	Provider string `json:"provider"` // the provider's name
	Version  string `json:"version"`  // of the provider
	Content  string `json:"content"`  // "blocks" or "files"
	Size     int64  `json:"size"`     // bytes; of a file volume its quota, 0 without one

	// One of these two, or neither when the volume's content stayed in its backend.
	Image *ImageContent `json:"image,omitempty"`
	Files *FilesContent `json:"files,omitempty"`

	// Mode says where the content was to be kept.
	Mode VolumeMode `json:"mode"`
	// Snapshot is the snapshot that was kept in the backend, as providers.Snapshot in JSON.
	Snapshot json.RawMessage `json:"snapshot,omitempty"`
	// Copies are copies of the snapshot in other places.
	Copies []SnapshotCopy `json:"copies,omitempty"`
	// Parameters are what a backend of the same kind needs to make such a volume again.
	Parameters map[string]string `json:"parameters,omitempty"`
	Zone       string            `json:"zone,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`

	Instant     time.Time   `json:"instant"` // by the backend's clock; of a live volume when reading began
	Consistency Consistency `json:"consistency"`
	// Group names the volumes that were taken together, and Skew is the time between the first and the
	// last of them: 0 when it was one instant.
	Group       string   `json:"group,omitempty"`
	SkewSeconds float64  `json:"skewSeconds,omitempty"`
	Quiesced    []string `json:"quiesced,omitempty"` // pods that were held still, as namespace/name
	// QuiescedDatabases are servers whose writers waited from before the group's first snapshot until after its last.
	QuiescedDatabases []QuiescedDatabase `json:"quiescedDatabases,omitempty"`

	PV           string `json:"pv,omitempty"`
	PVC          string `json:"pvc,omitempty"` // namespace/name
	StorageClass string `json:"storageClass,omitempty"`
	Workload     string `json:"workload,omitempty"` // what used it: statefulset/db
	Machine      string `json:"machine,omitempty"`  // that it was attached to, in the backend's words

	// Base is the point whose image or files this one was taken against. It need not exist any more.
	Base string `json:"base,omitempty"`
	// Mark is where a later capture of the volume's files takes up, in the provider's words.
	Mark string `json:"mark,omitempty"`
	// ReadBytes is how much the backend was asked for, and NewBytes how much of it was not known.
	ReadBytes int64 `json:"readBytes,omitempty"`
	NewBytes  int64 `json:"newBytes,omitempty"`
	// Left are files that changed while they were read, or could not be taken.
	Left []LeftOut `json:"left,omitempty"`
}

// QuiescedDatabase is a database server whose writers waited while snapshots were taken.
type QuiescedDatabase struct {
	Name   string `json:"name"` // in the Cluster document
	Engine string `json:"engine"`
	// Facts are what the engine told: how long writers waited, in heldSeconds, and its position.
	Facts map[string]string `json:"facts,omitempty"`
}

// ImageContent are the files of a block volume: image.raw, whose digest is by RuleChunks, and the list
// of its chunks.
type ImageContent struct {
	Image  Content `json:"image"`
	Chunks Content `json:"chunks"`
}

// FilesContent are the files of a file volume: files.tar, whose digest is by RuleSegments, and its
// index.
type FilesContent struct {
	Archive Content `json:"archive"`
	Index   Content `json:"index"`
	Entries int64   `json:"entries"`
}

// SnapshotCopy is a copy of a volume's snapshot.
type SnapshotCopy struct {
	Region   string          `json:"region"`
	Snapshot json.RawMessage `json:"snapshot"` // as in VolumeLayer
}

// CloudMachine is a machine of a cloud whose volumes were captured, described so that it can be made again.
type CloudMachine struct {
	ID       string `json:"id"` // in its cloud
	Name     string `json:"name"`
	Storage  string `json:"storage"` // the storage whose provider knows it
	Provider string `json:"provider"`
	// Machine is the description, as providers.Machine in JSON.
	Machine json.RawMessage `json:"machine"`
}

// VolumeMode says where the content of a captured volume is kept.
type VolumeMode string

// The modes. With VolumeRepository, a snapshot may stay in the backend as the base of the next capture.
const (
	VolumeSnapshot   VolumeMode = "snapshot"
	VolumeRepository VolumeMode = "repository"
	VolumeBoth       VolumeMode = "both"
)

// Consistency says what a volume's content can be relied on for.
type Consistency string

// The consistencies.
const (
	CrashConsistent       Consistency = "crash-consistent"       // as after a loss of power
	ApplicationConsistent Consistency = "application-consistent" // hooks had brought the application to rest
	Live                  Consistency = "live"                   // files were read one after the other while they changed
)

// The names in a volume's folder.
const (
	imageFile  = "image.raw"
	chunksFile = "image.chunks"
	filesFile  = "files.tar"
	filesIndex = "files.index"
)

// VolumePath is a volume's folder in a point: the name under which the Cluster document knows its
// backend, and the volume's ID, made fit for a file name.
func VolumePath(storage, id string) string {
	name := storage + "-" + id
	safe := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.@", r) {
			return r
		}
		return '_'
	}, name)
	if safe != name || len(safe) > 200 || storage != strings.ReplaceAll(storage, "-", "") {
		sum := sha256.Sum256([]byte(storage + "\x00" + id))
		safe = safe[:min(len(safe), 180)] + "." + hex.EncodeToString(sum[:4])
	}
	return "volumes/" + safe
}

// Contents describes an image for the manifest of a point that holds it in a volume's folder.
func (i Image) Contents(folder string) *ImageContent {
	return &ImageContent{
		Image:  Content{Path: path.Join(folder, imageFile), Size: i.Object.Size, SHA256: i.Digest, Rule: RuleChunks},
		Chunks: Content{Path: path.Join(folder, chunksFile), Size: i.Chunks.Size, SHA256: i.Chunks.SHA256},
	}
}

// Tree are the image's files in a volume's folder. A point must hold both, or maintenance removes what
// it lacks.
func (i Image) Tree() []File {
	return []File{{Path: imageFile, Object: i.Object}, {Path: chunksFile, Object: i.Chunks}}
}

// Image finds a volume's image in a point: what OpenImage reads and NewImage takes for a base.
// fault.NotFound when the point holds none.
func (r *Repository) Image(ctx context.Context, p Point, v VolumeLayer) (Image, error) {
	if v.Image == nil {
		return Image{}, fault.Newf("find image", fault.NotFound, v.ID, "recovery point %s holds no image of this volume", p.ID)
	}
	object, err := r.content(ctx, p, v.Image.Image)
	if err != nil {
		return Image{}, err
	}
	chunks, err := r.content(ctx, p, v.Image.Chunks)
	if err != nil {
		return Image{}, err
	}
	if v.Image.Image.Rule != RuleChunks {
		return Image{}, fault.Newf("find image", fault.Unsupported, v.ID, "its digest is by the rule %q: use a newer muster", v.Image.Image.Rule)
	}
	object.SHA256 = "" // the digest is by another rule
	return Image{Object: object, Chunks: chunks, Digest: v.Image.Image.SHA256}, nil
}

// Contents describes an archive for the manifest of a point that holds it in a volume's folder.
func (a Archive) Contents(folder string) *FilesContent {
	return &FilesContent{
		Archive: Content{Path: path.Join(folder, filesFile), Size: a.Object.Size, SHA256: a.Digest, Rule: RuleSegments},
		Index:   Content{Path: path.Join(folder, filesIndex), Size: a.Index.Size, SHA256: a.Index.SHA256},
		Entries: a.Entries,
	}
}

// Tree are the archive's files in a volume's folder. A point must hold both.
func (a Archive) Tree() []File {
	return []File{{Path: filesFile, Object: a.Object}, {Path: filesIndex, Object: a.Index}}
}

// Archive finds a volume's archive in a point: what RestoreArchive reads and ArchiveFolder takes for a
// base. fault.NotFound when the point holds none.
func (r *Repository) Archive(ctx context.Context, p Point, v VolumeLayer) (Archive, error) {
	if v.Files == nil {
		return Archive{}, fault.Newf("find archive", fault.NotFound, v.ID, "recovery point %s holds no files of this volume", p.ID)
	}
	if v.Files.Archive.Rule != RuleSegments {
		return Archive{}, fault.Newf("find archive", fault.Unsupported, v.ID, "its digest is by the rule %q: use a newer muster", v.Files.Archive.Rule)
	}
	object, err := r.content(ctx, p, v.Files.Archive)
	if err != nil {
		return Archive{}, err
	}
	index, err := r.content(ctx, p, v.Files.Index)
	if err != nil {
		return Archive{}, err
	}
	object.SHA256 = "" // the digest is by another rule
	return Archive{Object: object, Index: index, Digest: v.Files.Archive.SHA256, Entries: v.Files.Entries}, nil
}

// content finds the object of a file that a signed manifest names.
func (r *Repository) content(ctx context.Context, p Point, c Content) (Object, error) {
	entry, err := r.find(ctx, p.Root, c.Path)
	if err != nil {
		return Object{}, err
	}
	return Object{ID: ID(entry.ObjectID.String()), Size: c.Size, SHA256: c.SHA256}, nil
}
