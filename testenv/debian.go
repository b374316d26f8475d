package testenv

import (
	"context"
	"path/filepath"
	"strings"
)

// Install makes sure that Debian packages are on this machine. One installs at a time: apt does not wait.
func Install(ctx context.Context, packages ...string) error {
	cache, err := CacheDir()
	if err != nil {
		return err
	}
	unlock, err := lock(filepath.Join(cache, "packages.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	missing := []string{}
	for _, name := range packages {
		status, _ := command(ctx, nil, "dpkg-query", "-W", "-f=${Status}", name)
		if !strings.Contains(status, "install ok installed") {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	args := append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...)
	if _, err := command(ctx, nil, "apt-get", args...); err == nil {
		return nil
	}
	if _, err := command(ctx, nil, "apt-get", "update", "-qq"); err != nil {
		return err
	}
	_, err = command(ctx, nil, "apt-get", args...)
	return err
}
