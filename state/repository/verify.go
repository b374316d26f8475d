package repository

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
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
	err = r.walk(ctx, p.Root, "", func(path string, entry *snapshot.DirEntry) error {
		expected, named := want[path]
		delete(want, path)
		group.Go(func() error {
			size, digest, err := r.digest(ctx, entry, expected)
			if err != nil {
				return fault.New("verify", fault.KindOf(err), path, err)
			}
			if size != entry.FileSize || named && (size != expected.Size || digest != expected.SHA256) {
				return fault.Newf("verify", fault.Corrupt, path, "it holds %d bytes with digest %s, the manifest says %d with %s", size, digest, expected.Size, expected.SHA256)
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
	for path := range want {
		return report, fault.Newf("verify", fault.Corrupt, path, "the manifest names it and the point lacks it")
	}
	return report, nil
}

// digest reads a file through, by the rule of the digest that it should have.
func (r *Repository) digest(ctx context.Context, entry *snapshot.DirEntry, expected Content) (int64, string, error) {
	switch expected.Rule {
	case "":
		return r.readAll(ctx, entry)
	case RuleChunks:
		return r.imageDigest(ctx, ID(entry.ObjectID.String()))
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
