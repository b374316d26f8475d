package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv"
)

const labName = "hosts"

// shared is a lab with two blank machines for all tests here.
var shared struct {
	once sync.Once
	lab  *testenv.Lab
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.lab != nil {
		if err := shared.lab.Down(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func needLab(t *testing.T) *testenv.Lab {
	t.Helper()
	testenv.Need(t)
	shared.once.Do(func() { shared.lab, shared.err = makeLab() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.lab
}

func makeLab() (*testenv.Lab, error) {
	ctx := context.Background()
	if err := testenv.Remove(ctx, labName); err != nil {
		return nil, err
	}
	l, err := testenv.Create(ctx, labName, func(string, ...any) {})
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"host-one", "host-two"} {
		m := testenv.Machine{Name: name, Role: testenv.RoleBlank, Disks: []testenv.Disk{{Name: "vdb", Bytes: 32 << 20}}}
		if err := l.NewMachine(ctx, m); err != nil {
			return nil, errors.Join(err, l.Down(ctx))
		}
	}
	return l, nil
}

func access(l *testenv.Lab) plans.SSH {
	return plans.SSH{KeyFile: l.KeyFile(), KnownHostsFile: l.KnownHostsFile()}
}

func machineOf(l *testenv.Lab, name string) plans.Machine {
	return plans.Machine{Name: name, Address: l.State.Machines[name].Address}
}

func dial(t *testing.T, l *testenv.Lab, name string) *Host {
	t.Helper()
	h, err := Dial(t.Context(), machineOf(l, name), access(l))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

func run(t *testing.T, h *Host, script string) string {
	t.Helper()
	out, err := h.Output(t.Context(), script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func TestDialRefusesStrangers(t *testing.T) {
	l := needLab(t)
	one, two := machineOf(l, "host-one"), machineOf(l, "host-two")
	known, err := os.ReadFile(l.KnownHostsFile())
	if err != nil {
		t.Fatal(err)
	}
	file := func(content string) string {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	swapped := strings.NewReplacer(one.Address+" ", two.Address+" ", two.Address+" ", one.Address+" ").Replace(string(known))
	for _, c := range []struct {
		name   string
		access plans.SSH
		kind   fault.Kind
		text   string
	}{
		{"another host key", plans.SSH{KeyFile: l.KeyFile(), KnownHostsFile: file(swapped)}, fault.Denied, "has changed"},
		{"unknown host", plans.SSH{KeyFile: l.KeyFile(), KnownHostsFile: file("")}, fault.Denied, "no key of"},
		{"another user's key", plans.SSH{KeyFile: key, KnownHostsFile: l.KnownHostsFile()}, fault.Denied, "refuses user root"},
		{"no key", plans.SSH{KeyFile: key + "-none", KnownHostsFile: l.KnownHostsFile()}, fault.NotFound, "name it in ssh.keyFile"},
		{"no key at all", plans.SSH{KeyFile: file("x"), KnownHostsFile: l.KnownHostsFile()}, fault.Invalid, "private key"},
		{"no known hosts", plans.SSH{KeyFile: l.KeyFile(), KnownHostsFile: key + "-none"}, fault.NotFound, "knownHostsFile"},
	} {
		_, err := Dial(t.Context(), one, c.access)
		if !fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %s with %q", c.name, err, c.kind, c.text)
		}
	}
}

func TestFactsOfABlankMachine(t *testing.T) {
	l := needLab(t)
	h := dial(t, l, "host-one")
	facts, err := h.Facts(t.Context())
	if err != nil || len(facts.NotBlank) > 0 || len(facts.Missing) > 0 || facts.Marker != "" || facts.FreeBytes == 0 {
		t.Fatalf("%+v, %v", facts, err)
	}
	run(t, h, "mkdir -p /etc/kubernetes/pki /etc/muster; echo x >/etc/kubernetes/pki/ca.crt; echo run-1 >"+MarkerPath)
	defer run(t, h, "rm -r /etc/kubernetes /etc/muster")
	if facts, err = h.Facts(t.Context()); err != nil || len(facts.NotBlank) != 1 || facts.Marker != "run-1" {
		t.Errorf("%+v, %v", facts, err)
	}
}

// failing takes some bytes and then no more.
type failing struct{ left int }

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, fault.Newf("write", fault.NoSpace, "here", "no space left")
	}
	return len(p), nil
}

// TestRunEnds is about scripts whose end does not come by itself; it hangs when one is waited for.
func TestRunEnds(t *testing.T) {
	l := needLab(t)
	h := dial(t, l, "host-one")
	if err := h.Run(t.Context(), Command{Script: "exec cat /dev/zero", Stdout: &failing{1 << 20}}); !fault.Is(err, fault.NoSpace) {
		t.Errorf("nobody takes its output: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(100*time.Millisecond, func() { cancel(errors.New("stopped by hand")) })
	if err := h.Run(ctx, Command{Script: "sleep 1000 & echo $! >/tmp/sleeper; wait"}); err == nil || !strings.Contains(err.Error(), "stopped by hand") {
		t.Errorf("cancelled: %v", err)
	}
	if state := run(t, h, "ps -o stat= -p $(cat /tmp/sleeper) || echo gone"); state != "gone" && !strings.HasPrefix(state, "Z") {
		t.Errorf("what the cancelled script had started is %s", state)
	}
	var exit *ExitError
	if err := h.Run(t.Context(), Command{Script: "echo a; echo why >&2; exit 7"}); !errors.As(err, &exit) || exit.Code != 7 || exit.Diagnostics != "why" {
		t.Errorf("exit 7: %v", err)
	}
	// Where somebody takes standard error, what it says means nothing to us.
	var said bytes.Buffer
	err := h.Run(t.Context(), Command{Script: "echo No space left on device >&2; exit 7", Stderr: &said})
	if !errors.As(err, &exit) || exit.Code != 7 || said.String() != "No space left on device\n" {
		t.Errorf("exit 7 with %q: %v", said.String(), err)
	}
	if err := h.Run(t.Context(), Command{Script: "exec cat /dev/zero >&2", Stderr: &failing{1 << 20}}); !fault.Is(err, fault.NoSpace) {
		t.Errorf("nobody takes its errors: %v", err)
	}
}

// TestRunAndItsInput is about input that stays open, is not read, or fails; it hangs when one is waited for.
func TestRunAndItsInput(t *testing.T) {
	l := needLab(t)
	h := dial(t, l, "host-one")
	from, to := io.Pipe()
	defer from.Close()
	go func() { _, _ = io.WriteString(to, "go\n") }()
	if err := h.Run(t.Context(), Command{Script: "read x; [ $x = go ]", Stdin: from}); err != nil {
		t.Errorf("an input that stays open: %v", err)
	}
	endless := readerFunc(func(p []byte) (int, error) { return len(p), nil })
	if err := h.Run(t.Context(), Command{Script: "head -c 3000000 >/dev/null", Stdin: endless}); err != nil {
		t.Errorf("an input that is not read to its end: %v", err)
	}
	broken := errors.New("broken")
	failing := io.MultiReader(strings.NewReader("half"), readerFunc(func([]byte) (int, error) { return 0, broken }))
	if err := h.Run(t.Context(), Command{Script: "rm -f /tmp/whole; cat; touch /tmp/whole", Stdin: failing}); !errors.Is(err, broken) {
		t.Errorf("an input that fails: %v", err)
	}
	if got := run(t, h, "[ ! -e /tmp/whole ] || echo taken"); got != "" {
		t.Error("the failure was taken for the end of the input")
	}
}

func TestFullMachine(t *testing.T) {
	l := needLab(t)
	h := dial(t, l, "host-one")
	run(t, h, "mkdir -p /mnt/small && mount -t tmpfs -o size=64k tmpfs /mnt/small")
	defer run(t, h, "umount /mnt/small")
	if err := h.WriteFile(t.Context(), "/mnt/small/file", 0o600, make([]byte, 1<<20)); !fault.Is(err, fault.NoSpace) {
		t.Errorf("write to a full filesystem: %v", err)
	}
	if err := h.RestoreDevice(t.Context(), "/dev/vdb", 1<<40, strings.NewReader("")); !fault.Is(err, fault.NoSpace) {
		t.Errorf("image larger than the device: %v", err)
	}
}

// TestDeviceRoundTrip reads a mounted device, whose filesystem is frozen meanwhile, and writes it to
// another machine's.
func TestDeviceRoundTrip(t *testing.T) {
	l := needLab(t)
	from, to := dial(t, l, "host-one"), dial(t, l, "host-two")
	run(t, from, "mkfs.ext4 -q -F /dev/vdb && mkdir -p /mnt/disk && mount /dev/vdb /mnt/disk && head -c 5000000 /dev/urandom >/mnt/disk/file && sync")
	defer run(t, from, "umount /mnt/disk")
	info, err := from.DeviceInfo(t.Context(), "/dev/vdb")
	if err != nil || info.Mountpoint != "/mnt/disk" || info.Filesystem != "ext4" || info.Bytes != 32<<20 {
		t.Fatalf("%+v, %v", info, err)
	}
	var image bytes.Buffer
	if err := from.CaptureDevice(t.Context(), "/dev/vdb", info, &image); err != nil || image.Len() != 32<<20 {
		t.Fatalf("%d bytes, %v", image.Len(), err)
	}
	run(t, from, "touch /mnt/disk/thawed && rm /mnt/disk/thawed")
	if err := to.RestoreDevice(t.Context(), "/dev/vdb", int64(image.Len()), bytes.NewReader(image.Bytes())); err != nil {
		t.Fatal(err)
	}
	want := run(t, from, "sha256sum </mnt/disk/file")
	if got := run(t, to, "mkdir -p /mnt/disk && mount -o ro /dev/vdb /mnt/disk && sha256sum </mnt/disk/file; umount /mnt/disk"); got != want {
		t.Errorf("the file has digest %s, want %s", got, want)
	}
	if err := from.RestoreDevice(t.Context(), "/dev/vdb", 1, strings.NewReader("x")); !fault.Is(err, fault.Exists) {
		t.Errorf("restore over a mounted device: %v", err)
	}
	if _, err := from.DeviceInfo(t.Context(), "/dev/nothing"); !fault.Is(err, fault.NotFound) {
		t.Errorf("no device: %v", err)
	}
}

// TestFreezeEndsWithTheConnection cuts a capture of a frozen filesystem.
func TestFreezeEndsWithTheConnection(t *testing.T) {
	l := needLab(t)
	h := dial(t, l, "host-two")
	run(t, h, "mkfs.ext4 -q -F /dev/vdb && mkdir -p /mnt/disk && mount /dev/vdb /mnt/disk")
	defer run(t, h, "umount /mnt/disk")
	info, err := h.DeviceInfo(t.Context(), "/dev/vdb")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.CaptureDevice(t.Context(), "/dev/vdb", info, &failing{1 << 20}); !fault.Is(err, fault.NoSpace) {
		t.Fatal(err)
	}
	run(t, h, "touch /mnt/disk/thawed") // hangs on a frozen filesystem
}

// TestRootfsKeepsWhatBelongsToTheMachine restores one machine's root over another's.
func TestRootfsKeepsWhatBelongsToTheMachine(t *testing.T) {
	l := needLab(t)
	from, to := dial(t, l, "host-one"), dial(t, l, "host-two")
	run(t, from, "mkdir -p /opt/app /var/lib/etcd && echo content >/opt/app/file && ln /opt/app/file /opt/app/hard && echo secret >/var/lib/etcd/data")
	defer run(t, from, "rm -r /opt/app /var/lib/etcd/data")
	run(t, to, "echo 'its own' >/etc/fstab; mkdir -p /opt/app && echo other >/opt/app/file")
	hostKey := run(t, to, "cat /etc/ssh/ssh_host_ed25519_key.pub")
	var rootfs bytes.Buffer
	if err := from.CaptureRootfs(t.Context(), append(DefaultExclude(), "/usr"), &rootfs); err != nil {
		t.Fatal(err)
	}
	if err := to.RestoreRootfs(t.Context(), DefaultKeep(), &rootfs); err != nil {
		t.Fatal(err)
	}
	for script, want := range map[string]string{
		"cat /opt/app/file":                          "content",
		"stat -c %h /opt/app/file":                   "2",
		"cat /etc/fstab":                             "its own",
		"cat /etc/ssh/ssh_host_ed25519_key.pub":      hostKey,
		"cat /var/lib/etcd/data 2>/dev/null || true": "",
	} {
		if got := run(t, to, script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
}

// TestRestoreKeepsTheMachineAlive looks at a machine in the middle of a restore: links with absolute
// targets, as the dynamic loader is on Debian, are links already, and lead somewhere.
func TestRestoreKeepsTheMachineAlive(t *testing.T) {
	l := needLab(t)
	from, to := dial(t, l, "host-one"), dial(t, l, "host-two")
	run(t, from, "mkdir -p /opt/alive && ln -s /bin/true /opt/alive/a-link && head -c 40000000 /dev/urandom >/opt/alive/big")
	defer run(t, from, "rm -r /opt/alive")
	defer run(t, to, "rm -rf /opt/alive")
	var rootfs bytes.Buffer
	if err := from.CaptureRootfs(t.Context(), append(DefaultExclude(), "/usr", "/var"), &rootfs); err != nil {
		t.Fatal(err)
	}
	half, goOn := rootfs.Len()-20_000_000, make(chan struct{})
	waiting := readerFunc(func([]byte) (int, error) { <-goOn; return 0, io.EOF })
	source := io.MultiReader(io.LimitReader(&rootfs, int64(half)), waiting, &rootfs)
	ended := make(chan error, 1)
	go func() { ended <- to.RestoreRootfs(t.Context(), DefaultKeep(), source) }()
	seen := run(t, to, "until [ -s /opt/alive/big ]; do sleep 0.05; done; if [ -L /opt/alive/a-link ] && /opt/alive/a-link; then echo alive; else stat -c '%F %a' /opt/alive/a-link; fi")
	close(goOn)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if seen != "alive" {
		t.Errorf("in the middle of the restore the link is %s", seen)
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
