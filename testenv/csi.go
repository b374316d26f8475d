package testenv

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/musterdr/muster/testenv/pki"
)

// CSIDriver is the name of the lab's own CSI driver.
const CSIDriver = "labcsi.muster.dev"

const (
	csiMetadataName = "labcsi.muster.svc" // as in a cluster, a name that only pods would resolve
	csiMetadataPort = "7443"
	csiSocket       = "/var/lib/kubelet/plugins/" + CSIDriver + "/csi.sock"
)

const snapshotter = "github.com/kubernetes-csi/external-snapshotter/"

func csiModule() string { return filepath.Join(sourceDir(), "csi") }

// csiPrograms are the snapshot controller, its sidecar and the lab's driver.
func (b *builder) csiPrograms(ctx context.Context) (string, error) {
	names := []string{"go.mod", "go.sum"}
	sources, err := filepath.Glob(filepath.Join(csiModule(), "*", "*.go"))
	if err != nil {
		return "", err
	}
	for _, source := range sources {
		names = append(names, filepath.Join(filepath.Base(filepath.Dir(source)), filepath.Base(source)))
	}
	key, err := digest(csiModule(), names...)
	if err != nil {
		return "", err
	}
	return b.make("csi", key, "the snapshot controller and the lab's CSI programs", func(dir string) error {
		_, err := command(ctx, nil, "env", "-C", csiModule(), "CGO_ENABLED=0", "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/",
			"./driver", "./node", snapshotter+"v8/cmd/csi-snapshotter", snapshotter+"v8/cmd/snapshot-controller")
		return err
	})
}

// CSIDefinitions is a folder with the CRDs of snapshots, group snapshots and the SnapshotMetadata service.
func CSIDefinitions(ctx context.Context, say func(format string, args ...any)) (string, error) {
	b, unlock, err := newBuilder(say)
	if err != nil {
		return "", err
	}
	defer unlock()
	key, err := digest(csiModule(), "go.mod", "manifests/metadata-crd.yaml")
	if err != nil {
		return "", err
	}
	return b.make("csi-crd", key, "the CRDs of CSI snapshots", func(dir string) error {
		if _, err := command(ctx, nil, "env", "-C", csiModule(), "go", "mod", "download", snapshotter+"client/v8"); err != nil {
			return err
		}
		client, err := command(ctx, nil, "env", "-C", csiModule(), "go", "list", "-m", "-f", "{{.Dir}}", snapshotter+"client/v8")
		if err != nil {
			return err
		}
		_, err = command(ctx, nil, "/bin/sh", "-euc", `cp "$0"/config/crd/*snapshot*.yaml "$1/manifests/metadata-crd.yaml" "$2"`,
			strings.TrimSpace(client), csiModule(), dir)
		return err
	})
}

func csiBuilt(ctx context.Context, say func(format string, args ...any)) (string, error) {
	b, unlock, err := newBuilder(say)
	if err != nil {
		return "", err
	}
	defer unlock()
	return b.csiPrograms(ctx)
}

// StartCSI runs the lab's CSI driver with snapshots, group snapshots and changed blocks on a control-plane
// machine of a running cluster. It returns the address at which the SnapshotMetadata service listens.
func (l *Lab) StartCSI(ctx context.Context, machine string) (metadata string, err error) {
	dir, err := csiBuilt(ctx, l.say)
	if err != nil {
		return "", err
	}
	definitions, err := CSIDefinitions(ctx, l.say)
	if err != nil {
		return "", err
	}
	for _, name := range []string{"driver", "csi-snapshotter", "snapshot-controller"} {
		if err := l.send(ctx, machine, filepath.Join(dir, name), "/usr/local/bin/"+name); err != nil {
			return "", err
		}
	}
	metadata = net.JoinHostPort(l.State.Addresses[machine], csiMetadataPort)
	ca, err := l.csiCertificate(ctx, machine)
	if err != nil {
		return "", err
	}
	if _, err := l.Kubectl(ctx, "apply", "--server-side", "-f", definitions); err != nil {
		return "", err
	}
	if _, err := l.Kubectl(ctx, "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"); err != nil {
		return "", err
	}
	if _, err := l.Kubectl(ctx, "apply", "-f", filepath.Join(csiModule(), "manifests", "driver.yaml")); err != nil {
		return "", err
	}
	service := fmt.Sprintf(`{apiVersion: cbt.storage.k8s.io/v1beta1, kind: SnapshotMetadataService, metadata: {name: %s},
spec: {address: "%s:6443", audience: %s, caCert: %s}}`, CSIDriver, csiMetadataName, CSIDriver, base64.StdEncoding.EncodeToString(ca))
	if err := l.Apply(ctx, service); err != nil {
		return "", err
	}
	_, err = l.Exec(ctx, machine, fmt.Sprintf(csiStart, machine, csiSocket, metadata), nil)
	return metadata, err
}

// csiStart starts what the driver's pods would run. It all ends with the machine.
const csiStart = `
[ -e /dev/loop-control ] || mknod /dev/loop-control c 10 237
for i in $(seq 0 255); do [ -e /dev/loop$i ] || mknod /dev/loop$i b 7 $i; done
mkdir -p /var/lib/kubelet/plugins/labcsi
run() { name=$1; shift; setsid "$name" --kubeconfig /etc/kubernetes/admin.conf "$@" >"/var/log/$name.log" 2>&1 </dev/null & }
run driver --node %[1]s --dir /var/lib/kubelet/plugins/labcsi --socket %[2]s --metadata %[3]s --tls /etc/labcsi
run snapshot-controller --kube-api-qps 100 --kube-api-burst 200 --retry-interval-start 100ms --retry-interval-max 1s
for _ in $(seq 100); do [ -S %[2]s ] && break; sleep 0.1; done
run csi-snapshotter --csi-address %[2]s --kube-api-qps 100 --kube-api-burst 200 --retry-interval-start 100ms --retry-interval-max 1s
`

// Apply gives the cluster objects, as the administrator.
func (l *Lab) Apply(ctx context.Context, manifest string) error {
	_, err := command(ctx, strings.NewReader(manifest), filepath.Join(l.parts.programs, "kubectl"), "--kubeconfig", l.KubeconfigFile(), "apply", "-f", "-")
	return err
}

// send copies a program to a machine.
func (l *Lab) send(ctx context.Context, machine, source, target string) error {
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = l.Exec(ctx, machine, fmt.Sprintf("cat >%[1]s.new && chmod 755 %[1]s.new && mv %[1]s.new %[1]s", target), f)
	return err
}

// csiCertificate gives the machine the SnapshotMetadata service's certificate and returns its authority's.
func (l *Lab) csiCertificate(ctx context.Context, machine string) (ca []byte, err error) {
	authority, err := pki.New()
	if err != nil {
		return nil, err
	}
	certificate, key, err := authority.Issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: csiMetadataName}, DNSNames: []string{csiMetadataName}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return nil, err
	}
	for name, content := range map[string][]byte{"tls.crt": certificate, "tls.key": key} {
		if _, err := l.Exec(ctx, machine, "umask 077; mkdir -p /etc/labcsi; cat >/etc/labcsi/"+name, strings.NewReader(string(content))); err != nil {
			return nil, err
		}
	}
	return authority.PEM, nil
}
