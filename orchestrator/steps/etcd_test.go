package steps

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/machine"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// etcdTestHost runs a step's own scripts on this machine, with the folders they name moved below root.
type etcdTestHost struct {
	root    string
	kubelet bool  // runs
	cut     int64 // ends a script's standard input early, as a broken connection does
}

func (h *etcdTestHost) moved(text string) string {
	for _, dir := range []string{"/etc/muster", "/etc/kubernetes", "/var/lib/etcd"} {
		text = strings.ReplaceAll(text, "'"+dir, "'"+filepath.Join(h.root, dir))
	}
	return text
}

func (h *etcdTestHost) Run(ctx context.Context, command machine.Command) error {
	script := exec.CommandContext(ctx, "sh", "-c", h.moved(command.Script))
	var diagnostics bytes.Buffer
	script.Stdin, script.Stdout, script.Stderr = command.Stdin, command.Stdout, &diagnostics
	if h.cut > 0 && command.Stdin != nil {
		script.Stdin = io.LimitReader(command.Stdin, h.cut)
	}
	err := script.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &machine.ExitError{Machine: "test", Code: exit.ExitCode(), Diagnostics: diagnostics.String()}
	}
	return err
}

func (h *etcdTestHost) Output(ctx context.Context, script string) (string, error) {
	var out bytes.Buffer
	err := h.Run(ctx, machine.Command{Script: script, Stdout: &out})
	return out.String(), err
}

func (h *etcdTestHost) ReadFile(_ context.Context, path string) ([]byte, error) {
	raw, err := os.ReadFile(filepath.Join(h.root, path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New("read file", fault.NotFound, path, err)
	}
	return raw, err
}

func (h *etcdTestHost) Service(context.Context, string, string) error {
	if h.kubelet {
		return nil
	}
	return &machine.ExitError{Machine: "test", Code: 3}
}

func (h *etcdTestHost) Close() error { return nil }

func (h *etcdTestHost) write(t *testing.T, path, content string) {
	t.Helper()
	path = filepath.Join(h.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// etcdTestHosts are machines by name.
type etcdTestHosts map[string]*etcdTestHost

func (h etcdTestHosts) dial(_ context.Context, m plans.Machine, _ plans.SSH) (etcdHost, error) {
	host, ok := h[m.Name]
	if !ok {
		return nil, fault.Newf("dial", fault.Transient, m.Name, "no route")
	}
	return host, nil
}

// etcdTestProgress keeps what a step reports.
type etcdTestProgress struct {
	mu       sync.Mutex
	bytes    int64
	findings []orchestrator.Finding
}

func (p *etcdTestProgress) Total(int64, int64) {}
func (p *etcdTestProgress) Status(string)      {}

func (p *etcdTestProgress) Add(bytes, _ int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += bytes
}

func (p *etcdTestProgress) Report(finding orchestrator.Finding) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.findings = append(p.findings, finding)
}

// newRepository makes an empty repository and tells how to open it.
func newRepository(t *testing.T) repository.Config {
	t.Helper()
	key, err := repository.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	config := repository.Config{URL: "file://" + t.TempDir(), Key: key, CacheDir: t.TempDir(), Now: time.Now}
	if err := repository.Create(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	return config
}

// etcdTestRun is a run with a repository of its own and a log that is kept.
func etcdTestRun(t *testing.T) (run *orchestrator.Run, log *bytes.Buffer) {
	t.Helper()
	opened, err := repository.Open(t.Context(), newRepository(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = opened.Close(context.Background()) })
	log = &bytes.Buffer{}
	return &orchestrator.Run{
		ID: "r1", Step: "etcd", Repository: opened, Log: slog.New(slog.NewTextHandler(log, nil)), Progress: &etcdTestProgress{},
		Now:     func() time.Time { return time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC) },
		Cluster: &plans.Cluster{Metadata: plans.Metadata{Name: "prod"}},
	}, log
}

func wantEtcdFault(t *testing.T, err error, kind fault.Kind, text string) {
	t.Helper()
	if !fault.Is(err, kind) || !strings.Contains(err.Error(), text) {
		t.Fatalf("got %v error %v, want %v with %q", fault.KindOf(err), err, kind, text)
	}
}

func TestEtcdStaticPod(t *testing.T) {
	tests := []struct{ image, tag string }{
		{"registry.k8s.io/kube-apiserver:v1.36.3", "v1.36.3"},
		{"registry:5000/kube-apiserver:v1.36.3@sha256:00", "v1.36.3"},
		{"registry:5000/kube-apiserver@sha256:00", ""},
		{"kube-apiserver", ""},
	}
	for _, tt := range tests {
		pod, err := parseEtcdStaticPod("pod.yaml", []byte("spec:\n  containers:\n  - image: "+tt.image+"\n    command: [etcd, --name=cp-0, --snapshot-count=7]\n    args: [--force]\n"))
		if err != nil {
			t.Fatal(err)
		}
		if pod.tag() != tt.tag || pod.flags["name"] != "cp-0" || pod.flags["snapshot-count"] != "7" {
			t.Errorf("%s: tag %q, flags %v", tt.image, pod.tag(), pod.flags)
		}
		if _, ok := pod.flags["force"]; !ok {
			t.Errorf("flags %v", pod.flags)
		}
	}
	_, err := parseEtcdStaticPod("pod.yaml", []byte("kind: Nothing"))
	wantEtcdFault(t, err, fault.Invalid, "no pod")
}
