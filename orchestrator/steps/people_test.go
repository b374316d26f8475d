package steps

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/providers/fault"
)

// planted is a secret that must show nowhere.
const planted = "sw0rdfish-in-the-dark"

// watched is a run whose log and progress are kept.
type watched struct {
	*orchestrator.Run
	mu       sync.Mutex
	log      bytes.Buffer
	statuses []string
	findings []orchestrator.Finding
}

func newWatched() *watched {
	w := &watched{}
	w.Run = &orchestrator.Run{
		ID: "run-1", Plan: "nightly", Step: "own", Log: slog.New(slog.NewJSONHandler(w, nil)), Progress: w, Now: time.Now,
	}
	return w
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *watched) Total(int64, int64) {}
func (w *watched) Add(int64, int64)   {}

func (w *watched) Status(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.statuses = append(w.statuses, text)
}

func (w *watched) Report(finding orchestrator.Finding) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.findings = append(w.findings, finding)
}

// said is everything that the run has told anybody.
func (w *watched) said() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := w.log.String() + strings.Join(w.statuses, "\n")
	for _, finding := range w.findings {
		text += finding.Text
	}
	return text
}

// settings fills a step from YAML as the runner does.
func settings[T any](t *testing.T, text string) *T {
	t.Helper()
	step := new(T)
	decoder := yaml.NewDecoder(strings.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(step); err != nil {
		t.Fatal(err)
	}
	return step
}

// do checks a step, does it and decodes its receipt.
func do[R any](t *testing.T, step orchestrator.Step, run *orchestrator.Run) R {
	t.Helper()
	if err := step.Check(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	raw, err := step.Do(t.Context(), run, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := step.Verify(t.Context(), run, raw); err != nil {
		t.Fatal(err)
	}
	var receipt R
	if err := json.Unmarshal(raw, &receipt); err != nil {
		t.Fatal(err)
	}
	return receipt
}

func wantFault(t *testing.T, err error, kind fault.Kind, text string) {
	t.Helper()
	if !fault.Is(err, kind) || !strings.Contains(err.Error(), text) {
		t.Errorf("got %s error %v, want %s with %q", fault.KindOf(err), err, kind, text)
	}
}

// secretFile keeps the planted secret where only its owner can read it.
func secretFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(content+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func noSecret(t *testing.T, where, text string) {
	t.Helper()
	if at := strings.Index(text, planted); at >= 0 {
		t.Errorf("the secret is in the %s: …%s…", where, text[max(0, at-60):min(len(text), at+60)])
	}
}

func mustJSON(t *testing.T, value any) string {
	t.Helper()
	raw, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// quiet is a log that nobody reads.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

func vocabulary() orchestrator.Vocabulary { return All() }
