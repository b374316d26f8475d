package providers

import (
	"context"
	"encoding/json"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Provider is what a backend must do. Implementations embed Unsupported and override what they can;
// Info's capabilities tell which.
//
// Every method may be called by several goroutines at once, ends soon after its context does, and
// returns errors with their kind (package fault). NotFound means that the named thing does not exist,
// Unsupported that this backend cannot do it at all, Busy and Transient that the same call may work
// later, Denied that credentials or rights are missing or have expired, NoSpace that a pool or a quota
// is full.
//
// Methods that change the backend can be repeated after a death at any instruction. Those with a Token
// find by it what an earlier call of the same token made, complete it, and return the same thing; a token
// that was used for a different request is fault.Exists. Deleting what is gone is no error. What a
// method returned is durable in the backend.
type Provider interface {
	// Info tells what this provider is. It does no I/O and works before Configure.
	Info(ctx context.Context) (Info, error)
	// Configure checks settings and makes the provider ready; everything below needs it. settings is a
	// JSON object that Info.Schema describes; relative paths in it were made absolute. It connects as far
	// as it must to refuse wrong credentials or a wrong address. It is called once.
	Configure(ctx context.Context, settings json.RawMessage) error
	// Health looks at the backend as a whole, now.
	Health(ctx context.Context) (Health, error)
	// Close lets go of connections. Nothing is called after it.
	Close() error

	Volumes
	Snapshots
	Blocks
	Files
	Machines
}

// Volumes are found, matched with PersistentVolumes, made and deleted.
type Volumes interface {
	// Discover calls each for every volume that the query matches, in no particular order. An error of each
	// ends it and is returned.
	Discover(ctx context.Context, query Query, each func(Volume) error) error
	// Volume describes one volume as it is now.
	Volume(ctx context.Context, volume Handle) (Volume, error)
	// Match finds the volume behind a PersistentVolume: fault.Unsupported when it is not of this backend,
	// fault.NotFound when it is and the volume is gone.
	Match(ctx context.Context, pv *corev1.PersistentVolume) (Volume, error)
	// Bind is the inverse of Match: it returns a copy of pv whose source is the volume. It keeps the name,
	// class, modes and claim; it sets the capacity, the source and the node affinity. A pv that had a source
	// of this backend keeps its driver's name, its secret references and its mount options.
	Bind(ctx context.Context, volume Handle, pv *corev1.PersistentVolume) (*corev1.PersistentVolume, error)
	// Create makes a volume: empty, or with the content of a snapshot (a clone, or a full copy).
	Create(ctx context.Context, request CreateRequest) (Volume, error)
	// DeleteVolume deletes a volume that Muster made (its tags say so: TagRun); any other is fault.Denied.
	DeleteVolume(ctx context.Context, volume Handle) error
}

// Snapshots are taken, listed, copied and deleted.
type Snapshots interface {
	// Snapshot takes snapshots of all the volumes at one instant where the backend can (CapGroup), else one
	// soon after the other; the result says which. All are there, or none is left behind: what a failed call
	// made is found by the same token.
	Snapshot(ctx context.Context, request SnapshotRequest) (SnapshotSet, error)
	// SnapshotOf describes one snapshot as it is now; fault.NotFound when somebody has deleted it.
	SnapshotOf(ctx context.Context, snapshot Handle) (Snapshot, error)
	// ListSnapshots calls each for every snapshot that Muster made and whose tags match, in no order.
	ListSnapshots(ctx context.Context, query Query, each func(Snapshot) error) error
	// DeleteSnapshot deletes a snapshot that Muster made, with what was made for it alone. Volumes cloned
	// from it go on living; a backend that cannot do that returns fault.Busy.
	DeleteSnapshot(ctx context.Context, snapshot Handle) error
	// CopySnapshot makes a snapshot of the same content in another region, account or cluster.
	CopySnapshot(ctx context.Context, request CopyRequest) (Snapshot, error)
}

// Blocks reads and writes the content of block volumes (ContentBlocks).
type Blocks interface {
	// Extents calls each with ascending extents that don't overlap and lie within the snapshot: those whose
	// content may differ between Base and Snapshot, or, without a base, those that hold data. What they
	// leave out is equal, or zeros. fault.NotFound when the base is gone: the caller then takes all.
	Extents(ctx context.Context, request ExtentsRequest, each func([]Extent) error) error
	// Read calls each with blocks in ascending order that together are exactly the extents, which the
	// caller gives ascending, without overlap, and at most MaxExtents of them. No block is larger than
	// MaxBlock. The data belongs to the callee until each returns.
	Read(ctx context.Context, request ReadRequest, each func(Block) error) error
	// Write makes a volume of the given size and fills it with what source returns until io.EOF: ascending
	// blocks that don't overlap; the rest is zeros. The volume is complete when Write returns, and never
	// taken for complete before. With Into, that volume is overwritten in place of making one.
	Write(ctx context.Context, request WriteRequest, source Source) (Volume, error)
}

// Files gives access to volumes by their files (ContentFiles).
type Files interface {
	// Attach mounts a volume or a snapshot on this host and returns the folder. The same token finds the
	// same mount again.
	Attach(ctx context.Context, request AttachRequest) (Attachment, error)
	// Detach unmounts. What was not mounted is no error.
	Detach(ctx context.Context, attachment Handle) error
	// Changes calls each with the folders (paths relative to the attachment's, "." for its root) whose
	// entries may have changed between two attachments, given by their marks; a folder once suffices, its
	// subfolders are named on their own. fault.NotFound when the backend cannot tell any more: the caller
	// then compares everything.
	Changes(ctx context.Context, request ChangesRequest, each func([]string) error) error
}

// Machines are described so that they can be made again (CapMachines).
type Machines interface {
	// DiscoverMachines calls each for every machine that the query matches.
	DiscoverMachines(ctx context.Context, query Query, each func(Machine) error) error
	// CreateMachine makes a machine like the one described and waits until it runs.
	CreateMachine(ctx context.Context, request MachineRequest) (Machine, error)
	// DeleteMachine deletes a machine that Muster made; any other is fault.Denied.
	DeleteMachine(ctx context.Context, machine Handle) error
}

// Protocol is the version of this contract. A provider and Muster talk when the ranges of versions that
// they speak meet; both then keep to the highest common one.
const Protocol = 1

// Info is what a provider says of itself.
type Info struct {
	Name         string          `json:"name"`    // "ceph": lower case, digits and '-'
	Version      string          `json:"version"` // of the program
	Protocols    []int           `json:"protocols"`
	Schema       json.RawMessage `json:"schema"` // JSON Schema (draft 2020-12) of the settings
	Capabilities []Capability    `json:"capabilities"`
	// Drivers are the CSI drivers and in-tree sources whose PersistentVolumes Match understands:
	// "rbd.csi.ceph.com", "kubernetes.io/rbd". "*" means: ask Match.
	Drivers []string `json:"drivers"`
}

// Can reports whether the provider has a capability.
func (i Info) Can(c Capability) bool {
	for _, known := range i.Capabilities {
		if known == c {
			return true
		}
	}
	return false
}

// Capability is something that not every backend can do.
type Capability string

// The capabilities. A provider without one returns fault.Unsupported from the methods behind it.
const (
	CapDiscover  Capability = "discover"       // Discover
	CapSnapshot  Capability = "snapshot"       // Snapshot, ListSnapshots, SnapshotOf, DeleteSnapshot
	CapGroup     Capability = "group-snapshot" // Snapshot of several volumes at one instant
	CapRead      Capability = "read-blocks"    // Extents without a base, Read
	CapChanged   Capability = "changed-blocks" // Extents with a base
	CapWrite     Capability = "write-blocks"   // Write
	CapOverwrite Capability = "overwrite"      // Write with Into
	CapCreate    Capability = "create"         // Create, empty
	CapClone     Capability = "clone"          // Create from a snapshot
	CapCopy      Capability = "copy-snapshot"  // CopySnapshot
	CapFiles     Capability = "files"          // Attach a volume, Detach
	CapSnapFile  Capability = "snapshot-files" // Attach a snapshot
	CapChanges   Capability = "changed-files"  // Changes
	CapMachines  Capability = "machines"       // Machines
)

// Health is a backend's state at one moment.
type Health struct {
	Usable      bool      `json:"usable"`             // volumes can be captured and restored now
	Problems    []string  `json:"problems,omitempty"` // what an operator should know, worst first
	Fingerprint string    `json:"fingerprint"`        // which backend this is: a cluster's FSID, an account and region
	Version     string    `json:"version,omitempty"`  // of the backend
	Now         time.Time `json:"now"`                // the backend's clock, or this host's where it has none
	Free        int64     `json:"free"`               // bytes; -1 when the backend has no such limit
	Total       int64     `json:"total"`              // bytes; -1 as above
}

// Handle names a volume, a snapshot, an attachment or a machine of one provider. Everything that another
// process on another day needs is in it; it holds no secret. Only the provider that made it reads State.
type Handle struct {
	Provider string `json:"provider"`
	Version  int    `json:"version"` // of State's format
	State    []byte `json:"state"`   // at most MaxHandle bytes
}

// IsZero reports whether the handle names nothing.
func (h Handle) IsZero() bool { return h.Provider == "" && len(h.State) == 0 }

// Limits of one message. Package guard holds a provider to them.
const (
	MaxHandle  = 4 << 10
	MaxBlock   = 4 << 20 // bytes of one Block
	MaxExtents = 16384   // in one call of each, and in one ReadRequest
)

// Content says how a volume's data is read.
type Content string

// The contents.
const (
	ContentBlocks Content = "blocks"
	ContentFiles  Content = "files"
)

// Volume describes a volume.
type Volume struct {
	Handle  Handle  `json:"handle"`
	ID      string  `json:"id"` // for people, and unique in the backend: "rbd/pvc-1", "vol-0abc"
	Content Content `json:"content"`
	Size    int64   `json:"size"` // bytes; of a file volume its quota, 0 when it has none
	Used    int64   `json:"used"` // bytes that hold data; -1 when unknown
	Zone    string  `json:"zone,omitempty"`
	Machine string  `json:"machine,omitempty"` // the ID of the machine that it is attached to
	// ChangedBlocks says that Extents with a base is quick for this volume: it does not read it all.
	ChangedBlocks bool              `json:"changedBlocks,omitempty"`
	Tags          map[string]string `json:"tags,omitempty"`
	// Parameters are what Create and Write need, beside the size, to make a volume like this one in a
	// backend of the same kind: a pool, image features, a volume type, a layout of bricks.
	Parameters map[string]string `json:"parameters,omitempty"`
}

// Query chooses volumes, snapshots or machines: those that match all that is set.
type Query struct {
	Tags    map[string]string `json:"tags,omitempty"`    // each with this value; "*" means any value
	Machine string            `json:"machine,omitempty"` // volumes of one machine, by its ID
	IDs     []string          `json:"ids,omitempty"`     // volumes (or machines) with these IDs; snapshots of these volumes
}

// Tags that Muster puts on what it makes. TagRun marks a thing as Muster's.
const (
	TagRun     = "muster.dev/run"
	TagStep    = "muster.dev/step"
	TagItem    = "muster.dev/item"
	TagCluster = "muster.dev/cluster"
	TagToken   = "muster.dev/token" // set by the provider
	// TagRepository is the repository whose recovery points may refer to a snapshot: it alone can tell
	// whether the snapshot is still needed.
	TagRepository = "muster.dev/repository"
)

// Snapshot describes a snapshot.
type Snapshot struct {
	Handle   Handle            `json:"handle"`
	ID       string            `json:"id"`       // for people: "rbd/pvc-1@muster-…", "snap-0abc"
	VolumeID string            `json:"volumeID"` // the volume's ID
	Content  Content           `json:"content"`
	Size     int64             `json:"size"`    // bytes: the volume's at that instant
	Instant  time.Time         `json:"instant"` // by the backend's clock
	Ready    bool              `json:"ready"`   // it can be read and cloned; SnapshotOf tells later
	Region   string            `json:"region,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"`
	// Parameters are the volume's, as they were.
	Parameters map[string]string `json:"parameters,omitempty"`
}

// SnapshotRequest asks for snapshots of one or several volumes.
type SnapshotRequest struct {
	Token   string            `json:"token"`
	Volumes []Handle          `json:"volumes"`
	Tags    map[string]string `json:"tags,omitempty"`
	// Atomic refuses (fault.Unsupported) what cannot be taken at one instant.
	Atomic bool `json:"atomic,omitempty"`
}

// SnapshotSet is the answer: one snapshot a volume, in the order of the request.
type SnapshotSet struct {
	Snapshots []Snapshot `json:"snapshots"`
	Atomic    bool       `json:"atomic"` // all of one instant
	// Skew is the time between the first and the last snapshot, 0 when Atomic.
	Skew time.Duration `json:"skew"`
}

// CopyRequest asks for a copy of a snapshot somewhere else.
type CopyRequest struct {
	Token    string `json:"token"`
	Snapshot Handle `json:"snapshot"`
	// Target says where, in the provider's words: {"region": "eu-west-1", "kmsKey": "…"}.
	Target map[string]string `json:"target"`
	Tags   map[string]string `json:"tags,omitempty"`
}

// CreateRequest asks for a volume.
type CreateRequest struct {
	Token string `json:"token"`
	// Name is what the volume should be called; the provider may add to it. Empty: it derives from the token.
	Name     string            `json:"name,omitempty"`
	Content  Content           `json:"content"`
	Size     int64             `json:"size"`     // bytes; with a snapshot at least its size, or 0 for the same
	Snapshot Handle            `json:"snapshot"` // zero: empty
	Zone     string            `json:"zone,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"`
	// Parameters as in Volume; a provider refuses (fault.Invalid) those that it doesn't know.
	Parameters map[string]string `json:"parameters,omitempty"`
}

// Extent is a stretch of a block volume, in bytes. Zero says that it reads as zeros.
type Extent struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
	Zero   bool  `json:"zero,omitempty"`
}

// End is the offset after the extent.
func (e Extent) End() int64 { return e.Offset + e.Length }

// ExtentsRequest asks which extents differ.
type ExtentsRequest struct {
	Snapshot Handle `json:"snapshot"`
	Base     Handle `json:"base"` // an earlier snapshot of the same volume; zero: everything that holds data
}

// ReadRequest asks for the content of extents.
type ReadRequest struct {
	Snapshot Handle   `json:"snapshot"`
	Extents  []Extent `json:"extents"`
}

// Block is an extent with its bytes. Data is nil when Zero is set, else it has Length bytes and CRC is
// their checksum (crc32 with the Castagnoli polynomial, RFC 3720 B.4); see Sum.
type Block struct {
	Extent
	Data []byte
	CRC  uint32
}

// Source returns the next block, io.EOF after the last one. The data is valid until the next call.
type Source func() (Block, error)

// WriteRequest asks for a volume with a content.
type WriteRequest struct {
	CreateRequest
	// Into names a volume to overwrite: one that nothing uses. Zero: a new one is made.
	Into Handle
}

// AttachRequest asks for a volume's or a snapshot's files.
type AttachRequest struct {
	Token    string `json:"token"`
	Volume   Handle `json:"volume"`   // one of these two
	Snapshot Handle `json:"snapshot"` // always read-only
	ReadOnly bool   `json:"readOnly"`
}

// Attachment is a mounted volume.
type Attachment struct {
	Handle Handle `json:"handle"`
	Path   string `json:"path"` // absolute, on the provider's host
	// Mark names the volume's state for a later Changes; empty when the backend cannot tell changes.
	Mark string `json:"mark,omitempty"`
	// Instant is the moment that the files show; zero when the volume is live and its files change.
	Instant time.Time `json:"instant"`
}

// ChangesRequest asks which folders have changed between two marks.
type ChangesRequest struct {
	Volume Handle `json:"volume"`
	Since  string `json:"since"` // a mark of an earlier attachment
	Until  string `json:"until"` // the mark of this one
}

// Machine describes a machine.
type Machine struct {
	Handle    Handle            `json:"handle"`
	ID        string            `json:"id"`      // "i-0abc"
	Name      string            `json:"name"`    // the node's name, where the backend knows it
	Address   string            `json:"address"` // by which Muster may reach it
	Zone      string            `json:"zone,omitempty"`
	State     string            `json:"state"` // "running", "stopped", …
	VolumeIDs []string          `json:"volumeIDs,omitempty"`
	Tags      map[string]string `json:"tags,omitempty"`
	// Parameters are what CreateMachine needs to make one like it: image, type, subnets, security groups,
	// user data, and so on. Long values are allowed; secrets are not.
	Parameters map[string]string `json:"parameters,omitempty"`
}

// MachineRequest asks for a machine.
type MachineRequest struct {
	Token string `json:"token"`
	Name  string `json:"name"`
	Root  Handle `json:"root"` // snapshot of a root disk; zero: what Disks has for it, else the image in Parameters
	// Disks give the new machine's disks their content: snapshots by the IDs of the described machine's
	// volumes.
	Disks      map[string]Handle `json:"disks,omitempty"`
	Zone       string            `json:"zone,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Parameters map[string]string `json:"parameters,omitempty"`
}
