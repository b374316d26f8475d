package volume

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// Orphan is a snapshot of Muster's that no recovery point needs.
type Orphan struct {
	Storage  string             `json:"storage"`
	Snapshot providers.Snapshot `json:"snapshot"`
	Run      string             `json:"run"` // that made it
}

// OrphanSearch says where to look. Only snapshots that were made for the repository are looked at: its
// points alone tell whether one is needed.
type OrphanSearch struct {
	Repository *repository.Repository
	Backends   []Backend
	// Unfinished reports whether a run may still seal what it made.
	Unfinished func(run string) bool
	// Before spares newer snapshots: runs of other states, which Unfinished does not know, may be at work.
	Before time.Time
}

// Find lists the orphans, by storage and age. Nothing is changed.
func (o OrphanSearch) Find(ctx context.Context) ([]Orphan, error) {
	needed, err := neededSnapshots(ctx, o.Repository)
	if err != nil {
		return nil, err
	}
	var found []Orphan
	for _, backend := range o.Backends {
		query := providers.Query{Tags: map[string]string{providers.TagRepository: o.Repository.UniqueID()}}
		err := backend.Provider.ListSnapshots(ctx, query, func(s providers.Snapshot) error {
			run := s.Tags[providers.TagRun]
			if run == "" || needed[keyOf(s)] || o.Unfinished(run) || !s.Instant.Before(o.Before) {
				return nil
			}
			found = append(found, Orphan{Storage: backend.Storage, Snapshot: s, Run: run})
			return nil
		})
		if err != nil && !fault.Is(err, fault.Unsupported) {
			return nil, err
		}
	}
	slices.SortFunc(found, func(a, b Orphan) int {
		return cmp.Or(strings.Compare(a.Storage, b.Storage), a.Snapshot.Instant.Compare(b.Snapshot.Instant))
	})
	return found, nil
}

type snapshotKey struct{ provider, region, id string }

func keyOf(s providers.Snapshot) snapshotKey { return snapshotKey{s.Handle.Provider, s.Region, s.ID} }

// neededSnapshots are those that points consist of, and the base of each volume's next capture. A manifest
// that cannot be read is an error: what it needs is not known.
func neededSnapshots(ctx context.Context, from *repository.Repository) (map[snapshotKey]bool, error) {
	points, err := from.Points(ctx)
	if err != nil {
		return nil, err
	}
	needed := map[snapshotKey]bool{}
	based := map[string]bool{}     // volumes whose newest point was seen
	for _, point := range points { // newest first
		manifest, err := from.Manifest(ctx, point)
		if err != nil {
			return nil, err
		}
		for _, layer := range manifest.Volumes {
			volume := strings.Join([]string{manifest.Cluster, layer.Storage, layer.ID}, "\x00")
			if err := needs(needed, layer, based[volume]); err != nil {
				return nil, fault.New("read manifest", fault.Corrupt, point.ID, err)
			}
			based[volume] = based[volume] || layer.Mode != repository.VolumeSnapshot
		}
	}
	return needed, nil
}

func needs(needed map[snapshotKey]bool, layer repository.VolumeLayer, older bool) error {
	encoded := []json.RawMessage{}
	if len(layer.Snapshot) > 0 && (layer.Mode != repository.VolumeRepository || !older) {
		encoded = append(encoded, layer.Snapshot)
	}
	for _, copied := range layer.Copies {
		encoded = append(encoded, copied.Snapshot)
	}
	for _, raw := range encoded {
		var s providers.Snapshot
		if err := json.Unmarshal(raw, &s); err != nil {
			return err
		}
		needed[keyOf(s)] = true
	}
	return nil
}
