package testenv

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// layer makes the layer over base that holds Debian packages; it starts no service of theirs.
func (b *builder) layer(ctx context.Context, base string, packages []string) (string, error) {
	packages = slices.Sorted(slices.Values(packages))
	key := base + layerSetup + strings.Join(packages, " ")
	return b.make("layer", key, "a layer with "+strings.Join(packages, ", "), func(dir string) error {
		work := dir + ".work"
		defer os.RemoveAll(work)
		for _, path := range []string{work, filepath.Join(work, "work"), filepath.Join(work, "root")} {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return err
			}
		}
		args := append([]string{"--mount", "/bin/sh", "-euc", layerSetup, base, dir, work}, packages...)
		_, err := command(ctx, nil, "unshare", args...)
		return err
	})
}

// layerSetup runs in a mount namespace of its own, so that no mount outlives it.
const layerSetup = `
dir=$1 work=$2
shift 2
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$0,upperdir=$dir,workdir=$work/work" "$work/root"
mount -t proc proc "$work/root/proc"
mount --bind /dev "$work/root/dev"
printf '#!/bin/sh\nexit 101\n' >"$work/root/usr/sbin/policy-rc.d"
chmod 755 "$work/root/usr/sbin/policy-rc.d"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
chroot "$work/root" apt-get update -qq
chroot "$work/root" apt-get install -y -qq --no-install-recommends "$@"
rm -rf "$work/root/var/lib/apt/lists"/* "$work/root/var/cache/apt/archives"/*.deb "$work/root/usr/sbin/policy-rc.d"
umount "$work/root/dev" "$work/root/proc" "$work/root"
`

// withPackages puts the layer with a machine's packages before the layers that it has anyway.
func (l *Lab) withPackages(ctx context.Context, lower string, packages []string) (string, error) {
	if len(packages) == 0 {
		return lower, nil
	}
	b, unlock, err := newBuilder(l.say)
	if err != nil {
		return "", err
	}
	defer unlock()
	layer, err := b.layer(ctx, l.parts.base, packages)
	return layer + ":" + lower, err
}
