package steps

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/state/journal"
)

// hush is an Observer that does nothing.
type hush struct{}

func (hush) Journaled(journal.Event)        {}
func (hush) Progressed(orchestrator.Update) {}
func (hush) Replayed([]journal.Event)       {}

// TestOwnStepsInAPlan runs them as users do: a command's JSON decides about a call and a message, and
// a failure at the end takes the command back. The journal holds no secret.
func TestOwnStepsInAPlan(t *testing.T) {
	s := newSite(t, nil)
	dir, key := t.TempDir(), secretFile(t, planted)
	text := `
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: own}
spec:
  purpose: drill
  steps:
    - id: make
      uses: run-command
      with:
        script: 'echo "$KEY" >` + dir + `/made; echo "{\"ready\": true, \"key\": \"$KEY\"}"'
        secretEnv: {KEY: {file: ` + key + `}}
        undo: {command: [rm, ` + dir + `/made]}
    - {id: port, uses: wait-for, needs: [make], with: {tcp: {address: "` + s.Listener.Addr().String() + `"}}}
    - {id: skipped, uses: notify, needs: [make], when: '!receipts.make.json.ready', with: {url: "https://192.0.2.1", text: never}}
    - id: fails
      uses: call-http
      needs: [make, port, skipped]
      when: receipts.make.json.ready && receipts.make.json.key == "***"
      with: {url: "` + s.URL + `", secretHeaders: {X-Key: {file: ` + key + `}}}
      onFailure: undo
`
	set, err := plans.Read("own.yaml", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := plans.CheckSteps(set, "own", vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	handler := slog.New(slog.NewTextHandler(&log, nil))
	store, err := journal.Open(t.Context(), journal.Config{Directory: t.TempDir(), Owner: "test", Log: handler})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	runner := orchestrator.NewRunner(orchestrator.Config{Store: store, Definitions: All(), Observer: hush{}, Log: handler, Now: time.Now})
	_, err = runner.Start(t.Context(), orchestrator.Request{ID: "run-1", Plan: plan})
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Fatalf("the call of a stranger ended with %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "made")); !os.IsNotExist(err) {
		t.Errorf("what the command made after undo: %v", err)
	}
	events, err := store.Events(t.Context(), "run-1", 0)
	if err != nil {
		t.Fatal(err)
	}
	kinds := ""
	for _, event := range events {
		noSecret(t, "journal", mustJSON(t, event))
		kinds += " " + event.Type + ":" + event.Step
	}
	for _, want := range []string{orchestrator.StepVerified + ":port", orchestrator.StepSkipped + ":skipped", orchestrator.StepFailed + ":fails", orchestrator.StepUndone + ":make"} {
		if !strings.Contains(kinds, want) {
			t.Errorf("no %s in%s", want, kinds)
		}
	}
	noSecret(t, "log", log.String())
}
