package mem

import (
	"context"
	"maps"
	"regexp"
	"slices"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// parameters are those that Create knows: they are kept, and mean nothing.
var parameters = [...]string{"class", "pool"}

// Discover implements providers.Provider.
func (p *provider) Discover(ctx context.Context, query providers.Query, each func(providers.Volume) error) error {
	b, err := p.ready("discover volumes")
	if err != nil {
		return err
	}
	var s state
	if err := b.view(ctx, &s); err != nil {
		return err
	}
	for _, v := range sorted(s.Volumes) {
		if !matches(query.Tags, v.Tags) || query.Machine != "" && query.Machine != v.Machine ||
			len(query.IDs) > 0 && !slices.Contains(query.IDs, v.ID) {
			continue
		}
		if ctx.Err() != nil {
			return ended(ctx, "discover volumes")
		}
		if err := each(b.describe(v)); err != nil {
			return err
		}
	}
	return nil
}

// Volume implements providers.Provider.
func (p *provider) Volume(ctx context.Context, h providers.Handle) (providers.Volume, error) {
	const op = "describe volume"
	b, err := p.ready(op)
	if err != nil {
		return providers.Volume{}, err
	}
	id, err := identify(op, "volume", h)
	if err != nil {
		return providers.Volume{}, err
	}
	return b.lookUp(ctx, op, id)
}

func (b *Backend) lookUp(ctx context.Context, op, id string) (providers.Volume, error) {
	var s state
	if err := b.view(ctx, &s); err != nil {
		return providers.Volume{}, err
	}
	v := s.Volumes[id]
	if v == nil {
		return providers.Volume{}, gone(op, id)
	}
	return b.describe(v), nil
}

func (b *Backend) describe(v *volume) providers.Volume {
	return providers.Volume{
		Handle: handle("volume", v.ID), ID: v.ID, Content: v.Content, Size: v.Size, Used: b.used(v), Zone: v.Zone, Machine: v.Machine,
		ChangedBlocks: v.Content == providers.ContentBlocks, Tags: maps.Clone(v.Tags), Parameters: maps.Clone(v.Parameters),
	}
}

func (b *Backend) used(v *volume) int64 {
	if v.Content != providers.ContentBlocks {
		return -1
	}
	t, err := b.tableOf(v.Image)
	if err != nil {
		return -1
	}
	return min(int64(len(t))*pageSize, v.Size)
}

// Create implements providers.Provider.
func (p *provider) Create(ctx context.Context, request providers.CreateRequest) (providers.Volume, error) {
	const op = "create volume"
	b, err := p.ready(op)
	if err != nil {
		return providers.Volume{}, err
	}
	if err := checkCreate(op, request); err != nil {
		return providers.Volume{}, err
	}
	by := by(request.Token, request)
	if v, err := b.madeVolume(ctx, op, by); v != nil || err != nil {
		return b.answer(v), err
	}
	v := newVolume(request, by)
	var source snapshot
	if !request.Snapshot.IsZero() {
		if source, err = b.snapshotOf(ctx, op, request.Snapshot); err != nil {
			return providers.Volume{}, err
		}
		if err := v.fit(op, source); err != nil {
			return providers.Volume{}, err
		}
		v.Image = source.Image
	}
	return b.insert(ctx, op, v, source)
}

// insert puts a new volume into the state, unless its request has one there already.
func (b *Backend) insert(ctx context.Context, op string, v *volume, source snapshot) (providers.Volume, error) {
	result := v
	err := b.withTree(ctx, v, source.Tree, func(s *state) error {
		existing, err := s.madeVolume(op, v.made)
		if err != nil {
			return err
		}
		if existing != nil {
			result = existing
			return errUnchanged
		}
		if source.ID != "" && s.Snapshots[source.ID] == nil {
			return gone(op, source.ID)
		}
		s.Volumes[v.ID] = v
		return nil
	})
	if err != nil {
		return providers.Volume{}, err
	}
	return b.describe(result), nil
}

// answer describes a volume, if there is one.
func (b *Backend) answer(v *volume) providers.Volume {
	if v == nil {
		return providers.Volume{}
	}
	return b.describe(v)
}

func checkCreate(op string, r providers.CreateRequest) error {
	refuse := func(format string, args ...any) error {
		return fault.Newf(op, fault.Invalid, r.Name, format, args...)
	}
	switch {
	case r.Token == "":
		return refuse("no token")
	case r.Content != providers.ContentBlocks && r.Content != providers.ContentFiles:
		return refuse("content %q: there are blocks and files", r.Content)
	case r.Size < 0, r.Size == 0 && r.Snapshot.IsZero() && r.Content == providers.ContentBlocks:
		return refuse("a size of %d bytes", r.Size)
	}
	for key := range r.Parameters {
		if !slices.Contains(parameters[:], key) {
			return refuse("parameter %q: there are %q", key, parameters)
		}
	}
	return nil
}

var noID = regexp.MustCompile(`[^a-zA-Z0-9.-]+`)

func newVolume(r providers.CreateRequest, by made) *volume {
	name := "vol"
	if r.Name != "" {
		name = noID.ReplaceAllString(r.Name, "-")
	}
	return &volume{
		made: by, ID: name + "-" + random(), Content: r.Content, Size: r.Size, Zone: r.Zone,
		Tags: tagged(r.Tags, r.Token), Parameters: maps.Clone(r.Parameters),
	}
}

// fit takes content and size from a snapshot.
func (v *volume) fit(op string, source snapshot) error {
	if v.Content != source.Content {
		return fault.Newf(op, fault.Invalid, source.ID, "the snapshot is one of %s, not of %s", source.Content, v.Content)
	}
	if v.Size == 0 {
		v.Size = source.Size
	}
	if v.Size < source.Size {
		return fault.Newf(op, fault.Invalid, source.ID, "the snapshot needs %d bytes, not %d", source.Size, v.Size)
	}
	return nil
}

func (b *Backend) madeVolume(ctx context.Context, op string, by made) (*volume, error) {
	var s state
	if err := b.view(ctx, &s); err != nil {
		return nil, err
	}
	return s.madeVolume(op, by)
}

func (s *state) madeVolume(op string, by made) (*volume, error) {
	for _, v := range sorted(s.Volumes) {
		if same, err := v.same(op, by); same || err != nil {
			return v, err
		}
	}
	return nil, nil
}

// DeleteVolume implements providers.Provider.
func (p *provider) DeleteVolume(ctx context.Context, h providers.Handle) error {
	const op = "delete volume"
	b, err := p.ready(op)
	if err != nil {
		return err
	}
	id, err := identify(op, "volume", h)
	if err != nil {
		return err
	}
	return b.update(ctx, func(s *state) error {
		v := s.Volumes[id]
		if v == nil {
			return errUnchanged
		}
		if !ours(v.Tags) {
			return fault.Newf(op, fault.Denied, id, "Muster did not make it: it has no tag %s", providers.TagRun)
		}
		if v.Machine != "" {
			return fault.Newf(op, fault.Busy, id, "machine %s uses it", v.Machine)
		}
		delete(s.Volumes, id)
		return b.sweep(s)
	})
}
