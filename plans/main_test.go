package plans

import (
	"bytes"
	"flag"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/musterdr/muster/providers/fault"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares with a file under testdata.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; got:\n%s\nwant:\n%s", file, got, want)
	}
}

// words is a vocabulary made for tests.
type words map[string]StepSpec

func (w words) Step(id string) (StepSpec, bool) { spec, ok := w[id]; return spec, ok }
func (w words) IDs() []string                   { return slices.Sorted(maps.Keys(w)) }

type plainStep struct{}

type verifyStep struct {
	Mode string `yaml:"mode"`
}

type namespacesStep struct {
	Exclude  []string `yaml:"exclude"`
	PageSize int      `yaml:"pageSize"`
	Settle   Duration `yaml:"settle"`
	Limits   *struct {
		Objects int64 `yaml:"objects"`
		Bytes   int64 `yaml:"bytes"`
	} `yaml:"limits"`
}

// approveStep has typed mappings inside of mappings.
type approveStep struct {
	Roles     []string             `yaml:"roles"`
	Ask       map[string]Parameter `yaml:"ask"`
	Timeout   Duration             `yaml:"timeout"`
	OnTimeout string               `yaml:"onTimeout"`
}

// anyStep takes whatever there is.
type anyStep struct {
	Text   string            `yaml:"text"`
	Number float64           `yaml:"number"`
	Count  int               `yaml:"count"`
	On     *bool             `yaml:"on"`
	Wait   Duration          `yaml:"wait"`
	Texts  []string          `yaml:"texts"`
	Labels map[string]string `yaml:"labels"`
	Free   any               `yaml:"free"`
}

// Validate implements Validator.
func (s *anyStep) Validate() error {
	if s.Count > 0 && s.Text == "" {
		return fault.Newf("check settings", fault.Invalid, "count", "it counts text, and there is none")
	}
	return nil
}

func vocabulary() words {
	w := words{}
	add := func(id, summary string, fans bool, purpose Purpose, make func() any) {
		w[id] = StepSpec{ID: id, Summary: summary, FanOut: fans, Purposes: []Purpose{purpose, Drill}, New: make}
	}
	plain := func() any { return &plainStep{} }
	add("snapshot-etcd", "Save a verified snapshot of etcd into the repository.", false, Capture, plain)
	add("capture-machines", "Save root filesystems and attached disks.", true, Capture, plain)
	add("capture-namespaces", "Save every API object, all at the revision of the etcd snapshot, in pages and in parallel.",
		false, Capture, func() any { return &namespacesStep{} })
	add("capture-volumes", "Save what has changed in volumes.", true, Capture, plain)
	add("backup-databases", "Save databases with their own tools.", true, Capture, plain)
	add("seal-recovery-point", "Sign one manifest over everything.", false, Capture, plain)
	for _, id := range []string{"provision-machines", "restore-machines", "renew-identities"} {
		add(id, "Summary of "+id+".", true, Recover, plain)
	}
	for _, id := range []string{"restore-etcd", "start-control-plane", "settle-cluster"} {
		add(id, "Summary of "+id+".", false, Recover, plain)
	}
	for _, id := range []string{"restore-volumes", "bind-volumes"} {
		w[id] = StepSpec{ID: id, Summary: "Summary of " + id + ".", FanOut: id == "restore-volumes", Purposes: []Purpose{Recover, Migrate, Drill}, New: plain}
	}
	for _, id := range []string{"restore-databases", "verify-databases"} {
		w[id] = StepSpec{ID: id, Summary: "Summary of " + id + ".", FanOut: true, Purposes: []Purpose{Recover, Migrate, Drill}, New: plain}
	}
	w["verify-recovery-point"] = StepSpec{ID: "verify-recovery-point", Summary: "Summary of verify-recovery-point.", Purposes: []Purpose{Recover, Migrate, Drill}, New: plain}
	w["verify-cluster"] = StepSpec{ID: "verify-cluster", Summary: "Summary of verify-cluster.", Purposes: []Purpose{Recover, Migrate, Drill},
		New: func() any { return &verifyStep{} }}
	everything := []Purpose{Capture, Recover, Drill, Migrate}
	w["approve"] = StepSpec{ID: "approve", Summary: "Wait for a person.", Purposes: everything, New: func() any { return &approveStep{} }}
	w["any"] = StepSpec{ID: "any", Summary: "Take anything.", Purposes: everything, New: func() any { return &anyStep{} }}
	add("replay-namespaces", "Summary of replay-namespaces.", false, Migrate, plain)
	return w
}

func mustRead(t *testing.T, paths ...string) *Set {
	t.Helper()
	set, err := ReadFiles(paths...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}
