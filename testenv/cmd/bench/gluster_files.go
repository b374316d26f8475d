package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/musterdr/muster/orchestrator/volume"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/gluster"
)

// The tree that gluster-files captures: files half random and half text.
const (
	glusterFolders = 64
	glusterFiles   = 32 // in each folder
	glusterBytes   = 32 << 10
	glusterVolume  = "bench"
)

func glusterCapture() benchmark {
	const total = glusterFolders * glusterFiles
	return benchmark{
		name: "gluster-files", unit: "files/s", against: "kopia snapshot create of a mount", runs: 3, warm: true,
		how: fmt.Sprintf("%d files of 32 KiB in %d folders of a Gluster volume with two replicas, on two machines. Ours is what capture-volumes does without snapshots: attach, archive into an empty repository (encrypted, compressed, flushed), detach, all through the provider's process. ", total, glusterFolders) +
			"The reference mounts the volume, has the stock kopia command make a snapshot of it with the same compression, into an empty repository, and unmounts.",
		prepare: prepareGluster,
	}
}

// glusterBench is a pool of two machines with a filled volume.
type glusterBench struct {
	on       *stage
	server   string
	provider providers.Provider
	volume   providers.Volume
	kopia    string
	made     int
}

func prepareGluster(ctx context.Context, on *stage) (sides, error) {
	b := &glusterBench{on: on}
	if err := testenv.Install(ctx, "glusterfs-client", "attr"); err != nil {
		return sides{}, err
	}
	var err error
	if b.kopia, err = testenv.StockKopia(ctx); err != nil {
		return sides{}, err
	}
	lab, err := newLab(ctx, on)
	if err != nil {
		return sides{}, err
	}
	pool, err := gluster.Up(ctx, lab, 2<<30, labName+"-a", labName+"-b")
	if err != nil {
		return sides{}, err
	}
	b.server = pool.Peers[0].Address
	for _, line := range [][]string{
		{"volume", "create", glusterVolume, "replica", "2", pool.Peers[0].Address + ":/bricks/v", pool.Peers[1].Address + ":/bricks/v"},
		{"volume", "start", glusterVolume},
	} {
		if _, err := pool.CLI(ctx, line...); err != nil {
			return sides{}, err
		}
	}
	if err := b.mounted(ctx, fillTree); err != nil {
		return sides{}, err
	}
	b.provider, err = startProvider(ctx, on, "gluster", map[string]any{
		"ssh":         map[string]any{"user": "root", "keyFile": lab.KeyFile(), "knownHostsFile": lab.KnownHostsFile()},
		"peers":       []any{map[string]any{"address": pool.Peers[0].Address}, map[string]any{"address": pool.Peers[1].Address}},
		"mountFolder": on.fresh("mounts"),
	})
	if err != nil {
		return sides{}, err
	}
	b.volume, err = findVolume(ctx, b.provider, glusterVolume)
	return sides{ours: b.ours, reference: b.reference}, err
}

// mounted mounts the volume as anybody would, does something there, and unmounts.
func (b *glusterBench) mounted(ctx context.Context, do func(at string) error) (err error) {
	at := b.on.fresh("mount")
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	if err := run(exec.CommandContext(ctx, "mount", "-t", "glusterfs", b.server+":/"+glusterVolume, at)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, run(command(context.WithoutCancel(ctx), "umount", at))) }()
	return do(at)
}

func fillTree(at string) error {
	for i := range glusterFolders {
		folder := filepath.Join(at, fmt.Sprintf("folder-%02d", i))
		if err := os.Mkdir(folder, 0o755); err != nil {
			return err
		}
		for j := range glusterFiles {
			from := newSource(uint64(i*glusterFiles + j))
			content := append(from.random(glusterBytes/2), from.text(glusterBytes/2)...)
			if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("file-%02d", j)), content[:glusterBytes], 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *glusterBench) ours(ctx context.Context) (rate float64, err error) {
	v, err := newVault(ctx, b.on)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, v.remove(ctx)) }()
	b.made++
	began := time.Now()
	captured, err := volume.FileCapture{
		Provider: b.provider, Volume: b.volume.Handle, Token: fmt.Sprintf("bench-%d", b.made), Repository: v.Repository, Progress: silence{},
	}.Capture(ctx)
	if err != nil {
		return 0, err
	}
	err = v.Flush(ctx)
	took := time.Since(began)
	if files := captured.Stats.Entries - glusterFolders - 1; err == nil && files < glusterFolders*glusterFiles {
		err = fmt.Errorf("the archive has %d files", files)
	}
	return each(glusterFolders*glusterFiles, took), err
}

func (b *glusterBench) reference(ctx context.Context) (float64, error) {
	dir := b.on.fresh("stock")
	defer os.RemoveAll(dir)
	if err := b.shell(ctx, dir, stockCreate); err != nil {
		return 0, err
	}
	began := time.Now()
	err := b.mounted(ctx, func(at string) error { return b.shell(ctx, dir, `"$KOPIA" snapshot create `+at) })
	return each(glusterFolders*glusterFiles, time.Since(began)), err
}

func (b *glusterBench) shell(ctx context.Context, dir, script string) error {
	return run(command(ctx, "bash", "-ec", stockScript(b.kopia, dir, script)))
}
