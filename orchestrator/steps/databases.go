package steps

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/orchestrator/machine"
	"github.com/musterdr/muster/orchestrator/secret"
	"github.com/musterdr/muster/orchestrator/shell"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// databaseReceipt is what backup-databases leaves for each database.
type databaseReceipt struct {
	Layer repository.DatabaseLayer `json:"layer"`
	Tree  repository.Tree          `json:"tree"` // databases/<name>
}

// openDatabase is a database server with what its scripts need. The caller closes it.
type openDatabase struct {
	*database.Server
	closers []io.Closer
	standIn *cluster.StandIn // where the server is stopped for a restore
	scratch *cluster.Scratch // where it is a copy
}

func (o *openDatabase) close() {
	for _, c := range slices.Backward(o.closers) {
		_ = c.Close() // nothing of ours waits in a connection
	}
}

// abandon closes because of an error. Where the server was stopped, nothing was changed yet: it starts again.
func (o *openDatabase) abandon(ctx context.Context, err error) error {
	if o.standIn != nil {
		err = errors.Join(err, o.standIn.Resume(ctx))
	}
	o.close()
	return err
}

// closing makes a Closer of a client's Close, which returns nothing.
type closing func()

func (c closing) Close() error { c(); return nil }

// findDatabase finds a database's entry in the Cluster document.
func findDatabase(run *orchestrator.Run, name string) (plans.Database, error) {
	if run.Cluster != nil {
		for _, d := range run.Cluster.Spec.Databases {
			if d.Name == name {
				return d, nil
			}
		}
	}
	return plans.Database{}, fault.Newf("find database", fault.NotFound, name, "the Cluster document lists no such database")
}

// finder finds the place of a database's tools. client is nil where the entry needs no cluster.
type finder func(ctx context.Context, o *openDatabase, run *orchestrator.Run, d plans.Database, client *cluster.Client) (shell.Place, error)

// connectDatabase reaches the place of a database's tools and reads its secrets.
func connectDatabase(ctx context.Context, run *orchestrator.Run, d plans.Database, engine plans.Engine) (*openDatabase, error) {
	return connectDatabaseAt(ctx, run, d, engine, asItRuns)
}

func connectDatabaseAt(ctx context.Context, run *orchestrator.Run, d plans.Database, engine plans.Engine, find finder) (*openDatabase, error) {
	o := &openDatabase{}
	var client *cluster.Client
	if needsCluster(d) {
		var err error
		if client, err = clusterClient(ctx, run); err != nil {
			return nil, err
		}
		o.closers = append(o.closers, closing(client.Close))
	}
	secrets, mask, err := databaseSecrets(ctx, d, client)
	if err != nil {
		o.close()
		return nil, err
	}
	place, err := find(ctx, o, run, d, client)
	if err != nil {
		o.close()
		return nil, err
	}
	o.Server, err = database.NewServer(database.ServerConfig{
		Database: d, Engine: engine, Place: place, Secrets: secrets, Mask: mask, Token: token(run, forDoing),
	})
	if err != nil {
		return nil, o.abandon(ctx, err)
	}
	return o, nil
}

func needsCluster(d plans.Database) bool {
	for _, s := range d.Secrets {
		if s.Key != nil {
			return true
		}
	}
	return d.Pod != nil || d.Helper != nil
}

func podQuery(d *plans.DatabasePod) cluster.PodQuery {
	return cluster.PodQuery{Namespace: d.Namespace, Name: d.Name, Selector: d.Selector, Container: d.Container, Patroni: d.Patroni}
}

// targetQuery names the pod that a restore goes to.
func targetQuery(d *plans.DatabasePod) cluster.PodQuery {
	q := podQuery(d)
	q.Selector = cmp.Or(d.Primary, d.Selector)
	return q
}

// helperCloses bounds how long a task waits for its helper to be taken away; one that stays ends by itself.
const helperCloses = time.Minute

// removing takes a helper away, whatever became of the task.
func removing(ctx context.Context, h cluster.Helper) io.Closer {
	return closing(func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), helperCloses)
		defer cancel()
		_ = h.Remove(ending) // a next try replaces it
	})
}

// asItRuns is the place of a server that runs.
func asItRuns(ctx context.Context, o *openDatabase, run *orchestrator.Run, d plans.Database, client *cluster.Client) (shell.Place, error) {
	switch {
	case d.Pod != nil:
		pod, container, err := client.FindPod(ctx, podQuery(d.Pod))
		return shell.Pod{Client: client, Namespace: d.Pod.Namespace, Name: pod, Container: container}, err
	case d.Helper != nil:
		task := tokenOf(run, "helper", d.Name)
		h, err := client.StartHelper(ctx, cluster.HelperConfig{
			Namespace: d.Helper.Namespace, Name: task, Image: d.Helper.Image, ServiceAccount: d.Helper.ServiceAccount, Task: task,
		})
		o.closers = append(o.closers, removing(ctx, h))
		return shell.Pod{Client: client, Namespace: h.Namespace, Name: h.Name, Container: h.Container}, err
	case d.Machine != "":
		m, access, err := commandMachine(run, d.Machine)
		if err != nil {
			return nil, err
		}
		host, err := machine.Dial(ctx, m, access)
		if err != nil {
			return nil, err
		}
		o.closers = append(o.closers, host)
		return shell.Machine{Host: host}, nil
	default:
		return shell.Runner{}, nil
	}
}

// asTarget is the place of a server that runs and that a restore goes to.
func asTarget(ctx context.Context, o *openDatabase, run *orchestrator.Run, d plans.Database, client *cluster.Client) (shell.Place, error) {
	if d.Pod != nil {
		target := *d.Pod
		target.Selector = targetQuery(d.Pod).Selector
		d.Pod = &target
	}
	return asItRuns(ctx, o, run, d, client)
}

// stopped is the place of a server in a pod that is stopped for a restore: a stand-in with its volumes.
func stopped(ctx context.Context, o *openDatabase, run *orchestrator.Run, d plans.Database, client *cluster.Client) (shell.Place, error) {
	run.Progress.Status("stopping " + d.Name)
	s, err := client.Stop(ctx, targetQuery(d.Pod), tokenOf(run, "stand-in"))
	if err != nil {
		return nil, err
	}
	o.standIn = &s
	o.closers = append(o.closers, removing(ctx, s.Helper))
	return shell.Pod{Client: client, Namespace: s.Namespace, Name: s.Name, Container: s.Container}, nil
}

// databaseSecrets reads a database's secrets anew, and makes a mask of them.
func databaseSecrets(ctx context.Context, d plans.Database, client *cluster.Client) (map[string]string, *secret.Mask, error) {
	values := map[string]string{}
	var known []string
	for name, from := range d.Secrets {
		value, err := databaseSecret(ctx, from, client)
		if err != nil {
			return nil, nil, err
		}
		values[name] = value
		known = append(known, value)
	}
	return values, secret.NewMask(known...), nil
}

func databaseSecret(ctx context.Context, from plans.DatabaseSecret, client *cluster.Client) (string, error) {
	if from.Key == nil {
		return secret.Reference{File: from.File, Env: from.Env}.Read()
	}
	return client.SecretValue(ctx, from.Key.Namespace, from.Key.Name, from.Key.Key)
}

// engineOf is the engine of a captured database: the one of the documents or of Muster, else the one that the
// point brings along.
func engineOf(run *orchestrator.Run, layer repository.DatabaseLayer) (plans.Engine, error) {
	engine, err := database.Find(layer.Engine, ownEngines(run))
	if err == nil || len(layer.Definitions) == 0 || !fault.Is(err, fault.NotFound) {
		return engine, err
	}
	var own plans.Engine
	if err := json.Unmarshal(layer.Definitions, &own); err != nil {
		return engine, fault.New("read engine", fault.Corrupt, layer.Name, err)
	}
	return database.Find(layer.Engine, []plans.Engine{own})
}

func ownEngines(run *orchestrator.Run) []plans.Engine {
	if run.Cluster == nil {
		return nil
	}
	return run.Cluster.Spec.Engines
}

// capturedDatabase is the entry for a captured database: the target's Cluster document counts before what the
// point remembers.
func capturedDatabase(run *orchestrator.Run, layer repository.DatabaseLayer) (plans.Database, error) {
	if d, err := findDatabase(run, layer.Name); err == nil {
		return d, nil
	}
	var d plans.Database
	if err := json.Unmarshal(layer.Document, &d); err != nil {
		return d, fault.New("read database", fault.Corrupt, layer.Name, err)
	}
	return d, nil
}

// matchesName reports whether a name fits one of the patterns; none means all.
func matchesName(name string, patterns []string) (bool, error) {
	for _, pattern := range patterns {
		matched, err := path.Match(pattern, name)
		if err != nil {
			return false, fault.New("choose databases", fault.Invalid, pattern, err)
		}
		if matched {
			return true, nil
		}
	}
	return len(patterns) == 0, nil
}

// chosenDatabases are a Cluster document's that fit one of the patterns; without a document there are none.
func chosenDatabases(document *plans.Cluster, patterns []string) ([]plans.Database, error) {
	if document == nil {
		return nil, nil
	}
	var chosen []plans.Database
	for _, d := range document.Spec.Databases {
		taken, err := matchesName(d.Name, patterns)
		if err != nil {
			return nil, err
		}
		if taken {
			chosen = append(chosen, d)
		}
	}
	return chosen, nil
}

// chosenNames are the names that fit one of the patterns.
func chosenNames(names, patterns []string) ([]string, error) {
	var chosen []string
	for _, name := range names {
		taken, err := matchesName(name, patterns)
		if err != nil {
			return nil, err
		}
		if taken {
			chosen = append(chosen, name)
		}
	}
	return chosen, nil
}

func databaseLayer(manifest repository.Manifest, name string) (repository.DatabaseLayer, error) {
	i := slices.IndexFunc(manifest.Databases, func(l repository.DatabaseLayer) bool { return l.Name == name })
	if i < 0 {
		return repository.DatabaseLayer{}, fault.Newf("find database", fault.NotFound, name, "the recovery point holds no such database")
	}
	return manifest.Databases[i], nil
}

// tell reports problems that are no hindrance.
func tell(run *orchestrator.Run, name string, problems []database.Problem) {
	for _, p := range problems {
		if p.Kind == "info" {
			run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Info, Layer: "databases", Subject: name + ": " + p.Subject, Text: p.Text})
		}
	}
}

// sealDatabases gathers what backup-databases left.
func sealDatabases(source sealSource, into *repository.Manifest) ([]repository.Subtree, error) {
	var subtrees []repository.Subtree
	receipts := source.ItemReceipts("backup-databases")
	for _, name := range slices.Sorted(maps.Keys(receipts)) {
		var receipt databaseReceipt
		if err := json.Unmarshal(receipts[name], &receipt); err != nil {
			return nil, fault.New(sealing, fault.Corrupt, "receipt of backup-databases "+name, err)
		}
		into.Databases = append(into.Databases, receipt.Layer)
		subtrees = append(subtrees, repository.Subtree{Path: receipt.Layer.Path, Tree: receipt.Tree})
	}
	return subtrees, nil
}

func holdsDatabase(m *repository.Manifest, name string) bool {
	return slices.ContainsFunc(m.Databases, func(l repository.DatabaseLayer) bool { return l.Name == name })
}

// sealLogs gathers what archive-logs left.
func sealLogs(source sealSource, into *repository.Manifest) ([]repository.Subtree, error) {
	var subtrees []repository.Subtree
	receipts := source.ItemReceipts("archive-logs")
	for _, name := range slices.Sorted(maps.Keys(receipts)) {
		var receipt logsReceipt
		if err := json.Unmarshal(receipts[name], &receipt); err != nil {
			return nil, fault.New(sealing, fault.Corrupt, "receipt of archive-logs "+name, err)
		}
		into.DatabaseLogs = append(into.DatabaseLogs, receipt.Layer)
		subtrees = append(subtrees, repository.Subtree{Path: receipt.Layer.Path, Tree: receipt.Tree})
		if base := receipt.Base; base != nil && !holdsDatabase(into, name) {
			into.Databases = append(into.Databases, base.Layer)
			subtrees = append(subtrees, repository.Subtree{Path: base.Layer.Path, Tree: base.Tree})
		}
	}
	return subtrees, nil
}
