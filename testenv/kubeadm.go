package testenv

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Config says what cluster a lab holds.
type Config struct {
	Name          string
	ControlPlanes int // 1 or 3
	Workers       int
	Disks         []Disk // of the first worker
	// Packages are Debian packages that the workers have beside the base system's.
	Packages []string
	// Images are container images that all members have beside those of Kubernetes.
	Images []string
}

// Up makes a lab with a running kubeadm cluster, all nodes Ready.
func Up(ctx context.Context, config Config, say func(format string, args ...any)) (*Lab, error) {
	if config.ControlPlanes != 1 && config.ControlPlanes != 3 {
		return nil, fmt.Errorf("%d control planes: want 1 or 3", config.ControlPlanes)
	}
	l, err := Create(ctx, config.Name, say)
	if err != nil {
		return nil, err
	}
	if err := l.up(ctx, config); err != nil {
		return nil, fmt.Errorf("%w (lab down --name %s removes what was made)", err, config.Name)
	}
	return l, nil
}

func (l *Lab) up(ctx context.Context, config Config) error {
	var members []Machine
	for i := range config.ControlPlanes {
		members = append(members, Machine{Name: fmt.Sprintf("%s-cp-%d", config.Name, i), Role: RoleControlPlane, Images: config.Images})
	}
	for i := range config.Workers {
		worker := Machine{Name: fmt.Sprintf("%s-worker-%d", config.Name, i), Role: RoleWorker, Packages: config.Packages, Images: config.Images}
		if i == 0 {
			worker.Disks = config.Disks
		}
		members = append(members, worker)
	}
	for i := range members {
		l.say("booting %s", members[i].Name)
		if err := l.NewMachine(ctx, members[i]); err != nil {
			return err
		}
		members[i].Address = l.State.Machines[members[i].Name].Address
		if err := l.PodNetwork(members[i].Name, i); err != nil {
			return err
		}
	}
	endpoint := members[0].Address + ":6443"
	if config.ControlPlanes > 1 {
		balancer, err := l.NewBalancer(ctx, config.Name+"-lb", members[:config.ControlPlanes])
		if err != nil {
			return err
		}
		endpoint = balancer + ":6443"
	}
	l.State.Endpoint = endpoint
	if err := l.save(); err != nil {
		return err
	}
	return l.kubeadm(ctx, members, config.ControlPlanes > 1)
}

// NewBalancer makes a machine whose port 6443 leads to the API servers of the given machines.
func (l *Lab) NewBalancer(ctx context.Context, name string, controlPlanes []Machine) (address string, err error) {
	balancer := Machine{Name: name, Role: RoleBalancer}
	for _, m := range controlPlanes {
		balancer.Backends = append(balancer.Backends, m.Address)
	}
	l.say("booting %s", name)
	if err := l.NewMachine(ctx, balancer); err != nil {
		return "", err
	}
	return l.State.Addresses[name], nil
}

// ControlPlanes are machines of these names at the addresses that they have, or had.
func (l *Lab) ControlPlanes(names ...string) []Machine {
	var out []Machine
	for _, name := range names {
		out = append(out, Machine{Name: name, Address: l.State.Addresses[name], Role: RoleControlPlane})
	}
	return out
}

// RoleByName is the role that Up gave to a machine of this name.
func RoleByName(name string) string {
	if strings.Contains(name, "-cp-") {
		return RoleControlPlane
	}
	return RoleWorker
}

func balancerConfig(backends []string) string {
	var b strings.Builder
	b.WriteString("defaults\n  mode tcp\n  timeout connect 2s\n  timeout client 1h\n  timeout server 1h\n" +
		"frontend api\n  bind *:6443\n  default_backend api\nbackend api\n  option httpchk GET /readyz\n  http-check expect status 200\n")
	for i, address := range backends {
		fmt.Fprintf(&b, "  server cp%d %s:6443 check check-ssl verify none inter 500 fall 2 rise 1\n", i, address)
	}
	return b.String()
}

// PodNetwork gives the machine a pod subnet of its own that no machine of any lab shares, so
// that a cluster can be rebuilt on other machines, in another lab, with its captured subnets.
func (l *Lab) PodNetwork(name string, index int) error {
	conflist, err := files.ReadFile("files/cni.conflist")
	if err != nil {
		return err
	}
	subnet := fmt.Sprintf("10.%d.%d.0/24", 128+l.State.Number%100, index)
	content := strings.ReplaceAll(string(conflist), "SUBNET", subnet)
	_, err = l.Exec(context.Background(), name, "cat >/etc/cni/net.d/10-lab.conflist", strings.NewReader(content))
	return err
}

func (l *Lab) kubeadm(ctx context.Context, members []Machine, several bool) error {
	token, certificateKey := randomHex(3)+"."+randomHex(8), randomHex(32)
	first := members[0]
	config := l.initConfig(first, token, certificateKey, several)
	l.say("kubeadm init on %s", first.Name)
	phases := "kubeadm init --config /root/kubeadm.yaml --ignore-preflight-errors=all --skip-token-print"
	if several {
		phases += " --upload-certs"
	}
	if err := l.kubeadmRun(ctx, first.Name, config, phases); err != nil {
		return err
	}
	if err := l.FetchKubeconfig(ctx, first.Name); err != nil {
		return err
	}
	hash, err := l.Exec(ctx, first.Name, `openssl x509 -pubkey -noout -in /etc/kubernetes/pki/ca.crt | openssl pkey -pubin -outform der | sha256sum | cut -d' ' -f1`, nil)
	if err != nil {
		return err
	}
	for _, m := range members[1:] {
		l.say("kubeadm join on %s", m.Name)
		config := l.joinConfig(m, token, strings.TrimSpace(hash), certificateKey)
		if err := l.kubeadmRun(ctx, m.Name, config, "kubeadm join --config /root/kubeadm.yaml --ignore-preflight-errors=all"); err != nil {
			return err
		}
	}
	l.say("waiting until all nodes are ready")
	_, err = l.Kubectl(ctx, "wait", "--for=condition=Ready", "node", "--all", "--timeout=120s")
	if err == nil {
		_, err = l.Kubectl(ctx, "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=120s")
	}
	return err
}

func (l *Lab) kubeadmRun(ctx context.Context, machine, config, script string) error {
	if _, err := l.Exec(ctx, machine, "cat >/root/kubeadm.yaml && systemctl enable kubelet", strings.NewReader(config)); err != nil {
		return err
	}
	_, err := l.Exec(ctx, machine, script+" && rm /root/kubeadm.yaml", nil)
	return err
}

func (l *Lab) initConfig(m Machine, token, certificateKey string, several bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
bootstrapTokens: [{token: %q, ttl: 1h0m0s}]
certificateKey: %q
localAPIEndpoint: {advertiseAddress: %s, bindPort: 6443}
%s---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: %s
networking: {podSubnet: 10.128.0.0/9, serviceSubnet: 10.96.0.0/16}
`, token, certificateKey, m.Address, registration(m, "[]"), KubernetesVersion)
	if several {
		fmt.Fprintf(&b, "controlPlaneEndpoint: %s\n", l.State.Endpoint)
	}
	b.WriteString(`---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
failSwapOn: false
failCgroupV1: false
localStorageCapacityIsolation: false
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
conntrack: {maxPerCore: 0, min: 0}
`)
	return b.String()
}

func (l *Lab) joinConfig(m Machine, token, hash, certificateKey string) string {
	controlPlane := ""
	if m.Role == RoleControlPlane {
		controlPlane = fmt.Sprintf("controlPlane: {certificateKey: %q, localAPIEndpoint: {advertiseAddress: %s, bindPort: 6443}}\n", certificateKey, m.Address)
	}
	return fmt.Sprintf(`apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
discovery: {bootstrapToken: {token: %q, apiServerEndpoint: %q, caCertHashes: ["sha256:%s"]}}
%s%s`, token, l.State.Endpoint, hash, controlPlane, registration(m, "[]"))
}

func registration(m Machine, taints string) string {
	return fmt.Sprintf(`nodeRegistration:
  name: %s
  criSocket: unix:///run/containerd/containerd.sock
  imagePullPolicy: Never
  taints: %s
  kubeletExtraArgs: [{name: node-ip, value: %s}]
`, m.Name, taints, m.Address)
}

// FetchKubeconfig keeps the administrator's kubeconfig of a control-plane machine in the lab.
func (l *Lab) FetchKubeconfig(ctx context.Context, machine string) error {
	content, err := l.Exec(ctx, machine, "cat /etc/kubernetes/admin.conf", nil)
	if err != nil {
		return err
	}
	return os.WriteFile(l.KubeconfigFile(), []byte(content), 0o600)
}

// Kubectl runs the lab's kubectl as the cluster's administrator.
func (l *Lab) Kubectl(ctx context.Context, args ...string) (string, error) {
	return command(ctx, nil, filepath.Join(l.parts.programs, "kubectl"), append([]string{"--kubeconfig", l.KubeconfigFile()}, args...)...)
}

// KubectlCommand is kubectl as the cluster's administrator, for callers that bring their own streams.
func (l *Lab) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, filepath.Join(l.parts.programs, "kubectl"), append([]string{"--kubeconfig", l.KubeconfigFile()}, args...)...)
}

// LoadImage keeps an image in the lab's store and gives it to every machine that runs; machines
// made later receive it when they boot. source is a tar in docker-save form, or a folder that
// becomes the image's only layer.
func LoadImage(ctx context.Context, source, name string) error {
	store := filepath.Join(StateDir(), "images")
	if err := os.MkdirAll(store, 0o755); err != nil {
		return err
	}
	path := filepath.Join(store, strings.NewReplacer("/", "_", ":", "_").Replace(name)+".tar")
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		if _, err := command(ctx, nil, "cp", source, path); err != nil {
			return err
		}
	} else if err := imageOfDir(name, source, path); err != nil {
		return err
	}
	labs, err := List()
	if err != nil {
		return err
	}
	var problems []error
	for _, l := range labs {
		for _, machine := range l.Names() {
			if life, err := l.initPID(machine); err == nil {
				problems = append(problems, l.importImageWhile(ctx, life, machine, path))
			}
		}
	}
	return errors.Join(problems...)
}

// importImageWhile forgives a failure on a machine whose life ends meanwhile: labs beside this one are destroyed at
// any time.
func (l *Lab) importImageWhile(ctx context.Context, life int, machine, path string) error {
	err := l.importImage(ctx, machine, path)
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for range 100 { // its files go before its processes do
		if now, gone := l.initPID(machine); err == nil || gone != nil || now != life {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return err
		}
	}
	return err
}

func imageOfDir(name, dir, path string) error {
	img := image{name: name, files: map[string]string{}}
	err := filepath.WalkDir(dir, func(file string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		inside, err := filepath.Rel(dir, file)
		img.files[inside] = file
		return err
	})
	if err != nil {
		return err
	}
	return img.writeFile(path)
}

func (l *Lab) importImages(ctx context.Context, machine string) error {
	paths, err := filepath.Glob(filepath.Join(StateDir(), "images", "*.tar"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		if err := l.importImage(ctx, machine, path); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) importImage(ctx context.Context, machine, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = l.Exec(ctx, machine, "ctr -n k8s.io image import - >/dev/null", f)
	return err
}

func randomHex(bytes int) string {
	raw := make([]byte, bytes)
	_, _ = rand.Read(raw) // crypto/rand.Read never fails
	return hex.EncodeToString(raw)
}
