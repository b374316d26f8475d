package scenario

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/musterdr/muster/testenv"
)

// TestRefused gives muster everything that it must refuse, each with an exit code and an error of its
// own, and before any harm: in the end the cluster comes back on the very machine.
func TestRefused(t *testing.T) {
	t.Parallel()
	s := empty(t, testenv.Config{Name: "refused", ControlPlanes: 1})
	members := s.Members()
	s.refuseFullDisk(t)
	must(t, s.Run(t.Context(), "capture", nil, "run", "capture"))
	must(t, s.Destroy(t.Context()))
	blank(t, s.Lab, members...)
	args, err := s.RebuildArgs(s.Lab, "", targetsOf(members)...)
	must(t, err)
	before := s.files(t, members[0])

	other := s.path("other.key")
	must(t, s.Run(t.Context(), "init", nil, "init", "--repository", s.path("other"), "--key-file", other))
	raw, err := os.ReadFile(other)
	must(t, err)
	_, public, _ := strings.Cut(string(raw), "publicKey: ")
	for _, c := range []struct {
		name    string
		prepare func()
		change  map[string]string // of arguments
		code    int
		text    string
	}{
		{"no repository", nil, map[string]string{"--repository": "file://" + s.path("nowhere")}, 3, "there is no such folder"},
		{"wrong key", nil, map[string]string{"--key-file": other}, 5, "this is not the repository's key"},
		{"forged manifest", nil, map[string]string{"--public-key": strings.TrimSpace(public)}, 5, "signature"},
		{"flipped bit", func() { s.damage(t, "flipped", flip) }, map[string]string{"--repository": "file://" + s.path("flipped")}, 7, "nothing was restored"},
		{"truncated blob", func() { s.damage(t, "truncated", truncate) }, map[string]string{"--repository": "file://" + s.path("truncated")}, 7, "nothing was restored"},
		{"unknown point", nil, map[string]string{"--point": "nightly-1"}, 3, "there is no such point"},
		{"machine that is not blank", func() { s.on(t, members[0], "mkdir -p /etc/kubernetes && echo x > /etc/kubernetes/admin.conf") }, nil, 4, "it is not blank"},
		{"changed host key", func() {
			s.on(t, members[0], "rm -r /etc/kubernetes")
			s.forgeKnownHost(t)
		}, nil, 5, "host key"},
	} {
		if c.prepare != nil {
			c.prepare()
		}
		s.refused(t, c.name, c.code, c.text, replaced(args, c.change)...)
	}
	must(t, s.Lab.TrustAgain(members[0]))
	if after := s.files(t, members[0]); after != before {
		t.Errorf("the blank machine changed:\n%s\nbefore:\n%s", after, before)
	}
	must(t, s.Run(t.Context(), "rebuild", nil, args...))
}

// refused runs muster and wants this exit code, and this text in what it says.
func (s *Scenario) refused(t *testing.T, name string, code int, text string, args ...string) {
	t.Helper()
	s.say("refuses: %s", name)
	err := s.Run(t.Context(), "refused", nil, args...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: %v, want exit code %d and %q", name, err, code, text)
	}
}

// replaced sets options of a command line.
func replaced(args []string, change map[string]string) []string {
	out := append([]string{}, args...)
	for option, value := range change {
		at := -1
		for i, arg := range out {
			if arg == option {
				at = i + 1
			}
		}
		if at < 0 {
			out = append(out, option, value)
			continue
		}
		out[at] = value
	}
	return out
}

// refuseFullDisk captures into a repository whose filesystem has no room.
func (s *Scenario) refuseFullDisk(t *testing.T) {
	t.Helper()
	dir := s.path("small")
	must(t, os.MkdirAll(dir, 0o700))
	must(t, command("mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", dir))
	t.Cleanup(func() { must(t, command("umount", dir)) })
	raw, err := os.ReadFile(s.path("muster.yaml"))
	must(t, err)
	small := strings.ReplaceAll(string(raw), s.path("repository"), dir+"/repository")
	must(t, os.WriteFile(s.path("small.yaml"), []byte(strings.ReplaceAll(small, s.path("muster.key"), s.path("small.key"))), 0o600))
	must(t, s.Run(t.Context(), "init", nil, "init", "--repository", dir+"/repository", "--key-file", s.path("small.key")))
	s.refused(t, "full disk", 10, "no space left", "run", "capture", "--file", s.path("small.yaml"))
	must(t, s.Run(t.Context(), "list", nil, "points", "list", "--file", s.path("small.yaml")))
}

func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return errors.New(string(out))
	}
	return nil
}

// damage copies the repository and harms its largest pack.
func (s *Scenario) damage(t *testing.T, name string, harm func(*testing.T, string, int64)) {
	t.Helper()
	must(t, command("cp", "-a", s.path("repository"), s.path(name)))
	largest, size := "", int64(0)
	must(t, filepath.WalkDir(s.path(name), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasPrefix(strings.TrimPrefix(path, s.path(name)+"/"), "p") {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Size() > size {
			largest, size = path, info.Size()
		}
		return err
	}))
	harm(t, largest, size)
}

func flip(t *testing.T, path string, size int64) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, size/2)
	must(t, err)
	b[0] ^= 1
	_, err = f.WriteAt(b, size/2)
	must(t, err)
}

func truncate(t *testing.T, path string, size int64) { must(t, os.Truncate(path, size/2)) }

func (s *Scenario) on(t *testing.T, machine, script string) {
	t.Helper()
	_, err := s.Lab.Exec(t.Context(), machine, script, nil)
	must(t, err)
}

// files lists what a rebuild writes on a machine.
func (s *Scenario) files(t *testing.T, machine string) string {
	t.Helper()
	out, err := s.Lab.Exec(t.Context(), machine, "find /etc /opt /root /srv /usr/local /var/lib/etcd /var/lib/kubelet -xdev -printf '%p %s %T@\\n' 2>/dev/null | grep -v '^/etc ' | sort", nil)
	must(t, err)
	return out
}

// forgeKnownHost makes the known host key another one than the machine's.
func (s *Scenario) forgeKnownHost(t *testing.T) {
	t.Helper()
	key := s.path("forged")
	must(t, command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key))
	public, err := os.ReadFile(key + ".pub")
	must(t, err)
	raw, err := os.ReadFile(s.Lab.KnownHostsFile())
	must(t, err)
	var forged strings.Builder
	for line := range strings.Lines(string(raw)) {
		address, _, _ := strings.Cut(line, " ")
		forged.WriteString(address + " " + strings.Join(strings.Fields(string(public))[:2], " ") + "\n")
	}
	must(t, os.WriteFile(s.Lab.KnownHostsFile(), []byte(forged.String()), 0o600))
}
