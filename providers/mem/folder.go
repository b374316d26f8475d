package mem

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/musterdr/muster/providers/fault"
)

// Open returns the backend in a folder, which it makes. Several processes may use it at once, and each may
// be killed at any instruction: what a call had returned is there, and what it had not finished is not seen.
func Open(folder string, now func() time.Time) (*Backend, error) {
	for _, dir := range []string{folder, filepath.Join(folder, "images"), filepath.Join(folder, "trees")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fault.New("open backend", fault.Invalid, folder, err)
		}
	}
	return &Backend{
		now: clock(now), keeper: folderKeeper(folder),
		images: &folderImages{shelf{dir: filepath.Join(folder, "images")}},
		trees:  &shelf{dir: filepath.Join(folder, "trees")},
	}, nil
}

// folderKeeper keeps the state in a file; who changes it holds a lock on the file next to it.
type folderKeeper string

func (k folderKeeper) path() string { return filepath.Join(string(k), "state.json") }

func (k folderKeeper) lock(ctx context.Context) (func(), error) {
	return lockFile(ctx, filepath.Join(string(k), "lock"))
}

func (k folderKeeper) load() ([]byte, error) {
	raw, err := os.ReadFile(k.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, broken("read state", k.path(), err)
	}
	return raw, nil
}

func (k folderKeeper) save(raw []byte) error {
	if err := writeDurably(k.path(), raw); err != nil {
		return broken("save state", k.path(), err)
	}
	return nil
}

// lockFile waits for a lock that ends with the process, or with the returned function.
func lockFile(ctx context.Context, path string) (func(), error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, broken("lock", path, err)
	}
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = file.Close()
			return nil, broken("lock", path, err)
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			_ = file.Close()
			return nil, ended(ctx, "lock state")
		}
	}
}

// writeDurably replaces a file as a whole.
func writeDurably(path string, content []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if _, err = file.Write(content); err == nil {
		err = file.Sync()
	}
	if closing := file.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// broken is an error of the filesystem below.
func broken(op, subject string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.New(op, fault.NoSpace, subject, err)
	case errors.Is(err, fs.ErrNotExist):
		return fault.New(op, fault.NotFound, subject, err)
	case errors.Is(err, fs.ErrPermission):
		return fault.New(op, fault.Denied, subject, err)
	}
	return fault.New(op, fault.Transient, subject, err)
}
