package steps

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/machine"
	"github.com/musterdr/muster/providers/fault"
)

const (
	etcdDefaultDataDir = "/var/lib/etcd"
	etcdMarkerPath     = "/etc/muster/etcd-restored"
)

// etcdPlace is the data directory of a target machine, and how one run writes to it.
//
// The directory may be a mount point, so it can't be swapped as a whole: content is unpacked into a
// folder inside it that carries the run's ID, and moved from there. The folder is made only while the
// directory is empty and removed last, after the marker was written: while it exists, everything
// beside it is this run's own unfinished work and may be wiped. The marker stands outside.
type etcdPlace struct {
	run     string
	dataDir string
	marker  string
}

// etcdState is what a data directory holds.
type etcdState string

const (
	etcdEmpty    etcdState = "empty"
	etcdPartial  etcdState = "partial"  // an earlier try of this run was cut off
	etcdRestored etcdState = "restored" // by this run
	etcdForeign  etcdState = "foreign"
)

// etcdFound is what a machine looks like.
type etcdFound struct {
	state   etcdState
	kubelet bool
	free    int64 // bytes
}

// findEtcdPlace reads the member's static pod, when restore-machines has put it there, for the data
// directory, and refuses a manifest that is for another member.
func findEtcdPlace(ctx context.Context, host etcdHost, run, name string) (etcdPlace, error) {
	place := etcdPlace{run: run, dataDir: etcdDefaultDataDir, marker: etcdMarkerPath}
	raw, err := host.ReadFile(ctx, etcdManifestPath)
	if fault.Is(err, fault.NotFound) {
		return place, nil
	}
	if err != nil {
		return place, err
	}
	pod, err := parseEtcdStaticPod(etcdManifestPath, raw)
	if err != nil {
		return place, err
	}
	if is, ok := pod.flags["name"]; ok && is != name {
		return place, fault.Newf(restoringEtcd, fault.Invalid, name, "its %s is for member %s: restore the machine again", etcdManifestPath, is)
	}
	if dir := pod.flags["data-dir"]; dir != "" {
		place.dataDir = dir
	}
	return place, nil
}

// work is the folder that content is unpacked into.
func (p etcdPlace) work() string { return p.dataDir + "/.muster-" + p.run }

// others lists what is in the data directory beside the work folder. A filesystem of its own has a
// lost+found.
func (p etcdPlace) others() string {
	return "find " + machine.Quote(p.dataDir) + " -mindepth 1 -maxdepth 1 ! -name lost+found ! -name " + machine.Quote(".muster-"+p.run)
}

func (p etcdPlace) lookScript() string {
	return `dir=` + machine.Quote(p.dataDir) + `
if [ "$(cat ` + machine.Quote(p.marker) + ` 2>/dev/null)" = ` + machine.Quote(p.run) + ` ] && [ -e "$dir/member/snap/db" ]; then echo restored
elif [ -d ` + machine.Quote(p.work()) + ` ]; then echo partial
elif [ -d "$dir" ] && [ -n "$(` + p.others() + ` | head -n 1)" ]; then echo foreign
else echo empty
fi
while [ ! -d "$dir" ]; do dir=$(dirname "$dir"); done
df -Pk "$dir" | tail -n 1`
}

func (p etcdPlace) look(ctx context.Context, host etcdHost) (etcdFound, error) {
	out, err := host.Output(ctx, p.lookScript())
	if err != nil {
		return etcdFound{}, err
	}
	state, usage, _ := strings.Cut(strings.TrimSpace(out), "\n")
	fields := strings.Fields(usage) // device, blocks, used, available, …
	if len(fields) < 4 {
		return etcdFound{}, fault.Newf(restoringEtcd, fault.Internal, p.dataDir, "its free space can't be read from %q", usage)
	}
	free, err := strconv.ParseInt(fields[3], 10, 64)
	if err != nil {
		return etcdFound{}, fault.Newf(restoringEtcd, fault.Internal, p.dataDir, "its free space can't be read from %q", usage)
	}
	err = host.Service(ctx, "is-active", "kubelet")
	if err != nil && !errors.As(err, new(*machine.ExitError)) {
		return etcdFound{}, err
	}
	return etcdFound{state: etcdState(state), kubelet: err == nil, free: free << 10}, nil
}

func (f etcdFound) ours() bool { return f.state == etcdRestored || f.state == etcdPartial }

// refuse reports why this run must not write: nil when it may, or already has.
func (f etcdFound) refuse(name, dir string, need int64) error {
	switch {
	case f.state == etcdRestored:
		return nil
	case f.state == etcdForeign:
		return fault.Newf(restoringEtcd, fault.Exists, name, "%s is not empty: move its content away, if nobody needs it any more", dir)
	case f.kubelet:
		return fault.Newf(restoringEtcd, fault.Busy, name, "kubelet runs and could start etcd meanwhile: stop it (systemctl stop kubelet)")
	case f.free < need:
		return fault.Newf(restoringEtcd, fault.NoSpace, name, "%s has %d MiB free, %d are needed: give it a larger disk", dir, f.free>>20, need>>20)
	}
	return nil
}

// receiveScript takes a compressed tar on its standard input. Each sync comes before what relies on
// the files being there after a power cut.
func (p etcdPlace) receiveScript() string {
	dir, work, marker := machine.Quote(p.dataDir), machine.Quote(p.work()), machine.Quote(p.marker)
	return `set -eu
umask 077
mkdir -p ` + dir + `
if [ -d ` + work + ` ]; then ` + p.others() + ` -exec rm -rf {} +; rm -rf ` + work + `; fi
if [ -n "$(` + p.others() + ` | head -n 1)" ]; then echo 'the data directory is not empty' >&2; exit 1; fi
chmod 700 ` + dir + `
mkdir ` + work + `
tar -xzf - -C ` + work + ` --no-same-owner
sync
mv ` + work + `/member ` + dir + `/member
mkdir -p "$(dirname ` + marker + `)"
printf '%s\n' ` + machine.Quote(p.run) + ` > ` + marker + `.new
sync
mv -f ` + marker + `.new ` + marker + `
sync
rm -rf ` + work
}

// clearScript empties the directory; the marker goes last, so that a cut leaves it ours.
func (p etcdPlace) clearScript() string {
	return `set -eu
` + p.others() + ` -exec rm -rf {} +
rm -rf ` + machine.Quote(p.work()) + `
sync
rm -f ` + machine.Quote(p.marker)
}

// send streams a data directory to the machine and returns the digests of its files. Most of a new
// member's log is zeros, which compression takes out.
func (p etcdPlace) send(ctx context.Context, host etcdHost, dataDir string, progress orchestrator.Progress) (map[string]string, error) {
	reader, writer := io.Pipe()
	var files map[string]string
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		files, err = packEtcd(writer, dataDir, progress)
		_ = writer.CloseWithError(err) // never fails; an error must not look like the end
		return err
	})
	group.Go(func() error {
		err := host.Run(ctx, machine.Command{Script: p.receiveScript(), Stdin: reader})
		_ = reader.CloseWithError(errors.Join(err, io.ErrClosedPipe)) // never fails; lets packing end
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	progress.Add(0, 1)
	return files, nil
}

func packEtcd(w io.Writer, dataDir string, progress orchestrator.Progress) (map[string]string, error) {
	packed, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return nil, fault.New(restoringEtcd, fault.Internal, dataDir, err)
	}
	archive := tar.NewWriter(packed)
	files := map[string]string{}
	err = filepath.WalkDir(dataDir, func(path string, entry fs.DirEntry, err error) error {
		name, relErr := filepath.Rel(dataDir, path)
		// A log's preallocated next segment is made again by etcd itself.
		if err := errors.Join(err, relErr); err != nil || name == "." || strings.HasSuffix(name, ".tmp") {
			return err
		}
		digest, err := packEtcdFile(archive, path, name, entry, progress)
		if digest != "" {
			files[name] = digest
		}
		return err
	})
	if err := errors.Join(err, archive.Close(), packed.Close()); err != nil {
		return nil, fault.New(restoringEtcd, etcdWriteKind(err), dataDir, err)
	}
	return files, nil
}

func packEtcdFile(archive *tar.Writer, path, name string, entry fs.DirEntry, progress orchestrator.Progress) (digest string, err error) {
	info, err := entry.Info()
	if err != nil {
		return "", err
	}
	header := &tar.Header{Name: name, Mode: int64(info.Mode().Perm()), ModTime: info.ModTime(), Typeflag: tar.TypeReg, Size: info.Size()}
	if entry.IsDir() {
		header.Typeflag, header.Size, header.Name = tar.TypeDir, 0, name+"/"
		return "", archive.WriteHeader(header)
	}
	if err := archive.WriteHeader(header); err != nil {
		return "", err
	}
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close() // it was only read
	hashed := newEtcdHash(archive)
	if _, err := io.Copy(hashed, file); err != nil {
		return "", err
	}
	if name == filepath.Join("member", "snap", "db") {
		progress.Add(info.Size(), 0) // the rest is small or zeros
	}
	return hashed.digest(), nil
}

// files returns the digests of the member's files on the machine.
func (p etcdPlace) files(ctx context.Context, host etcdHost) (map[string]string, error) {
	var out bytes.Buffer
	script := `cd ` + machine.Quote(p.dataDir) + ` && find member -type f -exec sha256sum {} +`
	if err := host.Run(ctx, machine.Command{Script: script, Stdout: &out}); err != nil {
		return nil, err
	}
	files := map[string]string{}
	for line := range strings.Lines(out.String()) {
		digest, name, ok := strings.Cut(strings.TrimRight(line, "\n"), "  ")
		if !ok {
			return nil, fault.Newf(restoringEtcd, fault.Internal, p.dataDir, "sha256sum answers %q", line)
		}
		files[name] = digest
	}
	return files, nil
}

// etcdHash hashes what it passes on.
type etcdHash struct {
	w   io.Writer
	sum hash.Hash
}

func newEtcdHash(w io.Writer) *etcdHash { return &etcdHash{w, sha256.New()} }

// Write implements io.Writer.
func (h *etcdHash) Write(p []byte) (int, error) {
	n, err := h.w.Write(p)
	h.sum.Write(p[:n])
	return n, err
}

func (h *etcdHash) digest() string { return hex.EncodeToString(h.sum.Sum(nil)) }

// etcdCountedReader tells progress what passes, and ends with its context.
type etcdCountedReader struct {
	ctx      context.Context
	r        io.Reader
	progress orchestrator.Progress
}

// Read implements io.Reader.
func (c etcdCountedReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, fault.New(restoringEtcd, fault.Transient, "", err)
	}
	n, err := c.r.Read(p)
	c.progress.Add(int64(n), 0)
	return n, err
}

// etcdWriteKind tells a full disk from what else a copy can end with.
func etcdWriteKind(err error) fault.Kind {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fault.NoSpace
	}
	return fault.KindOf(err)
}

func etcdFreeBytes(dir string) (int64, error) {
	var usage syscall.Statfs_t
	if err := syscall.Statfs(dir, &usage); err != nil {
		return 0, fault.New(restoringEtcd, fault.Internal, dir, err)
	}
	return int64(usage.Bavail) * usage.Bsize, nil
}
