package scenario

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/musterdr/muster/testenv"
)

// builtMuster compiles the command once for all tests.
var builtMuster = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "muster-scenario-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "muster")
	return path, testenv.GoBuild(context.Background(), "./cmd/muster", path)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := builtMuster(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path)) // a temporary folder
	}
	os.Exit(code)
}

// play makes a filled cluster in a lab of its own, which ends with the test.
func play(t *testing.T, cluster testenv.Config) *Scenario {
	t.Helper()
	s := empty(t, cluster)
	must(t, s.Fill(t.Context()))
	return s
}

// empty makes a cluster in a lab of its own, and a repository.
func empty(t *testing.T, cluster testenv.Config) *Scenario {
	t.Helper()
	testenv.Need(t)
	muster, err := builtMuster()
	if err != nil {
		t.Fatal(err)
	}
	fresh(t, cluster.Name)
	s, err := New(t.Context(), Config{Cluster: cluster, Size: Size(4, 10), Dir: t.TempDir(), Muster: muster, Out: &quiet{t}})
	if err != nil {
		t.Fatal(err)
	}
	must(t, s.Init(t.Context()))
	return s
}

// volumeScenario makes a cluster in a lab of its own; the test names its storage and calls Init.
func volumeScenario(t *testing.T, cluster testenv.Config, plugins string) *Scenario {
	t.Helper()
	testenv.Need(t)
	muster, err := builtMuster()
	must(t, err)
	fresh(t, cluster.Name)
	s, err := New(t.Context(), Config{Cluster: cluster, Dir: t.TempDir(), Muster: muster, Plugins: plugins, Out: &quiet{t}})
	must(t, err)
	return s
}

// fresh makes sure that there is no lab of this name, now and after the test.
func fresh(t *testing.T, name string) {
	t.Helper()
	must(t, testenv.Remove(t.Context(), name))
	t.Cleanup(func() {
		if err := testenv.Remove(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// quiet shows a scenario's story when its test fails.
type quiet struct{ t *testing.T }

func (q *quiet) Write(p []byte) (int, error) {
	q.t.Log(string(p))
	return len(p), nil
}

// blank makes machines of the given names without a cluster, in place of those that were destroyed.
func blank(t *testing.T, l *testenv.Lab, names ...string) {
	t.Helper()
	for _, name := range names {
		must(t, l.NewMachine(t.Context(), testenv.Machine{Name: name, Role: testenv.RoleBlank}))
	}
}

// blankWith is blank with Debian packages beside the base system's on workers.
func blankWith(t *testing.T, l *testenv.Lab, packages []string, names ...string) {
	t.Helper()
	for _, name := range names {
		m := testenv.Machine{Name: name, Role: testenv.RoleBlank}
		if testenv.RoleByName(name) == testenv.RoleWorker {
			m.Packages = packages
		}
		must(t, l.NewMachine(t.Context(), m))
	}
}

func check(t *testing.T, report Report, proofs []Proof, err error) {
	t.Helper()
	must(t, err)
	if report.Verdict != "complete" {
		t.Errorf("the verdict is %q", report.Verdict)
	}
	if report.RTO > 0 && (report.RPO <= 0 || report.RPO > 3600) { // every point of a test is minutes old
		t.Errorf("the report tells an RPO of %g s", report.RPO)
	}
	for _, p := range proofs {
		if !p.Holds {
			t.Errorf("%s: expected %s, found %s", p.Name, p.Expected, p.Found)
		}
	}
}
