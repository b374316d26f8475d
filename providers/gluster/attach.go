package gluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// record is what a mount was made for. It is written before the mount, so that whoever finds the one finds
// the other.
type record struct {
	Token    string    `json:"token"`
	Digest   string    `json:"digest"`
	Volfile  string    `json:"volfile"`
	ReadOnly bool      `json:"readOnly"`
	Mark     string    `json:"mark,omitempty"`
	Instant  time.Time `json:"instant"`
}

// Attach implements providers.Files by a mount of the FUSE client. Instant is zero for a live volume.
func (p *provider) Attach(ctx context.Context, request providers.AttachRequest) (providers.Attachment, error) {
	const op = "attach volume"
	pool, err := p.ready(op)
	if err != nil {
		return providers.Attachment{}, err
	}
	if request.Token == "" || request.Volume.IsZero() == request.Snapshot.IsZero() {
		return providers.Attachment{}, fault.Newf(op, fault.Invalid, request.Token, "it takes a token, and a volume or a snapshot")
	}
	if !request.Snapshot.IsZero() {
		if _, err := p.snapshots(op); err != nil {
			return providers.Attachment{}, err
		}
	}
	raw, err := json.Marshal(request)
	if err != nil {
		return providers.Attachment{}, fault.New(op, fault.Internal, request.Token, err)
	}
	sum := sha256.Sum256(raw)
	wanted := record{Token: request.Token, Digest: hex.EncodeToString(sum[:8]), ReadOnly: request.ReadOnly || request.Volume.IsZero()}
	id := key(request.Token)
	release, err := p.exclusive(ctx, op, pool, id)
	if err != nil {
		return providers.Attachment{}, err
	}
	defer release()
	m := pool.mountpoint(id)
	found, err := m.find(ctx, op, wanted)
	if err != nil || found != nil {
		return m.attachment(id, found), err
	}
	if err := pool.prepare(ctx, op, request, id, &wanted); err != nil {
		return providers.Attachment{}, err
	}
	if err := m.save(op, wanted); err != nil {
		return providers.Attachment{}, err
	}
	if err := m.mount(ctx, op, wanted.Volfile, wanted.ReadOnly); err != nil {
		return providers.Attachment{}, errors.Join(err, m.remove(op))
	}
	return m.attachment(id, &wanted), nil
}

func (m mountpoint) attachment(id string, r *record) providers.Attachment {
	if r == nil {
		return providers.Attachment{}
	}
	return providers.Attachment{Handle: state{Mount: id}.handle(), Path: m.path(), Mark: r.Mark, Instant: r.Instant}
}

// prepare finds what is to be mounted, and marks the moment.
func (p *pool) prepare(ctx context.Context, op string, request providers.AttachRequest, id string, r *record) error {
	if request.Volume.IsZero() {
		return p.prepareSnapshot(ctx, op, request.Snapshot, id, r)
	}
	s, err := openVolume(op, request.Volume)
	if err != nil {
		return err
	}
	v, err := p.same(ctx, op, s)
	if err != nil {
		return err
	}
	if !v.started() {
		return fault.Newf(op, fault.Busy, v.Name, "it is stopped: gluster volume start %s", v.Name)
	}
	r.Volfile = v.Name
	r.Mark, err = p.markNow(ctx, v, id)
	return err
}

// exclusive keeps everybody else, in other processes too, from one mount.
func (p *provider) exclusive(ctx context.Context, op string, pool *pool, id string) (release func(), err error) {
	inside, err := p.locks.take(ctx, op, "mount "+id)
	if err != nil {
		return nil, err
	}
	folder := filepath.Join(pool.settings.MountFolder, id)
	if err := os.MkdirAll(pool.settings.MountFolder, 0o700); err != nil {
		inside()
		return nil, broken(op, folder, err)
	}
	file, err := lockFile(ctx, op, folder+".lock")
	if err != nil {
		inside()
		return nil, err
	}
	return func() { _ = file.Close(); inside() }, nil
}

// lockFile locks the file of this name. It is removed with the mount, so that whoever waited for it may hold
// one that has no name any more.
func lockFile(ctx context.Context, op, name string) (*os.File, error) {
	for {
		file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, broken(op, name, err)
		}
		if err := flock(ctx, op, file); err != nil {
			_ = file.Close()
			return nil, err
		}
		mine, err := file.Stat()
		if there, gone := os.Stat(name); err == nil && gone == nil && os.SameFile(mine, there) {
			return file, nil
		}
		_ = file.Close()
	}
}

func flock(ctx context.Context, op string, file *os.File) error {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			if err != nil {
				err = broken(op, file.Name(), err)
			}
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ended(ctx, op, file.Name())
		}
	}
}

// find is the mount of an earlier call of the token, when it is there and answers. One that does not answer
// is taken away.
func (m mountpoint) find(ctx context.Context, op string, wanted record) (*record, error) {
	r, err := m.load(op)
	if err != nil {
		return nil, err
	}
	if r == nil {
		m.drop(ctx)
		return nil, m.remove(op)
	}
	if r.Token != wanted.Token || r.Digest != wanted.Digest {
		return nil, fault.Newf(op, fault.Exists, r.Volfile, "the token was used for a different request")
	}
	there, err := m.mounted()
	if err != nil {
		return nil, err
	}
	if there && m.alive(ctx) == nil {
		return r, nil
	}
	if ctx.Err() != nil {
		return nil, ended(ctx, op, r.Volfile)
	}
	m.drop(ctx)
	return nil, m.remove(op)
}

func (m mountpoint) recordFile() string { return filepath.Join(m.folder, "record.json") }

func (m mountpoint) load(op string) (*record, error) {
	raw, err := os.ReadFile(m.recordFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, broken(op, m.recordFile(), err)
	}
	var r record
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fault.Newf(op, fault.Corrupt, m.recordFile(), "%w: unmount %s and delete the file", err, m.path())
	}
	return &r, nil
}

func (m mountpoint) save(op string, r record) error {
	if err := os.MkdirAll(m.folder, 0o700); err != nil {
		return broken(op, m.folder, err)
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return fault.New(op, fault.Internal, m.folder, err)
	}
	fresh := m.recordFile() + ".new"
	if err := os.WriteFile(fresh, raw, 0o600); err != nil {
		return broken(op, fresh, err)
	}
	if err := os.Rename(fresh, m.recordFile()); err != nil {
		return broken(op, fresh, err)
	}
	return nil
}

// Detach implements providers.Files.
func (p *provider) Detach(ctx context.Context, h providers.Handle) error {
	const op = "detach volume"
	pool, err := p.ready(op)
	if err != nil {
		return err
	}
	s, err := open(op, h, "attachment", func(s state) string { return s.Mount })
	if err != nil {
		return err
	}
	release, err := p.exclusive(ctx, op, pool, s.Mount)
	if err != nil {
		return err
	}
	defer release()
	m := pool.mountpoint(s.Mount)
	if err := m.unmount(ctx, op); err != nil {
		return err
	}
	if err := m.remove(op); err != nil {
		return err
	}
	return os.Remove(m.folder + ".lock") // the last: whoever waits for it sees that it is gone
}
