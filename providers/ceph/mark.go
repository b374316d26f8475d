//go:build cgo && ceph

package ceph

import (
	"context"
	"encoding/json"
	"maps"
	"strings"
	"time"

	"github.com/musterdr/muster/providers"
)

// Keys in an image's metadata. A clone inherits its parent's, so that each mark names the image that it
// is about.
const (
	markPrefix      = "muster.dev/"
	volumeKey       = markPrefix + "volume"
	overwriteKey    = markPrefix + "overwrite"
	snapshotMarkKey = markPrefix + "snapshot/" // and the snapshot's name
)

// state of an image that Muster made, or overwrites.
type state string

const (
	writing  state = "writing"
	complete state = "complete"
	copied   state = "copy" // holds a copied snapshot and is no volume
	deleting state = "deleting"
)

// mark says whose an image is.
type mark struct {
	Image   string            `json:"image"` // the ID of the image that the mark is about
	Token   string            `json:"token"`
	Request string            `json:"request"` // digest
	State   state             `json:"state"`
	Tags    map[string]string `json:"tags,omitempty"`
	// Copy says that the image holds a copied snapshot, and goes with it.
	Copy bool `json:"copy,omitempty"`
}

// snapshotMark says whose a snapshot is. It is written before the snapshot is made, and again after all of
// the set are.
type snapshotMark struct {
	mark
	Atomic  bool      `json:"atomic,omitempty"`
	Instant time.Time `json:"instant"`
	Skew    int64     `json:"skew,omitempty"` // nanoseconds, of the whole set
	Order   int       `json:"order"`          // place in the set
	Group   *group    `json:"group,omitempty"`
	SnapID  uint64    `json:"snapID,omitempty"`
}

// marks are all of an image's metadata.
type marks struct {
	volume    *mark
	overwrite *mark
	snapshots map[string]snapshotMark
	other     map[string]string // what is not Muster's
}

func (i *image) readMarks() error {
	metadata, err := i.ListMetadata()
	if err != nil {
		return err
	}
	m := marks{snapshots: map[string]snapshotMark{}, other: map[string]string{}}
	for key, value := range metadata {
		if !strings.HasPrefix(key, markPrefix) {
			m.other[key] = value
			continue
		}
		var found snapshotMark
		if json.Unmarshal([]byte(value), &found) != nil || found.Image != i.at.ID {
			continue // a parent's, which the clone inherited
		}
		switch snapshot, isSnapshot := strings.CutPrefix(key, snapshotMarkKey); {
		case isSnapshot:
			m.snapshots[snapshot] = found
		case key == volumeKey:
			m.volume = &found.mark
		case key == overwriteKey:
			m.overwrite = &found.mark
		}
	}
	i.marks = m
	return nil
}

// setMark writes a mark. Whoever takes a snapshot of a group holds the image's lock for a moment.
func (i *image) setMark(ctx context.Context, key string, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return i.cluster.insist(ctx, "mark "+i.at.String(), func() error { return i.SetMetadata(key, string(raw)) })
}

// tagged are the tags of what a token made.
func tagged(tags map[string]string, token string) map[string]string {
	all := map[string]string{}
	maps.Copy(all, tags)
	all[providers.TagToken] = token
	return all
}

// tags of a volume: what others keep in its metadata, and Muster's own when it made the volume.
func (m marks) tags() map[string]string {
	all := maps.Clone(m.other)
	if m.volume != nil {
		maps.Copy(all, m.volume.Tags)
	}
	return all
}

// unfinished says why an image is not to be taken for a volume; empty when it is one.
func (m marks) unfinished() string {
	switch {
	case m.overwrite != nil && m.overwrite.State == writing:
		return "it is being overwritten; repeat the write that was cut off"
	case m.volume == nil, m.volume.State == complete:
		return ""
	case m.volume.State == deleting:
		return "it is being deleted; repeat the deletion"
	case m.volume.State == copied:
		return "it holds a copy of a snapshot"
	}
	return "it is not complete; repeat the call that makes it"
}
