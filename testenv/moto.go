package testenv

import (
	"context"
	"path/filepath"
)

// Moto is a folder with a Python environment that holds moto's server; testenv/moto/requirements.txt pins
// every package in it. It comes from PyPI once and stays in the lab's cache. Run it as
// `<folder>/bin/python -m moto.server`: the other programs in it know the folder's name of its making.
func Moto(ctx context.Context) (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	// A lock of its own: it does not wait for minutes until Kubernetes is built.
	unlock, err := lock(filepath.Join(cache, "moto.lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	b := &builder{cache, func(string, ...any) {}}
	source := filepath.Join(sourceDir(), "moto")
	key, err := digest(source, "requirements.txt")
	if err != nil {
		return "", err
	}
	return b.make("moto", key, "moto's server from PyPI", func(dir string) error {
		if _, err := command(ctx, nil, "python3", "-c", "import ensurepip, venv"); err != nil {
			if err := Install(ctx, "python3", "python3-venv"); err != nil {
				return err
			}
		}
		if _, err := command(ctx, nil, "python3", "-m", "venv", dir); err != nil {
			return err
		}
		_, err := command(ctx, nil, filepath.Join(dir, "bin/python"), "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile",
			"--disable-pip-version-check", "--requirement", filepath.Join(source, "requirements.txt"))
		return err
	})
}
