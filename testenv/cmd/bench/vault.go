package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/musterdr/muster/state/repository"
)

// vault is a repository in a folder of its own.
type vault struct {
	*repository.Repository
	config repository.Config
	dir    string // holds blobs and cache
}

// newVault makes an empty repository: what is stored in it was never seen before.
func newVault(ctx context.Context, on *stage) (*vault, error) {
	key, err := repository.NewKey()
	if err != nil {
		return nil, err
	}
	v := &vault{dir: on.fresh("vault")}
	if err := os.MkdirAll(v.blobs(), 0o700); err != nil {
		return nil, err
	}
	v.config = repository.Config{URL: "file://" + v.blobs(), Key: key, CacheDir: filepath.Join(v.dir, "cache"), Now: time.Now}
	if err := repository.Create(ctx, v.config); err != nil {
		return nil, err
	}
	v.Repository, err = repository.Open(ctx, v.config)
	return v, err
}

func (v *vault) keyFile() string { return filepath.Join(v.dir, "key") }

func (v *vault) blobs() string { return filepath.Join(v.dir, "blobs") }

// reopen opens the repository as another process does, with an empty cache.
func (v *vault) reopen(ctx context.Context, on *stage) error {
	if err := v.Close(ctx); err != nil {
		return err
	}
	v.config.CacheDir = on.fresh("cache")
	var err error
	v.Repository, err = repository.Open(ctx, v.config)
	return err
}

// remove closes the repository and deletes it.
func (v *vault) remove(ctx context.Context) error {
	return errors.Join(v.Close(context.WithoutCancel(ctx)), os.RemoveAll(v.dir))
}

// bytes is the size of all blobs.
func (v *vault) bytes() (int64, error) {
	var sum int64
	err := filepath.WalkDir(v.blobs(), func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		sum += info.Size()
		return nil
	})
	return sum, err
}
