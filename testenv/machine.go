package testenv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The roles of machines.
const (
	RoleControlPlane = "control-plane"
	RoleWorker       = "worker"
	RoleBalancer     = "balancer"
	RoleBlank        = "blank"
)

// Machine is one machine of a lab.
type Machine struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Role    string `json:"role"`
	Disks   []Disk `json:"disks,omitempty"`
	// Backends are the API servers a balancer forwards port 6443 to.
	Backends []string `json:"backends,omitempty"`
	// Packages are Debian packages that it has beside the base system's.
	Packages []string `json:"packages,omitempty"`
	// Images are container images that it has beside those of Kubernetes: PostgresImage and its like.
	Images []string `json:"images,omitempty"`
}

// Disk is an attached disk: a sparse file behind a loop device, /dev/<name> on the machine.
type Disk struct {
	Name  string `json:"name"` // vdb
	Bytes int64  `json:"bytes"`
}

func (l *Lab) machineDir(name string) string { return filepath.Join(l.dir, "machines", name) }

// NewMachine makes and boots a machine. A blank one has the base system, sshd and containerd.
func (l *Lab) NewMachine(ctx context.Context, m Machine) error {
	if !labName.MatchString(strings.ReplaceAll(m.Name, "-", "a")[:min(len(m.Name), 15)]) || len(m.Name) > 40 {
		return fmt.Errorf("machine name %q: want up to 40 letters, digits and dashes, a letter first", m.Name)
	}
	if other, err := Find(m.Name); err == nil {
		return fmt.Errorf("machine %q exists in lab %s", m.Name, other.State.Name)
	}
	if m.Address == "" {
		m.Address = l.freeAddress(m.Name)
	}
	l.State.Machines[m.Name] = &m
	l.State.Addresses[m.Name] = m.Address
	if err := l.save(); err != nil { // Destroy finds it from here on, whatever happens
		return err
	}
	return l.boot(ctx, &m)
}

func (l *Lab) boot(ctx context.Context, m *Machine) error {
	dir := l.machineDir(m.Name)
	for _, part := range []string{"upper", "work", "root", "kubelet", "etcd", "disks"} {
		if err := os.MkdirAll(filepath.Join(dir, part), 0o755); err != nil {
			return err
		}
	}
	state, err := l.containerdWith(ctx, m.Images)
	if err != nil {
		return err
	}
	if err := cloneState(ctx, filepath.Join(state, "state"), filepath.Join(dir, "containerd")); err != nil {
		return err
	}
	if err := l.prepare(ctx, m); err != nil {
		return err
	}
	disks, err := attachDisks(ctx, dir, m.Disks)
	if err != nil {
		return err
	}
	if err := makeCgroup(m.Name); err != nil {
		return err
	}
	if err := l.connect(ctx, m.Name, m.Address); err != nil {
		return err
	}
	if err := l.start(ctx, m, disks); err != nil {
		return err
	}
	return l.waitBooted(ctx, m)
}

// cloneState copies containerd's state with every image: unpacked files as hard links, databases as copies.
func cloneState(ctx context.Context, from, to string) error {
	script := `
rm -rf "$1"
cp -al "$0" "$1" 2>/dev/null || { rm -rf "$1"; cp -a "$0" "$1"; }
find "$0" -name '*.db' -printf '%P\n' | while read -r db; do cp --remove-destination "$0/$db" "$1/$db"; done`
	_, err := command(ctx, nil, "/bin/sh", "-euc", script, from, to)
	return err
}

// prepare writes what is the machine's own into its upper directory.
func (l *Lab) prepare(ctx context.Context, m *Machine) error {
	upper := filepath.Join(l.machineDir(m.Name), "upper")
	key, err := os.ReadFile(l.KeyFile() + ".pub")
	if err != nil {
		return err
	}
	own := map[string]string{
		"etc/hostname":              m.Name + "\n",
		"etc/hosts":                 "127.0.0.1 localhost\n" + m.Address + " " + m.Name + "\n",
		"etc/resolv.conf":           "nameserver " + l.Gateway() + "\n",
		"root/.ssh/authorized_keys": string(key),
	}
	if m.Role == RoleBalancer {
		own["etc/haproxy/haproxy.cfg"] = balancerConfig(m.Backends)
	}
	for path, content := range own {
		path = filepath.Join(upper, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o644); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(upper, "root"), 0o700); err != nil {
		return err
	}
	if m.Role == RoleBalancer {
		wants := filepath.Join(upper, "etc/systemd/system/multi-user.target.wants")
		if err := os.MkdirAll(wants, 0o755); err != nil {
			return err
		}
		if err := os.Symlink("/lib/systemd/system/haproxy.service", filepath.Join(wants, "haproxy.service")); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(upper, "etc/ssh"), 0o755); err != nil {
		return err
	}
	if _, err := command(ctx, nil, "ssh-keygen", "-q", "-A", "-f", upper); err != nil {
		return err
	}
	return l.trust(m)
}

// trust replaces the known host key of the machine's address, as an operator does who made it.
func (l *Lab) trust(m *Machine) error {
	public, err := os.ReadFile(filepath.Join(l.machineDir(m.Name), "upper/etc/ssh/ssh_host_ed25519_key.pub"))
	if err != nil {
		return err
	}
	known, err := os.ReadFile(l.KnownHostsFile())
	if err != nil {
		return err
	}
	var kept strings.Builder
	for line := range strings.Lines(string(known)) {
		if !strings.HasPrefix(line, m.Address+" ") {
			kept.WriteString(line)
		}
	}
	kept.WriteString(m.Address + " " + strings.Join(strings.Fields(string(public))[:2], " ") + "\n")
	return os.WriteFile(l.KnownHostsFile(), []byte(kept.String()), 0o600)
}

// TrustAgain writes a machine's true host key into the known hosts, whatever stands there.
func (l *Lab) TrustAgain(name string) error {
	m, ok := l.State.Machines[name]
	if !ok {
		return fmt.Errorf("lab %s has no machine %q", l.State.Name, name)
	}
	return l.trust(m)
}

// attachDisks makes the files and loop devices, and returns "name:major:minor" for each.
func attachDisks(ctx context.Context, dir string, disks []Disk) ([]string, error) {
	var out []string
	for _, disk := range disks {
		path := filepath.Join(dir, "disks", disk.Name+".img")
		if _, err := command(ctx, nil, "truncate", "-s", strconv.FormatInt(disk.Bytes, 10), path); err != nil {
			return nil, err
		}
		device, err := command(ctx, nil, "losetup", "--find", "--show", path)
		if err != nil {
			return nil, err
		}
		var stat syscall.Stat_t
		if err := syscall.Stat(strings.TrimSpace(device), &stat); err != nil {
			return nil, err
		}
		out = append(out, fmt.Sprintf("%s:%d:%d", disk.Name, stat.Rdev>>8&0xfff, stat.Rdev&0xff))
	}
	return out, nil
}

func detachDisks(ctx context.Context, dir string) error {
	paths, _ := filepath.Glob(filepath.Join(dir, "disks", "*.img"))
	for _, path := range paths {
		devices, err := command(ctx, nil, "losetup", "--noheadings", "--output", "NAME", "--associated", path)
		if err != nil {
			return err
		}
		for _, device := range strings.Fields(devices) {
			if _, err := command(ctx, nil, "losetup", "--detach", device); err != nil {
				return err
			}
		}
	}
	return nil
}

// start runs the boot script in the machine's network namespace; the process outlives the lab
// command and is the machine's unshare, whose end is the end of all its processes.
func (l *Lab) start(ctx context.Context, m *Machine, disks []string) error {
	dir := l.machineDir(m.Name)
	bootScript := filepath.Join(dir, "boot")
	if err := place("files/boot", bootScript); err != nil {
		return err
	}
	lower := l.parts.base
	if m.Role == RoleControlPlane || m.Role == RoleWorker {
		lower = l.parts.node + ":" + lower
	}
	lower, err := l.withPackages(ctx, lower, m.Packages)
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "boot.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	c := exec.Command("nsenter", "--net=/run/netns/"+netns(m.Name), bootScript, "start")
	c.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"NAME=" + m.Name, "DIR=" + dir, "LOWER=" + lower, "NET=" + filepath.Join(l.dir, "net"),
		"CGROUP=" + cgroupOf(m.Name), "CONTROLLERS=" + strings.Join(controllers(), " "), "DISKS=" + strings.Join(disks, " "),
	}
	c.Stdout, c.Stderr = log, log
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		return err
	}
	pid := strconv.Itoa(c.Process.Pid)
	go c.Wait() //nolint:errcheck // reaps it when this process is the one that also destroys it
	return os.WriteFile(filepath.Join(dir, "pid"), []byte(pid), 0o600)
}

// initPID is the host's number of the machine's PID 1.
func (l *Lab) initPID(name string) (int, error) {
	raw, err := os.ReadFile(filepath.Join(l.machineDir(name), "pid"))
	if err != nil {
		return 0, fmt.Errorf("machine %s does not run: %w", name, err)
	}
	pid := strings.TrimSpace(string(raw))
	children, err := os.ReadFile(filepath.Join("/proc", pid, "task", pid, "children"))
	if err != nil || len(strings.Fields(string(children))) == 0 {
		return 0, fmt.Errorf("machine %s does not run", name)
	}
	return strconv.Atoi(strings.Fields(string(children))[0])
}

func (l *Lab) waitBooted(ctx context.Context, m *Machine) error {
	deadline := time.Now().Add(time.Minute)
	for {
		_, err := l.Exec(ctx, m.Name, "[ -e /run/lab/booted ] && ctr version >/dev/null", nil)
		if err == nil {
			var conn net.Conn
			if conn, err = net.DialTimeout("tcp", m.Address+":22", time.Second); err == nil {
				conn.Close()
				return l.importImages(ctx, m.Name)
			}
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			log, _ := os.ReadFile(filepath.Join(l.machineDir(m.Name), "boot.log"))
			return fmt.Errorf("machine %s does not boot: %w: %s", m.Name, err, tail(string(log)))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Exec runs a shell script on a machine, not over SSH, and returns its standard output.
func (l *Lab) Exec(ctx context.Context, name, script string, stdin io.Reader) (string, error) {
	args, err := l.enter(name)
	if err != nil {
		return "", err
	}
	return command(ctx, stdin, "nsenter", append(args, "/bin/sh", "-euc", script)...)
}

// ExecCommand is a command on a machine for callers that bring their own streams.
func (l *Lab) ExecCommand(ctx context.Context, name string, argv ...string) (*exec.Cmd, error) {
	args, err := l.enter(name)
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, "nsenter", append(args, argv...)...), nil
}

func (l *Lab) enter(name string) ([]string, error) {
	pid, err := l.initPID(name)
	if err != nil {
		return nil, err
	}
	return []string{
		"--target", strconv.Itoa(pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd=/",
		"env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=dumb",
	}, nil
}

// Destroy ends a machine: its processes, root filesystem and disks are gone.
func (l *Lab) Destroy(ctx context.Context, name string) error {
	if _, ok := l.State.Machines[name]; !ok {
		return fmt.Errorf("lab %s has no machine %q", l.State.Name, name)
	}
	return l.remove(ctx, name)
}

// remove works on machines that are half made, too: each part that is not there is no error.
func (l *Lab) remove(ctx context.Context, name string) error {
	dir := l.machineDir(name)
	address := l.State.Addresses[name]
	if err := killAll(ctx, name); err != nil {
		return err
	}
	if err := errors.Join(l.disconnect(ctx, name, address), detachDisks(ctx, dir), removeCgroup(name)); err != nil {
		return err
	}
	if address != "" {
		if err := os.RemoveAll(filepath.Join(l.dir, "net", address)); err != nil {
			return err
		}
	}
	if err := removeWhileWritten(dir); err != nil {
		return err
	}
	delete(l.State.Machines, name)
	return l.save()
}

// removeWhileWritten removes a folder into which a command of a lab process that was killed may still
// copy: it ends when what it copies to is gone.
func removeWhileWritten(dir string) error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := os.RemoveAll(dir)
		if !errors.Is(err, syscall.ENOTEMPTY) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// killAll ends every process of the machine: all that are in its network namespace or its cgroup,
// whoever started them, and nothing else.
func killAll(ctx context.Context, name string) error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		pids := cgroupPIDs(name)
		if _, err := os.Stat(filepath.Join("/run/netns", netns(name))); err == nil {
			out, err := command(ctx, nil, "ip", "netns", "pids", netns(name))
			if err != nil {
				return err
			}
			pids = append(pids, strings.Fields(out)...)
		}
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("machine %s: processes %v do not end", name, pids)
		}
		slices.Sort(pids)
		for _, pid := range slices.Compact(pids) {
			if n, err := strconv.Atoi(pid); err == nil && n > 1 {
				_ = syscall.Kill(n, syscall.SIGKILL) // it may be gone already
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}
