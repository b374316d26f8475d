package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/musterdr/muster/orchestrator/machine"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/state/repository"
	"github.com/musterdr/muster/testenv"
)

func machineCapture() benchmark {
	return benchmark{
		name: "machine-capture", unit: "MB/s", against: "tar over ssh into zstd", runs: 3, warm: true,
		how: "MB of tar a second out of the root filesystem of a lab machine. Ours logs in, reads with machine.Host.CaptureRootfs, and stores in an empty repository (encrypted, cut into chunks, compressed, flushed). " +
			"The reference is OpenSSH with its own defaults: ssh machine tar, with the same options and excludes, into zstd at its default level, into a file.",
		prepare: prepareMachineCapture,
	}
}

// machineBench is a blank machine of the lab.
type machineBench struct {
	on      *stage
	lab     *testenv.Lab
	name    string
	config  string // ssh_config
	tar     int64  // bytes of ours, of the reference, and what they stored
	peerTar int64
	stored  int64
	packed  int64
}

func prepareMachineCapture(ctx context.Context, on *stage) (sides, error) {
	m := &machineBench{on: on, name: "bench-blank", config: on.fresh("ssh_config")}
	var err error
	if m.lab, err = newLab(ctx, on); err != nil {
		return sides{}, err
	}
	if err := m.lab.NewMachine(ctx, testenv.Machine{Name: m.name, Role: testenv.RoleBlank}); err != nil {
		return sides{}, err
	}
	err = os.WriteFile(m.config, []byte(m.lab.SSHConfig()), 0o600)
	return sides{ours: m.ours, reference: m.reference, notes: m.notes}, err
}

// newLab makes an empty lab that ends with the benchmark.
func newLab(ctx context.Context, on *stage) (*testenv.Lab, error) {
	on.after(func(ctx context.Context) error { return testenv.Remove(ctx, labName) })
	return testenv.Create(ctx, labName, say)
}

func (m *machineBench) ours(ctx context.Context) (rate float64, err error) {
	v, err := newVault(ctx, m.on)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, v.remove(ctx)) }()
	began := time.Now()
	stored, err := captureMachine(ctx, m.lab, m.name, v)
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	m.tar = stored.Size
	m.stored, err = v.bytes()
	return perSecond(stored.Size, took), err
}

// captureMachine does what the step capture-machines does with a root filesystem.
func captureMachine(ctx context.Context, lab *testenv.Lab, name string, v *vault) (repository.Object, error) {
	host, err := machine.Dial(ctx, plans.Machine{Name: name, Address: lab.State.Machines[name].Address},
		plans.SSH{KeyFile: lab.KeyFile(), KnownHostsFile: lab.KnownHostsFile()})
	if err != nil {
		return repository.Object{}, err
	}
	defer host.Close()
	w, err := v.Create(ctx, name+"/rootfs.tar")
	if err != nil {
		return repository.Object{}, err
	}
	defer w.Abort()
	if err := host.CaptureRootfs(ctx, machine.DefaultExclude(), w); err != nil {
		return repository.Object{}, err
	}
	stored, err := w.Commit()
	if err != nil {
		return repository.Object{}, err
	}
	return stored, v.Flush(ctx)
}

func (m *machineBench) reference(ctx context.Context) (float64, error) {
	path := m.on.fresh("rootfs") + ".tar.zst"
	began := time.Now()
	if err := m.tarOverSSH(ctx, path); err != nil {
		return 0, err
	}
	took := time.Since(began)
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	m.packed = info.Size()
	if m.peerTar, err = unpackedSize(ctx, path); err != nil {
		return 0, err
	}
	return perSecond(m.peerTar, took), os.Remove(path)
}

// tarOverSSH is `ssh machine tar … | zstd >path`, without a shell in between.
func (m *machineBench) tarOverSSH(ctx context.Context, path string) error {
	script := "cd / && tar --create --format=pax --numeric-owner --xattrs --xattrs-include='*' --acls --sparse --sort=name --one-file-system --anchored --wildcards --wildcards-match-slash"
	for _, name := range machine.DefaultExclude() {
		script += " --exclude=" + machine.Quote("."+name+"/*")
	}
	ssh := command(ctx, "ssh", "-F", m.config, m.name, script+" --file=- .")
	var said strings.Builder
	ssh.Stderr = &said
	archive, err := ssh.StdoutPipe()
	if err != nil {
		return err
	}
	if err := ssh.Start(); err != nil {
		return err
	}
	zstd := command(ctx, "zstd", "-q", "-o", path)
	zstd.Stdin = archive // a pipe between the two processes: nothing passes through this one
	err = run(zstd)
	if waited := ssh.Wait(); waited != nil {
		return fmt.Errorf("ssh: %w: %s", errors.Join(waited, err), said.String())
	}
	return err
}

func unpackedSize(ctx context.Context, path string) (int64, error) {
	zstd := command(ctx, "zstd", "-q", "-d", "-c", path)
	content, err := zstd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := zstd.Start(); err != nil {
		return 0, err
	}
	size, err := io.Copy(io.Discard, content)
	return size, errors.Join(err, zstd.Wait())
}

func (m *machineBench) notes() []string {
	return []string{fmt.Sprintf("Ours stored %s MB of a tar of %s MB, the reference %s MB of %s MB.",
		figure(float64(m.stored)/1e6), figure(float64(m.tar)/1e6), figure(float64(m.packed)/1e6), figure(float64(m.peerTar)/1e6))}
}
