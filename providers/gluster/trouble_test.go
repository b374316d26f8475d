package gluster_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/providers/gluster"
	lab "github.com/musterdr/muster/testenv/gluster"
)

// TestPeersLost takes one peer away in the middle of a copy, then the other. It runs before the parallel
// tests, which need all.
func TestPeersLost(t *testing.T) {
	c := need(t)
	p := configured(t, c, func(s *gluster.Settings) { s.Bricks = s.Bricks[1:] })
	v := create(t, p, 0, fast(map[string]string{"replica": "2"}))
	a := attach(t, p, v, false)
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	must(t, os.WriteFile(filepath.Join(a.Path, "large"), content, 0o600))
	whole := func(ctx context.Context) {
		must(t, c.Mend(ctx, c.Peers[2].Name))
		must(t, c.Revive(ctx, c.Peers[1].Name))
	}
	t.Cleanup(func() { whole(context.Background()) })

	file, err := os.Open(filepath.Join(a.Path, "large"))
	must(t, err)
	defer file.Close()
	got := make([]byte, 1<<20)
	_, err = io.ReadFull(file, got)
	must(t, err)
	must(t, c.Kill(t.Context(), c.Peers[1].Name))
	rest, err := io.ReadAll(file)
	must(t, err)
	if !bytes.Equal(append(got, rest...), content) {
		t.Error("with one peer gone the file reads otherwise")
	}
	must(t, os.WriteFile(filepath.Join(a.Path, "later"), []byte("written to one"), 0o600))
	health, err := p.Health(t.Context())
	must(t, err)
	if problems := strings.Join(health.Problems, "; "); !health.Usable || !strings.Contains(problems, c.Peers[1].Address) || !strings.Contains(problems, "is offline") {
		t.Errorf("with one of three peers gone: %+v", health)
	}

	must(t, c.Cut(t.Context(), c.Peers[2].Name))
	_, err = p.Attach(t.Context(), providers.AttachRequest{Token: token(t), Volume: v.Handle, ReadOnly: true})
	refused(t, err, fault.Transient)
	if _, err := os.ReadFile(filepath.Join(a.Path, "later")); !errors.Is(err, syscall.ENOTCONN) && !errors.Is(err, syscall.EIO) {
		t.Errorf("with both copies gone a file reads with %v", err)
	}
	if health, err := p.Health(t.Context()); err == nil && health.Usable {
		t.Errorf("with two of three peers gone: %+v", health)
	}
	refused(t, unconfigured().Configure(t.Context(), settings(c, func(s *gluster.Settings) { s.Peers, s.Bricks = s.Peers[1:], nil })), fault.Transient)

	whole(t.Context())
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute) // TCP may let a minute pass between two attempts
	defer cancel()
	// What one of two copies alone has taken may be in split-brain now; that is Gluster's, and not looked at.
	must(t, lab.Await(ctx, func() bool {
		got, err := os.ReadFile(filepath.Join(a.Path, "large"))
		return err == nil && bytes.Equal(got, content)
	}))
}

// TestStaleMount kills the client behind a mount: the same token gives one that works.
func TestStaleMount(t *testing.T) {
	c := need(t)
	t.Parallel()
	p := configured(t, c, plain)
	v := create(t, p, 0, fast(map[string]string{"layout": "distribute"}))
	request := providers.AttachRequest{Token: token(t), Volume: v.Handle}
	a, err := p.Attach(t.Context(), request)
	must(t, err)
	write(t, filepath.Join(a.Path, "file"), "content")
	out, err := exec.CommandContext(t.Context(), "kill", "-KILL", strings.TrimSpace(read(t, filepath.Join(filepath.Dir(a.Path), "pid")))).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	again, err := p.Attach(t.Context(), request)
	must(t, err)
	if again.Path != a.Path || read(t, filepath.Join(again.Path, "file")) != "content" {
		t.Errorf("attached again: %+v, first %+v", again, a)
	}
	request.ReadOnly = true
	_, err = p.Attach(t.Context(), request)
	refused(t, err, fault.Exists)
	must(t, p.Detach(t.Context(), again.Handle))
	if _, err := os.Stat(filepath.Dir(a.Path)); err == nil {
		t.Error("the folder of the mount is still there")
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	must(t, err)
	return string(raw)
}

// TestFull fills a brick of 24 MiB.
func TestFull(t *testing.T) {
	c := need(t)
	t.Parallel()
	_, err := c.Exec(t.Context(), c.Peers[0].Name, "mkdir -p /small && mount -t tmpfs -o size=24m,nr_inodes=2k small /small")
	must(t, err)
	p := configured(t, c, func(s *gluster.Settings) { s.Bricks = []string{c.Peers[0].Address + ":/small"} })
	v := create(t, p, 0, fast(map[string]string{"layout": "distribute"}))
	a := attach(t, p, v, false)
	err = os.WriteFile(filepath.Join(a.Path, "large"), make([]byte, 40<<20), 0o600)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("40 MiB into 24: %v", err)
	}
	_, err = c.Exec(t.Context(), c.Peers[0].Name, "i=0; while mkdir /small/fill$i 2>/dev/null; do i=$((i+1)); done")
	must(t, err)
	_, err = p.Create(t.Context(), providers.CreateRequest{Token: token(t), Content: providers.ContentFiles})
	refused(t, err, fault.NoSpace)
}

// TestHalfMade completes what died in the middle: a brick that is marked, without its volume.
func TestHalfMade(t *testing.T) {
	c := need(t)
	t.Parallel()
	p := configured(t, c, plain)
	request := providers.CreateRequest{
		Token: token(t), Name: "half", Content: providers.ContentFiles, Parameters: fast(map[string]string{"layout": "distribute"}),
		Tags: map[string]string{providers.TagRun: "test"},
	}
	v, err := p.Create(t.Context(), request)
	must(t, err)
	_, err = c.CLI(t.Context(), "volume", "stop", v.ID, "force")
	must(t, err)
	_, err = c.CLI(t.Context(), "volume", "delete", v.ID) // the brick keeps its marks and files
	must(t, err)
	again, err := p.Create(t.Context(), request)
	must(t, err)
	if again.ID != v.ID {
		t.Errorf("%s, then %s", v.ID, again.ID)
	}
	_, err = c.CLI(t.Context(), "volume", "stop", v.ID, "force")
	must(t, err)
	third, err := p.Create(t.Context(), request)
	must(t, err)
	if third.Parameters["info.status"] != "Started" {
		t.Errorf("it is %v", third.Parameters)
	}
	must(t, p.DeleteVolume(t.Context(), third.Handle))
	out, err := c.Exec(t.Context(), c.Peers[0].Name, "ls "+lab.BrickRoot)
	must(t, err)
	if strings.Contains(out, v.ID) {
		t.Errorf("the brick's folder is still there: %s", out)
	}
}

// TestCancelledCommand leaves no process behind on the peer.
func TestCancelledCommand(t *testing.T) {
	c := need(t)
	t.Parallel()
	p := configured(t, c, plain)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_ = lab.Await(t.Context(), func() bool {
			out, _ := c.Exec(t.Context(), c.Peers[0].Name, "pgrep -f '[s]leep 98765' || true")
			return out != ""
		})
		cancel()
	}()
	_, _, err := gluster.RunOnFirst(ctx, p, "sleep 98765 & sleep 98765")
	refused(t, err, fault.Transient)
	limited, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	must(t, lab.Await(limited, func() bool {
		out, err := c.Exec(t.Context(), c.Peers[0].Name, "pgrep -f '[s]leep 98765' || true")
		return err == nil && out == ""
	}))
}

// TestLogins refuses a wrong host key and a key that lets nobody in, and goes on to a peer that answers.
func TestLogins(t *testing.T) {
	c := need(t)
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"host", "stranger"} {
		out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name)).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	wrong := filepath.Join(dir, "known_hosts")
	must(t, os.WriteFile(wrong, []byte(c.Peers[0].Address+" "+read(t, filepath.Join(dir, "host.pub"))), 0o600))
	for name, change := range map[string]func(*gluster.Settings){
		"another host key": func(s *gluster.Settings) { s.SSH.KnownHostsFile = wrong },
		"a stranger's key": func(s *gluster.Settings) { s.SSH.KeyFile = filepath.Join(dir, "stranger") },
	} {
		err := unconfigured().Configure(t.Context(), settings(c, change))
		if !fault.Is(err, fault.Denied) {
			t.Errorf("%s: %v (%v)", name, err, fault.KindOf(err))
		}
	}
	nobody := c.Lab.Gateway() // this host, where the lab's SSH port is closed
	p := configured(t, c, func(s *gluster.Settings) {
		port := *s.SSH
		port.Port = 1
		s.Peers = append([]gluster.Peer{{Address: nobody, Name: c.Peers[0].Address, SSH: &port}}, s.Peers[1:]...)
		s.Bricks = nil
	})
	health, err := p.Health(t.Context())
	must(t, err)
	if !health.Usable {
		t.Errorf("%+v", health)
	}
	info, err := p.Info(t.Context())
	must(t, err)
	if info.Can(providers.CapCreate) || info.Can(providers.CapSnapshot) {
		t.Errorf("without bricks, and without thin LVM, it claims %v", info.Capabilities)
	}
}
