package repository

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"path"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/kopia/kopia/snapshot"

	"github.com/musterdr/muster/providers/fault"
)

// VerifyReport says what Verify read.
type VerifyReport struct {
	Files    int   `json:"files"`
	Bytes    int64 `json:"bytes"`
	Compared int   `json:"compared"` // files whose digest the manifest names
}

// parallelReads is how many files Verify reads at once.
const parallelReads = 8

// Verify reads every byte of a point back and compares each digest that the signed manifest names.
func (r *Repository) Verify(ctx context.Context, p Point, progress func(bytes, files int64)) (VerifyReport, error) {
	m, err := r.Manifest(ctx, p)
	if err != nil {
		return VerifyReport{}, err
	}
	want := m.contents()
	var mu sync.Mutex
	report := VerifyReport{}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelReads)
	err = r.walk(ctx, p.Root, "", func(name string, entry *snapshot.DirEntry) error {
		expected, named := want[name]
		delete(want, name)
		group.Go(func() error {
			size, digest, err := r.digest(ctx, p, entry, expected)
			if err != nil {
				return fault.New("verify", fault.KindOf(err), name, err)
			}
			if size != entry.FileSize || named && (size != expected.Size || digest != expected.SHA256) {
				return fault.Newf("verify", fault.Corrupt, name, "it holds %d bytes with digest %s, the manifest says %d with %s", size, digest, expected.Size, expected.SHA256)
			}
			mu.Lock()
			defer mu.Unlock()
			report.Files++
			report.Bytes += size
			if named {
				report.Compared++
			}
			progress(size, 1)
			return nil
		})
		return ctx.Err()
	})
	if waited := group.Wait(); waited != nil {
		return report, waited
	}
	if err != nil {
		return report, err
	}
	for name := range want {
		return report, fault.Newf("verify", fault.Corrupt, name, "the manifest names it and the point lacks it")
	}
	return report, nil
}

// digest reads a file through, by the rule of the digest that it should have.
func (r *Repository) digest(ctx context.Context, p Point, entry *snapshot.DirEntry, expected Content) (int64, string, error) {
	switch expected.Rule {
	case "":
		return r.readAll(ctx, entry)
	case RuleChunks:
		return r.imageDigest(ctx, ID(entry.ObjectID.String()))
	case RuleSegments:
		index, err := r.find(ctx, p.Root, path.Join(path.Dir(expected.Path), filesIndex))
		if err != nil {
			return 0, "", err
		}
		return r.segmentsDigest(ctx, ID(entry.ObjectID.String()), ID(index.ObjectID.String()))
	default:
		return 0, "", fault.Newf("verify", fault.Unsupported, expected.Path, "its digest is by the rule %q: use a newer muster", expected.Rule)
	}
}

func (r *Repository) readAll(ctx context.Context, entry *snapshot.DirEntry) (int64, string, error) {
	opened, err := r.Open(ctx, ID(entry.ObjectID.String()))
	if err != nil {
		return 0, "", err
	}
	defer opened.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, opened)
	return size, hex.EncodeToString(sum.Sum(nil)), err
}

// contents are all files whose digests the manifest names, by path.
func (m Manifest) contents() map[string]Content {
	out := map[string]Content{}
	add := func(c Content) {
		if c.Path != "" && c.SHA256 != "" {
			out[c.Path] = c
		}
	}
	if m.Etcd != nil {
		add(m.Etcd.Snapshot)
	}
	if m.Namespaces != nil {
		add(m.Namespaces.Index)
	}
	for _, volume := range m.Volumes {
		if volume.Image != nil {
			add(volume.Image.Image)
			add(volume.Image.Chunks)
		}
		if volume.Files != nil {
			add(volume.Files.Archive)
			add(volume.Files.Index)
		}
	}
	for _, machine := range m.Machines {
		add(machine.Rootfs)
		for _, device := range machine.Devices {
			add(device.Image)
		}
	}
	return out
}

// segmentsDigest reads an archive as one file and computes its digest by RuleSegments; the index tells
// where its segments end.
func (r *Repository) segmentsDigest(ctx context.Context, archive, index ID) (int64, string, error) {
	whole, err := r.Open(ctx, archive)
	if err != nil {
		return 0, "", err
	}
	defer whole.Close()
	file, in, err := r.openIndex(ctx, Archive{Index: Object{ID: index}})
	if err != nil {
		return 0, "", err
	}
	defer file.Close()
	digest, size := newChunksDigest(), int64(0)
	next := func(length int64) error {
		sum := sha256.New()
		n, err := io.CopyN(sum, whole, length)
		size += n
		if errors.Is(err, io.EOF) {
			return badIndex("its segments are longer than the archive")
		}
		digest.add([sha256.Size]byte(sum.Sum(nil)))
		return err
	}
	for {
		line, err := in.next()
		if errors.Is(err, io.EOF) {
			err = next(2 * tarBlock)
			return size, digest.String(), err
		}
		if err == nil && line.Link == nil {
			err = next(line.Size)
		}
		if err != nil {
			return 0, "", r.indexFailed(err)
		}
	}
}
