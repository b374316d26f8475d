package testenv

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

//go:embed files
var files embed.FS

// The versions of what machines run. The lab's Go module pins them.
const (
	KubernetesVersion = "v1.36.3"
	pauseImage        = "registry.k8s.io/pause:3.10.2"
	etcdImage         = "registry.k8s.io/etcd:3.6.8-0" // the name kubeadm wants; the program is the module's
	corednsImage      = "registry.k8s.io/coredns/coredns:v1.14.2"
	// BusyboxImage is for test pods: Debian's busybox-static and nothing else.
	BusyboxImage = "lab.local/busybox:1"
)

// CacheDir is where what the lab builds is kept, by content: MUSTER_LAB_CACHE, else muster-lab in
// the user's cache folder.
func CacheDir() (string, error) {
	if dir := os.Getenv("MUSTER_LAB_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "muster-lab"), nil
}

// sourceDir is this package's folder in the checkout: the lab is built from it.
func sourceDir() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(file)
}

// GoBuild compiles a package of this checkout ("./cmd/muster") into a static program.
func GoBuild(ctx context.Context, pkg, output string) error {
	_, err := command(ctx, nil, "env", "-C", filepath.Dir(sourceDir()), "CGO_ENABLED=0", "go", "build", "-ldflags", "-s -w", "-o", output, pkg)
	return err
}

// GoBuildCgo compiles a command of this module that needs cgo, with build tags.
func GoBuildCgo(ctx context.Context, pkg, output string, tags ...string) error {
	_, err := command(ctx, nil, "env", "-C", filepath.Dir(sourceDir()), "CGO_ENABLED=1", "go", "build", "-ldflags", "-s -w", "-tags", strings.Join(tags, ","), "-o", output, pkg)
	return err
}

// builder makes the parts of the cache that are missing.
type builder struct {
	cache string
	say   func(format string, args ...any)
}

// parts are the folders in the cache that machines are made of.
type parts struct {
	programs   string // Kubernetes, etcd and CoreDNS
	base       string // root filesystem of every machine
	node       string // layer over base for cluster members: kubelet, kubeadm, kubectl
	images     string // *.tar in docker-save form
	containerd string // /var/lib/containerd with all images unpacked
}

// Build makes everything labs need and returns at once when it is there. One builds at a time.
func Build(ctx context.Context, say func(format string, args ...any)) error {
	_, err := build(ctx, say)
	return err
}

// Programs is the folder with the built Kubernetes, etcd and CoreDNS programs.
func Programs(ctx context.Context, say func(format string, args ...any)) (string, error) {
	b, unlock, err := newBuilder(say)
	if err != nil {
		return "", err
	}
	defer unlock()
	return b.programs(ctx)
}

func build(ctx context.Context, say func(format string, args ...any)) (parts, error) {
	b, unlock, err := newBuilder(say)
	if err != nil {
		return parts{}, err
	}
	defer unlock()
	var p parts
	if p.programs, err = b.programs(ctx); err != nil {
		return p, err
	}
	if p.base, err = b.base(ctx); err != nil {
		return p, err
	}
	if p.node, err = b.node(ctx, p.programs); err != nil {
		return p, err
	}
	if p.images, err = b.images(ctx, p); err != nil {
		return p, err
	}
	p.containerd, err = b.containerd(ctx, p)
	return p, err
}

func newBuilder(say func(format string, args ...any)) (*builder, func(), error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, nil, err
	}
	unlock, err := lock(filepath.Join(cache, "lock"))
	return &builder{cache, say}, unlock, err
}

// lock takes an exclusive lock on a file; the kernel lets go of it when the process ends.
func lock(path string) (func(), error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { f.Close() }, nil
}

// make returns cache/<name>-<key>, filled by fill when it is missing. It is filled under another
// name and renamed, so that a crash leaves no half-made folder behind that looks whole.
func (b *builder) make(name, key, what string, fill func(dir string) error) (string, error) {
	sum := sha256.Sum256([]byte(key))
	final := filepath.Join(b.cache, name+"-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	b.say("building %s", what)
	temporary := final + ".tmp"
	if err := os.RemoveAll(temporary); err != nil {
		return "", err
	}
	if err := os.MkdirAll(temporary, 0o755); err != nil {
		return "", err
	}
	if err := fill(temporary); err != nil {
		return "", fmt.Errorf("build %s: %w", what, err)
	}
	return final, os.Rename(temporary, final)
}

// programs compiles Kubernetes, etcd and CoreDNS from the lab's own Go module.
func (b *builder) programs(ctx context.Context) (string, error) {
	module := filepath.Join(sourceDir(), "kubernetes")
	key, err := digest(module, "go.mod", "go.sum", "coredns/main.go")
	if err != nil {
		return "", err
	}
	return b.make("programs", key, "Kubernetes, etcd and CoreDNS (minutes, once)", func(dir string) error {
		version := "-s -w -X k8s.io/component-base/version.gitVersion=" + KubernetesVersion +
			" -X k8s.io/client-go/pkg/version.gitVersion=" + KubernetesVersion
		kubernetes := []string{"build", "-trimpath", "-ldflags", version, "-o", dir + "/"}
		for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubeadm", "kubectl"} {
			kubernetes = append(kubernetes, "k8s.io/kubernetes/cmd/"+name)
		}
		for _, args := range [][]string{
			kubernetes,
			{"build", "-trimpath", "-ldflags", "-s -w", "-o", dir + "/etcd", "go.etcd.io/etcd/server/v3"},
			{"build", "-trimpath", "-ldflags", "-s -w", "-o", dir + "/", "go.etcd.io/etcd/etcdutl/v3", "go.etcd.io/etcd/etcdctl/v3", "./coredns"},
		} {
			if _, err := command(ctx, nil, "env", append([]string{"-C", module, "CGO_ENABLED=0", "go"}, args...)...); err != nil {
				return err
			}
		}
		return nil
	})
}

// StockTools is a folder with kopia, etcdutl and kubectl, as a person has them who has no Muster.
func StockTools(ctx context.Context, say func(format string, args ...any)) (string, error) {
	p, err := build(ctx, say)
	if err != nil {
		return "", err
	}
	b, unlock, err := newBuilder(say)
	if err != nil {
		return "", err
	}
	defer unlock()
	kopia, err := b.goTool(ctx, "kopia", "github.com/kopia/kopia", "the stock kopia command")
	if err != nil {
		return "", err
	}
	return b.make("tools", kopia+p.programs, "the folder of stock tools", func(dir string) error {
		_, err := command(ctx, nil, "cp", filepath.Join(kopia, "kopia"), filepath.Join(p.programs, "etcdutl"), filepath.Join(p.programs, "kubectl"), dir)
		return err
	})
}

// goTool compiles a program that a Go module of its own, in the folder module, pins.
func (b *builder) goTool(ctx context.Context, module, program, what string) (string, error) {
	folder := filepath.Join(sourceDir(), module)
	key, err := digest(folder, "go.mod", "go.sum")
	if err != nil {
		return "", err
	}
	return b.make(module, key, what, func(dir string) error {
		_, err := command(ctx, nil, "env", "-C", folder, "CGO_ENABLED=0", "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/", program)
		return err
	})
}

// basePackages are what every machine has. haproxy serves on balancers and lies idle elsewhere.
const basePackages = "containerd,runc,containernetworking-plugins,iptables,iproute2,openssh-server,kmod,procps," +
	"conntrack,ethtool,socat,acl,attr,libcap2-bin,zstd,gzip,xfsprogs,sudo,openssl,haproxy,busybox-static,util-linux,ca-certificates"

// base makes the root filesystem of a blank machine.
func (b *builder) base(ctx context.Context) (string, error) {
	scripts, err := embedded("files/init", "files/systemctl", "files/containerd.toml")
	if err != nil {
		return "", err
	}
	return b.make("base", basePackages+scripts, "the machines' base system from Debian packages", func(dir string) error {
		if err := Install(ctx, "debootstrap"); err != nil {
			return err
		}
		if _, err := command(ctx, nil, "debootstrap", "--variant=minbase", "--include="+basePackages, "bookworm", dir); err != nil {
			return err
		}
		if _, err := command(ctx, strings.NewReader(baseSetup), "chroot", dir, "/bin/sh", "-eu"); err != nil {
			return err
		}
		toml, err := files.ReadFile("files/containerd.toml")
		if err != nil {
			return err
		}
		config := strings.ReplaceAll(string(toml), "PAUSE", pauseImage)
		return errors.Join(
			os.WriteFile(filepath.Join(dir, "etc/containerd/config.toml"), []byte(config), 0o644),
			place("files/init", filepath.Join(dir, "usr/local/lib/lab/init")),
			place("files/systemctl", filepath.Join(dir, "usr/local/sbin/systemctl")),
		)
	})
}

const baseSetup = `
rm -rf /var/cache/apt/archives/*.deb /var/lib/apt/lists/* /etc/ssh/ssh_host_*
mkdir -p /usr/local/lib/lab /etc/containerd /etc/systemd/system/multi-user.target.wants
ln -sf /lib/systemd/system/containerd.service /etc/systemd/system/multi-user.target.wants/containerd.service
rm -f /etc/systemd/system/multi-user.target.wants/haproxy.service
printf 'PermitRootLogin prohibit-password\nUseDNS no\nMaxStartups 100\nMaxSessions 100\n' >/etc/ssh/sshd_config.d/lab.conf
rm -f /etc/cni/net.d/*
`

// node makes the layer that cluster members have over base.
func (b *builder) node(ctx context.Context, programs string) (string, error) {
	return b.make("node", programs, "the layer of cluster members", func(dir string) error {
		bin := filepath.Join(dir, "usr/local/bin")
		if err := os.MkdirAll(bin, 0o755); err != nil {
			return err
		}
		for _, name := range []string{"kubelet", "kubeadm", "kubectl"} {
			if _, err := command(ctx, nil, "cp", filepath.Join(programs, name), bin); err != nil {
				return err
			}
		}
		return nil
	})
}

func place(name, path string) error {
	content, err := files.ReadFile(name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o755)
}

func embedded(names ...string) (string, error) {
	var all strings.Builder
	for _, name := range names {
		content, err := files.ReadFile(name)
		if err != nil {
			return "", err
		}
		all.Write(content)
	}
	return all.String(), nil
}

func digest(dir string, names ...string) (string, error) {
	h := sha256.New()
	for _, name := range names {
		content, err := fs.ReadFile(os.DirFS(dir), name)
		if err != nil {
			return "", err
		}
		h.Write(content)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
