package testenv

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// PostgresImage is PostgreSQL 15 for pods, and everything else that they find in Debian's minimal system. Only the
// machines that ask for it among their Images have it.
const PostgresImage = "lab.local/postgres:15"

// postgresImage makes the image's tar.
func (b *builder) postgresImage(ctx context.Context) (string, error) {
	scripts, err := embedded("files/postgres-image", "files/postgres-entrypoint")
	if err != nil {
		return "", err
	}
	return b.make("postgres-image", scripts, "the image with PostgreSQL 15", func(dir string) error {
		if err := Install(ctx, "debootstrap"); err != nil {
			return err
		}
		root := filepath.Join(dir, "root")
		if _, err := command(ctx, nil, "debootstrap", "--variant=minbase", "bookworm", root); err != nil {
			return err
		}
		setup, err := embedded("files/postgres-image")
		if err != nil {
			return err
		}
		if _, err := command(ctx, nil, "unshare", "--mount", "/bin/sh", "-euc", setup, root); err != nil {
			return err
		}
		if err := place("files/postgres-entrypoint", filepath.Join(root, "usr/local/bin/postgres-entrypoint")); err != nil {
			return err
		}
		img := image{name: PostgresImage, entrypoint: []string{"/usr/local/bin/postgres-entrypoint"}, root: root}
		if err := img.writeFile(filepath.Join(dir, "postgres.tar")); err != nil {
			return err
		}
		return os.RemoveAll(root)
	})
}

// extraImages are the folders with tars of images that only some machines have.
func (b *builder) extraImages(ctx context.Context, names []string) ([]string, error) {
	var folders []string
	for _, name := range slices.Sorted(slices.Values(names)) {
		if name != PostgresImage {
			return nil, fmt.Errorf("there is no image %q to be had", name)
		}
		folder, err := b.postgresImage(ctx)
		if err != nil {
			return nil, err
		}
		folders = append(folders, folder)
	}
	return slices.Compact(folders), nil
}

// containerdWith is the folder with containerd's state that a machine with these images begins with.
func (l *Lab) containerdWith(ctx context.Context, names []string) (string, error) {
	if len(names) == 0 {
		return l.parts.containerd, nil
	}
	b, unlock, err := newBuilder(l.say)
	if err != nil {
		return "", err
	}
	defer unlock()
	folders, err := b.extraImages(ctx, names)
	if err != nil {
		return "", err
	}
	return b.make("containerd", l.parts.containerd+strings.Join(folders, " "), "unpacked images with "+strings.Join(names, ", "), func(dir string) error {
		if err := cloneState(ctx, filepath.Join(l.parts.containerd, "state"), filepath.Join(dir, "state")); err != nil {
			return err
		}
		for _, folder := range folders {
			if err := importInto(ctx, dir, l.parts.base, folder); err != nil {
				return err
			}
		}
		return nil
	})
}
