package steps

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/journal"
	"github.com/musterdr/muster/state/repository"
	"github.com/musterdr/muster/testenv/apiserver"
	"github.com/musterdr/muster/testenv/corpus"
)

// TestReplayCorpus captures a cluster that holds every case of the corpus, and replays it into a fresh
// one, by plans as users write them.
func TestReplayCorpus(t *testing.T) {
	cases, err := corpus.Cases()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("corpus: %d cases\n", len(cases))
	source, target := apiserver.Need(t, apiserver.Config{Controllers: true}), apiserver.Need(t, apiserver.Config{Controllers: true})
	if err := corpus.Seed(t.Context(), restOf(t, source), cases); err != nil {
		t.Fatal(err)
	}
	if err := corpus.Prepare(t.Context(), restOf(t, target), cases); err != nil {
		t.Fatal(err)
	}
	site := newCorpusSite(t)
	if err := site.run(t, source, "capture", plans.Capture, "{id: apps, uses: capture-namespaces}", "{id: seal, uses: seal-recovery-point, needs: [apps]}"); err != nil {
		t.Fatal(err)
	}
	replays, err := corpus.Replays(cases)
	if err != nil {
		t.Fatal(err)
	}
	ended, told := map[string]error{}, map[string]corpus.Told{}
	for _, replay := range replays {
		ended[replay.Name] = site.run(t, target, replay.Name, plans.Migrate, "{id: replay, uses: replay-namespaces, with: "+replay.With+"}")
		told[replay.Name] = site.told(t, replay.Name)
	}
	problems, err := corpus.CheckAll(t.Context(), restOf(t, target), cases, told)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			if err := ended[c.ReplayName()]; err != nil {
				t.Error(err)
			}
			for _, problem := range problems[c.Name] {
				t.Error(problem)
			}
			if t.Failed() {
				t.Log(c.Why)
			}
		})
	}
}

func restOf(t *testing.T, server *apiserver.Server) *rest.Config {
	t.Helper()
	config, err := clientcmd.RESTConfigFromKubeConfig(server.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// corpusSite is a repository, and a Muster process that captures into it and replays from it.
type corpusSite struct {
	repository repository.Config
	key        string
	store      *journal.Store
	runner     *orchestrator.Runner
}

func newCorpusSite(t *testing.T) *corpusSite {
	t.Helper()
	s := &corpusSite{
		repository: newRepository(t),
		key:        filepath.Join(t.TempDir(), "key"), // never read: the site opens the repository itself
	}
	if err := os.WriteFile(s.key, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	store, err := journal.Open(t.Context(), journal.Config{Directory: t.TempDir(), Owner: "test", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	s.store = store
	s.runner = orchestrator.NewRunner(orchestrator.Config{
		Store: store, Definitions: All(), Observer: hush{}, Log: log, Now: time.Now,
		Repository: func(ctx context.Context, _ *plans.Repository) (*repository.Repository, error) {
			return repository.Open(ctx, s.repository)
		},
	})
	return s
}

// run runs a plan of the given steps against a server.
func (s *corpusSite) run(t *testing.T, server *apiserver.Server, name string, purpose plans.Purpose, steps ...string) error {
	t.Helper()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, server.Kubeconfig, 0o600); err != nil {
		return err
	}
	set, err := plans.Read(name+".yaml", strings.NewReader(fmt.Sprintf(`
apiVersion: muster.dev/v1alpha1
kind: Cluster
metadata: {name: prod}
spec: {kubeconfigFile: %s}
---
apiVersion: muster.dev/v1alpha1
kind: Repository
metadata: {name: vault}
spec: {url: %q, keyFile: %s}
---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: %s}
spec: {purpose: %s, steps: [%s]}
`, kubeconfig, s.repository.URL, s.key, name, purpose, strings.Join(steps, ", "))))
	if err != nil {
		return err
	}
	plan, err := plans.Check(set, name, vocabulary())
	if err != nil {
		return err
	}
	request := orchestrator.Request{ID: name, Plan: plan}
	if purpose != plans.Capture {
		request.Point = "latest"
	}
	_, err = s.runner.Start(t.Context(), request)
	return err
}

// told reads the outcomes that the receipt of a run's replay names.
func (s *corpusSite) told(t *testing.T, run string) corpus.Told {
	t.Helper()
	events, err := s.store.Events(t.Context(), run, 0)
	if err != nil && !fault.Is(err, fault.NotFound) { // its plan was refused
		t.Fatal(err)
	}
	told := map[corpus.Key][2]string{}
	for _, event := range events {
		var receipt struct{ Outcomes repository.Object }
		if event.Type != orchestrator.StepReceipt {
			continue
		}
		if err := json.Unmarshal(event.Data, &receipt); err != nil {
			t.Fatal(err)
		}
		if receipt.Outcomes.ID != "" {
			s.readOutcomes(t, receipt.Outcomes.ID, told)
		}
	}
	return func(key corpus.Key) (outcome, reason string, found bool) {
		words, found := told[key]
		return words[0], words[1], found
	}
}

// readOutcomes reads outcomes.jsonl as docs/formats/outcomes.md has it.
func (s *corpusSite) readOutcomes(t *testing.T, id repository.ID, into map[corpus.Key][2]string) {
	t.Helper()
	opened, err := repository.Open(t.Context(), s.repository)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close(context.Background()) // it was only read
	reader, err := opened.Open(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for decoder := json.NewDecoder(reader); ; {
		var line struct{ Group, Resource, Namespace, Name, Outcome, Reason string }
		if err := decoder.Decode(&line); err == io.EOF {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		into[corpus.Key{Group: line.Group, Resource: line.Resource, Namespace: line.Namespace, Name: line.Name}] = [2]string{line.Outcome, line.Reason}
	}
}
