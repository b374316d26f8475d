package repository

import (
	"encoding/json"
	"time"
)

// Consistency says what a captured volume's content stands for.
type Consistency string

// The consistencies.
const (
	// ApplicationConsistent: what writes to the volume was held still at the instant.
	ApplicationConsistent Consistency = "application-consistent"
	// CrashConsistent: the volume as a power cut at the instant would have left it.
	CrashConsistent Consistency = "crash-consistent"
	// Live: its files were read one after the other while they changed.
	Live Consistency = "live"
)

// VolumeMode says where the content of a captured volume is kept.
type VolumeMode string

// The modes.
const (
	VolumeSnapshot   VolumeMode = "snapshot"   // in the backend's snapshot alone
	VolumeRepository VolumeMode = "repository" // in the repository; a snapshot may stay as the base of the next capture
	VolumeBoth       VolumeMode = "both"
)

// VolumeLayer describes volumes/<id>/.
type VolumeLayer struct {
	ID       string `json:"id"`       // the PersistentVolume's name, else made from storage and volume
	Storage  string `json:"storage"`  // the backend's name in the inventory
	Provider string `json:"provider"` // "ceph"
	VolumeID string `json:"volumeID"` // in the backend, for people
	Content  string `json:"content"`  // blocks or files
	Size     int64  `json:"size"`     // bytes; of files the quota, 0 without one

	// Where the volume was used; empty for one that was chosen by its tags.
	PersistentVolume string `json:"persistentVolume,omitempty"`
	Namespace        string `json:"namespace,omitempty"`
	Claim            string `json:"claim,omitempty"`
	StorageClass     string `json:"storageClass,omitempty"`
	Workload         string `json:"workload,omitempty"` // statefulset/db
	Machine          string `json:"machine,omitempty"`  // that it was attached to, in the backend's words
	Zone             string `json:"zone,omitempty"`

	Mode VolumeMode `json:"mode"`
	// Group are the volumes that were captured together; GroupSkew is the time in seconds between the
	// first and the last of them, 0 when all are of one instant.
	Group       string      `json:"group"`
	GroupSkew   float64     `json:"groupSkewSeconds"`
	Taken       time.Time   `json:"taken"` // the snapshot's instant; of a live capture its begin
	Consistency Consistency `json:"consistency"`

	// Parameters are what the provider needs to make a volume like it.
	Parameters map[string]string `json:"parameters,omitempty"`
	// Snapshot is the backend's snapshot, as providers.Snapshot in JSON; empty when none was kept.
	Snapshot json.RawMessage `json:"snapshot,omitempty"`
	// Copies are snapshots of the same content elsewhere.
	Copies []json.RawMessage `json:"copies,omitempty"`
	Image  *Image            `json:"image,omitempty"` // content blocks: image.raw and image.chunks
	// Mark is where a later capture of the volume's files takes up.
	Mark string `json:"mark,omitempty"`
	// Base is the recovery point whose image or archive this one shares what has not changed with.
	Base string `json:"base,omitempty"`
	// Read is how many bytes the backend was asked for, New how many of them were not in the base.
	Read int64 `json:"readBytes"`
	New  int64 `json:"newBytes"`
}
