package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/musterdr/muster/orchestrator/host"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/ceph"
)

// startProvider builds a provider's program, pins it, and starts it as muster does.
func startProvider(ctx context.Context, on *stage, name string, settings map[string]any, environment ...string) (providers.Provider, error) {
	folder := on.fresh("plugins")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	pins := filepath.Join(folder, "providers.pins")
	if err := buildProvider(ctx, name, filepath.Join(folder, host.Prefix+name)); err != nil {
		return nil, err
	}
	h, err := host.Open(ctx, host.Config{Folder: folder, Pins: pins, Log: noLog(), Now: time.Now})
	if err != nil {
		return nil, err
	}
	on.after(func(context.Context) error { return h.Close() })
	found, err := h.Find(name)
	if err != nil {
		return nil, err
	}
	if err := (host.Pins{name: found.SHA256}).Write(pins); err != nil {
		return nil, err
	}
	return h.Provider(ctx, plans.Storage{Name: "bench", Provider: name, Settings: settings, Environment: environment})
}

func buildProvider(ctx context.Context, name, program string) error {
	source := "./cmd/" + host.Prefix + name
	if name == "ceph" {
		return testenv.GoBuildCgo(ctx, source, program, ceph.Tags()...)
	}
	return testenv.GoBuild(ctx, source, program)
}

// findVolume finds the volume with an ID.
func findVolume(ctx context.Context, provider providers.Provider, id string) (providers.Volume, error) {
	var found providers.Volume
	err := provider.Discover(ctx, providers.Query{IDs: []string{id}}, func(v providers.Volume) error {
		found = v
		return nil
	})
	if err == nil && found.ID == "" {
		err = fmt.Errorf("the provider does not find %s", id)
	}
	return found, err
}

// snapshotOf takes one snapshot of one volume.
func snapshotOf(ctx context.Context, provider providers.Provider, v providers.Volume, token string) (providers.Snapshot, error) {
	set, err := provider.Snapshot(ctx, providers.SnapshotRequest{Token: token, Volumes: []providers.Handle{v.Handle}, Tags: map[string]string{providers.TagRun: "bench"}})
	if err != nil {
		return providers.Snapshot{}, err
	}
	return set.Snapshots[0], nil
}
