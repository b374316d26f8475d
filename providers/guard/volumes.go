package guard

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/musterdr/muster/providers"
)

func (g *Guard) checkVolume(op string, v providers.Volume) error {
	if err := g.checkDescribed(op, described{
		handle: v.Handle, id: v.ID, names: []string{v.Zone, v.Machine}, tags: v.Tags, parameters: v.Parameters,
	}); err != nil {
		return err
	}
	if v.Content != providers.ContentBlocks && v.Content != providers.ContentFiles {
		return g.lie(op, "%s has the content %.80q", v.ID, v.Content)
	}
	if v.Size < 0 || v.Used < -1 {
		return g.lie(op, "%s has %d bytes, %d of them used", v.ID, v.Size, v.Used)
	}
	g.volumes.put(v.Handle, thing{id: v.ID, size: v.Size})
	return nil
}

// volume makes a call that answers with a volume.
func (g *Guard) volume(ctx context.Context, op string, call func(context.Context) (providers.Volume, error)) (providers.Volume, error) {
	v, err := one(ctx, g, op, call)
	if err == nil {
		err = g.checkVolume(op, v)
	}
	if err != nil {
		return providers.Volume{}, err
	}
	return v, nil
}

// checkMade holds a new volume against what was asked for. Backends round sizes up; the quota of a file
// volume may be none.
func (g *Guard) checkMade(op string, request providers.CreateRequest, v providers.Volume) error {
	if request.Content != "" && v.Content != request.Content {
		return g.lie(op, "%s holds %s, %s were asked for", v.ID, v.Content, request.Content)
	}
	unlimited := v.Content == providers.ContentFiles && v.Size == 0
	if v.Size < request.Size && !unlimited {
		return g.lie(op, "%s has %d bytes, %d were asked for", v.ID, v.Size, request.Size)
	}
	return nil
}

// once refuses what is listed twice, and lists without end.
func (g *Guard) once(op string) func(id string) error {
	ids := map[string]bool{}
	return func(id string) error {
		if ids[id] {
			return g.lie(op, "%s is listed twice", id)
		}
		if len(ids) >= g.config.List {
			return g.lie(op, "it lists more than %d", g.config.List)
		}
		ids[id] = true
		return nil
	}
}

// Discover implements providers.Volumes.
func (g *Guard) Discover(ctx context.Context, query providers.Query, each func(providers.Volume) error) error {
	const op = "discover volumes"
	if err := g.needs(op, providers.CapDiscover); err != nil {
		return err
	}
	once := g.once(op)
	check := func(v providers.Volume) error {
		if err := g.checkVolume(op, v); err != nil {
			return err
		}
		if !matches(query.Tags, v.Tags) || len(query.IDs) > 0 && !slices.Contains(query.IDs, v.ID) || query.Machine != "" && v.Machine != query.Machine {
			return g.lie(op, "%s is not what was asked for", v.ID)
		}
		return once(v.ID)
	}
	return list(ctx, g, op, func(ctx context.Context, each func(providers.Volume) error) error {
		return g.inner.Discover(ctx, query, each)
	}, check, each)
}

// Volume implements providers.Volumes.
func (g *Guard) Volume(ctx context.Context, volume providers.Handle) (providers.Volume, error) {
	return g.volume(ctx, "describe volume", func(ctx context.Context) (providers.Volume, error) {
		return g.inner.Volume(ctx, volume)
	})
}

// Match implements providers.Volumes.
func (g *Guard) Match(ctx context.Context, pv *corev1.PersistentVolume) (providers.Volume, error) {
	return g.volume(ctx, "match volume", func(ctx context.Context) (providers.Volume, error) {
		return g.inner.Match(ctx, pv)
	})
}

// Bind implements providers.Volumes.
func (g *Guard) Bind(ctx context.Context, volume providers.Handle, pv *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	const op = "bind volume"
	bound, err := one(ctx, g, op, func(ctx context.Context) (*corev1.PersistentVolume, error) {
		return g.inner.Bind(ctx, volume, pv)
	})
	if err != nil {
		return nil, err
	}
	kept := bound != nil && bound.Name == pv.Name && bound.Spec.StorageClassName == pv.Spec.StorageClassName &&
		equality.Semantic.DeepEqual(bound.Spec.AccessModes, pv.Spec.AccessModes) &&
		equality.Semantic.DeepEqual(bound.Spec.ClaimRef, pv.Spec.ClaimRef)
	if !kept {
		return nil, g.lie(op, "it changed the name, the class, the access modes or the claim of %s", pv.Name)
	}
	return bound, nil
}

// Create implements providers.Volumes.
func (g *Guard) Create(ctx context.Context, request providers.CreateRequest) (providers.Volume, error) {
	const op = "create volume"
	capability := providers.CapCreate
	if !request.Snapshot.IsZero() {
		capability = providers.CapClone
	}
	if err := g.needs(op, capability); err != nil {
		return providers.Volume{}, err
	}
	v, err := g.volume(ctx, op, func(ctx context.Context) (providers.Volume, error) { return g.inner.Create(ctx, request) })
	if err != nil {
		return providers.Volume{}, err
	}
	return v, g.checkMade(op, request, v)
}

// DeleteVolume implements providers.Volumes.
func (g *Guard) DeleteVolume(ctx context.Context, volume providers.Handle) error {
	return g.remove(ctx, "delete volume", volume, g.inner.DeleteVolume)
}

// remove makes a call without an answer.
func (g *Guard) remove(ctx context.Context, op string, handle providers.Handle, call func(context.Context, providers.Handle) error) error {
	return g.watch(ctx, op, func(ctx context.Context, _ *life) error { return call(ctx, handle) })
}
