package testenv

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// Install makes sure that Debian packages are on this machine, and that no service of theirs starts by itself. One
// installs at a time: apt does not wait.
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
	allowed, err := refuseServices()
	if err != nil {
		return err
	}
	defer allowed()
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

// refuseServices keeps packages from starting their services while they are installed, unless the machine has
// a policy of its own.
func refuseServices() (allow func(), err error) {
	const policy = "/usr/sbin/policy-rc.d"
	f, err := os.OpenFile(policy, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if errors.Is(err, os.ErrExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	_, err = f.WriteString("#!/bin/sh\nexit 101\n")
	return func() { _ = os.Remove(policy) }, errors.Join(err, f.Close())
}
