package steps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"path"
	"strings"
	"time"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/orchestrator/shell"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// TestDatabases restores databases into scratch copies of their servers, proves what came back as verify-databases
// does, and throws the copies away. The servers themselves are not touched. Its items are the databases. In a
// capture it tests the point that the run has sealed.
type TestDatabases struct {
	VerifyDatabases `yaml:",inline"`
}

// testedDatabase is what test-databases leaves for each database.
type testedDatabase struct {
	verifiedDatabase
	Database string  `json:"database"`
	Point    string  `json:"point"`
	Server   string  `json:"server"` // the version of the scratch server
	Bytes    int64   `json:"bytes"`
	Seconds  float64 `json:"seconds"` // from nothing to a server that answers
}

// Items are the names of the databases.
func (s *TestDatabases) Items(ctx context.Context, run *orchestrator.Run) ([]string, error) {
	if run.Point == "" {
		return (&BackupDatabases{Databases: s.Databases}).Items(ctx, run)
	}
	return s.VerifyDatabases.Items(ctx, run)
}

// Check compiles the conditions, and looks whether the servers can be copied.
func (s *TestDatabases) Check(ctx context.Context, run *orchestrator.Run) error {
	names, err := s.Items(ctx, run)
	if err != nil {
		return err
	}
	if len(names) == 0 && len(s.Databases) > 0 {
		return fault.Newf("check databases", fault.NotFound, strings.Join(s.Databases, ", "), "neither the recovery point nor, in a capture, the Cluster document holds such a database")
	}
	problems := []error{checkInvariants(run, s.Invariants)}
	for _, name := range names {
		if run.Item == "" || run.Item == name {
			problems = append(problems, s.check(ctx, run, name))
		}
	}
	return errors.Join(problems...)
}

func (s *TestDatabases) check(ctx context.Context, run *orchestrator.Run, name string) error {
	layer := repository.DatabaseLayer{Name: name}
	if run.Point != "" {
		_, manifest, err := pointOf(ctx, run)
		if err != nil {
			return err
		}
		if layer, err = databaseLayer(manifest, name); err != nil {
			return err
		}
	} else if d, err := findDatabase(run, name); err == nil {
		layer.Engine = d.Engine
	}
	d, engine, held, err := databaseTarget(run, layer)
	if err != nil {
		return err
	}
	if err := testable(d, engine); err != nil || run.Machines != nil { // of a cluster that is not there yet
		return err
	}
	client, err := clusterClient(ctx, run)
	if err != nil {
		return err
	}
	defer client.Close()
	return client.CheckScratch(ctx, podQuery(d.Pod), held)
}

// testable refuses a database of which no copy can be made, and one whose tools could reach another server than the
// copy beside them.
func testable(d plans.Database, engine plans.Engine) error {
	refuse := func(format string, args ...any) error {
		return fault.Newf("test database", fault.Unsupported, d.Name, format+": test it in a drill whose Cluster document names a scratch server, with restore-databases and verify-databases", args...)
	}
	if d.Pod == nil {
		return refuse("only a server in a pod can be copied")
	}
	host, set := d.Settings["host"]
	if !set {
		host = engine.Spec.Settings["host"].Default
	}
	if !isLocal(host) {
		return refuse("settings.host is %s, and a copy is reached by 127.0.0.1 or its socket", host)
	}
	return nil
}

// isLocal reports whether an address is the container's own.
func isLocal(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || host == "localhost" || path.IsAbs(host) || ip != nil && ip.IsLoopback()
}

// testedPoint is the run's point: in a capture, the one that it has sealed.
func testedPoint(ctx context.Context, run *orchestrator.Run) (repository.Point, repository.Manifest, error) {
	if run.Point != "" {
		return pointOf(ctx, run)
	}
	var sealed sealReceipt
	if found, err := run.ReceiptOf("seal-recovery-point", &sealed); err != nil || !found {
		return repository.Point{}, repository.Manifest{}, errors.Join(err, fault.Newf("test databases", fault.Invalid, run.Step, "nothing is sealed yet: let the step need seal-recovery-point"))
	}
	of := *run
	of.Point = sealed.Point
	return pointOf(ctx, &of)
}

// scratch is the place of a copy of a server in a pod; held, it starts after the restore.
func scratch(held bool) finder {
	return func(ctx context.Context, o *openDatabase, run *orchestrator.Run, d plans.Database, client *cluster.Client) (shell.Place, error) {
		run.Progress.Status("starting a copy of " + d.Name + "'s server")
		s, err := client.StartScratch(ctx, podQuery(d.Pod), tokenOf(run, "scratch"), held)
		o.scratch = &s
		o.closers = append(o.closers, closing(func() { _ = endScratch(ctx, s) })) // a next try replaces it
		return shell.Pod{Client: client, Namespace: s.Namespace, Name: s.Name, Container: s.Container}, err
	}
}

// endScratch takes a copy away, whatever became of the task.
func endScratch(ctx context.Context, s cluster.Scratch) error {
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), helperCloses)
	defer cancel()
	return s.End(ending)
}

// Do tests one database.
func (s *TestDatabases) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	point, manifest, err := testedPoint(ctx, run)
	if err != nil {
		return nil, err
	}
	layer, err := databaseLayer(manifest, run.Item)
	if err != nil {
		return nil, err
	}
	d, engine, held, err := databaseTarget(run, layer)
	if err != nil {
		return nil, err
	}
	if err := testable(d, engine); err != nil {
		return nil, err
	}
	d.Settings = maps.Clone(d.Settings)
	maps.DeleteFunc(d.Settings, func(name, _ string) bool { return name == "stopCommand" || name == "startCommand" }) // of the original
	r := testedDatabase{Database: run.Item, Point: point.ID}
	began := run.Now()
	o, err := connectDatabaseAt(ctx, run, d, engine, scratch(held))
	if err != nil {
		return nil, err
	}
	defer o.close()
	if err := bringUp(ctx, run, o, databaseBase{point: point, layer: layer}, held); err != nil {
		return nil, err
	}
	if r.Server, err = answers(ctx, o); err != nil {
		return nil, err
	}
	r.Seconds = run.Now().Sub(began).Seconds()
	run.Progress.Status("proving " + run.Item)
	if r.verifiedDatabase, err = s.prove(ctx, run, point, layer, o); err != nil {
		return nil, err
	}
	for _, part := range layer.Parts {
		r.Bytes += part.Size
	}
	if err := endScratch(ctx, *o.scratch); err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

// bringUp restores into the copy. It holds nothing, so nothing may be replaced: what holds data is another server.
func bringUp(ctx context.Context, run *orchestrator.Run, o *openDatabase, base databaseBase, held bool) error {
	config := (&RestoreDatabases{}).config(run, base)
	if held {
		if err := o.Restore(ctx, config); err != nil {
			return err
		}
		run.Progress.Status("waiting until the copy is ready")
		return o.scratch.Release(ctx)
	}
	if _, err := answers(ctx, o); err != nil {
		return err
	}
	return o.Restore(ctx, config)
}

const (
	copyWithin = 5 * time.Minute // a pod without a probe is ready before its server is
	copyEvery  = time.Second
)

// answers waits until the server tells its version.
func answers(ctx context.Context, o *openDatabase) (string, error) {
	waiting, cancel := context.WithTimeout(ctx, copyWithin)
	defer cancel()
	ticker := time.NewTicker(copyEvery)
	defer ticker.Stop()
	for {
		version, err := o.Version(waiting)
		if !fault.Is(err, fault.Transient) && !fault.Is(err, fault.Busy) {
			return version, err
		}
		select {
		case <-waiting.Done():
			return "", err
		case <-ticker.C:
		}
	}
}

// Summarize counts the database as tested.
func (s *TestDatabases) Summarize(receipt orchestrator.Receipt) (orchestrator.Summary, error) {
	var r testedDatabase
	err := json.Unmarshal(receipt, &r)
	text := fmt.Sprintf("%s: %d tables equal, %d invariants hold, up after %.0f s", r.Database, r.Tables, r.Invariants, r.Seconds)
	return orchestrator.Summary{Layer: "restore tests", Unit: "databases", Expected: 1, Done: 1, Bytes: r.Bytes, Text: text}, err
}
