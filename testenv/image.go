package testenv

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// image describes a container image that is made from files on the host.
type image struct {
	name       string
	entrypoint []string
	files      map[string]string // path in the image to path on the host
	root       string            // a whole root filesystem, in place of files
}

// images makes the tars of all images that a kubeadm cluster wants, under kubeadm's names.
func (b *builder) images(ctx context.Context, p parts) (string, error) {
	return b.make("images", p.programs+p.base, "container images", func(dir string) error {
		proxy, err := proxyFiles(ctx, p)
		if err != nil {
			return err
		}
		busybox := map[string]string{"bin/busybox": filepath.Join(p.base, "bin/busybox"), "bin/sh": filepath.Join(p.base, "bin/busybox")}
		list := []image{
			{name: pauseImage, entrypoint: []string{"/bin/busybox", "sleep", "2147483647"}, files: busybox},
			{name: BusyboxImage, entrypoint: []string{"/bin/busybox"}, files: busybox},
			{name: corednsImage, entrypoint: []string{"/coredns"}, files: map[string]string{"coredns": filepath.Join(p.programs, "coredns")}},
			{name: "registry.k8s.io/kube-proxy:" + KubernetesVersion, files: proxy},
			{name: etcdImage, files: map[string]string{
				"usr/local/bin/etcd":    filepath.Join(p.programs, "etcd"),
				"usr/local/bin/etcdctl": filepath.Join(p.programs, "etcdctl"),
				"usr/local/bin/etcdutl": filepath.Join(p.programs, "etcdutl"),
			}},
		}
		for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
			list = append(list, image{name: "registry.k8s.io/" + name + ":" + KubernetesVersion,
				files: map[string]string{"usr/local/bin/" + name: filepath.Join(p.programs, name)}})
		}
		for i, img := range list {
			if err := img.writeFile(filepath.Join(dir, fmt.Sprintf("%02d.tar", i))); err != nil {
				return err
			}
		}
		return nil
	})
}

// proxyFiles are kube-proxy and the iptables of the base system with all libraries it loads.
func proxyFiles(ctx context.Context, p parts) (map[string]string, error) {
	out, err := command(ctx, strings.NewReader(`
set -eu
for program in /usr/sbin/xtables-nft-multi /usr/sbin/xtables-legacy-multi /usr/sbin/conntrack; do
	echo "$program"
	ldd "$program" | grep -o '/[^ ]*'
done
find /usr/lib/x86_64-linux-gnu/xtables -name '*.so'
find /usr/lib/x86_64-linux-gnu/xtables -name '*.so' -exec ldd {} + | grep -o '=> /[^ ]*' | cut -c4-
`), "chroot", p.base, "/bin/sh")
	if err != nil {
		return nil, err
	}
	list := map[string]string{"usr/local/bin/kube-proxy": filepath.Join(p.programs, "kube-proxy")}
	for _, path := range strings.Fields(out) {
		list[strings.TrimPrefix(path, "/")] = filepath.Join(p.base, path)
	}
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		list["usr/sbin/"+name] = filepath.Join(p.base, "usr/sbin/xtables-nft-multi")
	}
	return list, nil
}

// writeFile writes the image as `docker save` does: manifest.json, config.json, layer.tar.
func (i image) writeFile(path string) error {
	layer, err := os.CreateTemp(filepath.Dir(path), "layer")
	if err != nil {
		return err
	}
	defer os.Remove(layer.Name())
	defer layer.Close()
	sum := sha256.New()
	if err := i.writeLayer(io.MultiWriter(layer, sum)); err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Entrypoint": i.entrypoint, "Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum.Sum(nil))}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{i.name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	w := tar.NewWriter(out)
	err = errors.Join(writeEntry(w, "manifest.json", manifest), writeEntry(w, "config.json", config), copyEntry(w, "layer.tar", layer.Name(), 0o644))
	return errors.Join(err, w.Close(), out.Close())
}

func (i image) writeLayer(out io.Writer) error {
	if i.root != "" {
		c := exec.Command("tar", "-C", i.root, "--numeric-owner", "-c", ".")
		c.Stdout, c.Stderr = out, os.Stderr
		return c.Run()
	}
	w := tar.NewWriter(out)
	for _, dir := range []string{"tmp", "run", "www"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o1777}); err != nil {
			return err
		}
	}
	for path, source := range i.files {
		if err := copyEntry(w, path, source, 0o755); err != nil {
			return err
		}
	}
	return w.Close()
}

func writeEntry(w *tar.Writer, name string, content []byte) error {
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

func copyEntry(w *tar.Writer, name, source string, mode int64) error {
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

// containerd makes a /var/lib/containerd that holds every image unpacked, which machines receive as
// hard links: they write no file of an image in place.
func (b *builder) containerd(ctx context.Context, p parts) (string, error) {
	return b.make("containerd", p.images, "unpacked images", func(dir string) error {
		return importInto(ctx, dir, p.base, p.images)
	})
}

// importInto has a containerd of the base system unpack a folder's tars into dir/state.
func importInto(ctx context.Context, dir, base, images string) error {
	script := `
mount --make-rprivate /
mkdir -p "$DIR/x/upper" "$DIR/x/work" "$DIR/x/root" "$DIR/state"
mount -t overlay overlay -o "lowerdir=$BASE,upperdir=$DIR/x/upper,workdir=$DIR/x/work" "$DIR/x/root"
cd "$DIR/x/root"
mount -t proc proc proc
mount -t tmpfs tmpfs run
mkdir -p var/lib/containerd images
mount --bind "$DIR/state" var/lib/containerd
mount --bind "$IMAGES" images
chroot . /bin/sh -eu -c '
	[ -e /dev/null ] || mknod -m 666 /dev/null c 1 3
	containerd >/run/containerd.log 2>&1 &
	for _ in $(seq 100); do ctr version >/dev/null 2>&1 && break; sleep 0.1; done
	for image in /images/*.tar; do ctr -n k8s.io image import "$image" >/dev/null; done
	kill $!
	wait
'`
	args := []string{"DIR=" + dir, "BASE=" + base, "IMAGES=" + images}
	args = append(args, "unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-eu", "-c", script)
	if _, err := command(ctx, nil, "env", args...); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(dir, "x"))
}
