package testenv

import (
	"context"
	"path/filepath"
)

// Etcd34 is the path of etcd 3.4, which is built when it is not there. It is Debian 12's, unpacked and not
// installed: installed it would start, and take etcd's ports.
func Etcd34(ctx context.Context) (string, error) {
	b, unlock, err := newBuilder(func(string, ...any) {})
	if err != nil {
		return "", err
	}
	defer unlock()
	dir, err := b.make("etcd34", "etcd-server", "etcd 3.4 from its Debian package", func(dir string) error {
		return unpack(ctx, "etcd-server", dir)
	})
	return filepath.Join(dir, "usr/bin/etcd"), err
}

// Etcd35 is the path of etcd 3.5, which is compiled when it is not there.
func Etcd35(ctx context.Context) (string, error) {
	b, unlock, err := newBuilder(func(string, ...any) {})
	if err != nil {
		return "", err
	}
	defer unlock()
	dir, err := b.goTool(ctx, "etcd35", "go.etcd.io/etcd/server/v3", "etcd 3.5")
	return filepath.Join(dir, "server"), err
}

// unpack puts the files of a Debian package into a folder.
func unpack(ctx context.Context, name, dir string) error {
	download := []string{"-C", dir, "apt-get", "download", "-qq", name}
	if _, err := command(ctx, nil, "env", download...); err != nil { // apt may not know the mirror's packages yet
		if _, err := command(ctx, nil, "apt-get", "update", "-qq"); err != nil {
			return err
		}
		if _, err := command(ctx, nil, "env", download...); err != nil {
			return err
		}
	}
	archives, err := filepath.Glob(filepath.Join(dir, name+"_*.deb"))
	if err != nil {
		return err
	}
	_, err = command(ctx, nil, "dpkg-deb", append(append([]string{"--extract"}, archives...), dir)...)
	return err
}
