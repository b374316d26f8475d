package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/scenario"
	"github.com/musterdr/muster/testenv/workload"
)

func rebuildRTO() benchmark {
	return benchmark{
		name: "rebuild-rto", unit: "s", against: "a shell script", lessIsBetter: true, runs: 1,
		how: "The demo's cluster (1 control plane, 2 workers, some 2,500 objects) from blank machines, from the first command until every workload's pods are ready in containers started since. " +
			"Ours is muster rebuild, and its time includes the verification of every byte before and of every object after, which the script lacks. " +
			"The reference is sh with the commands that muster points show --break-glass prints: stock kopia, etcdutl, tar and kubectl.",
		prepare: prepareRebuildRTO,
	}
}

const readyWithin = 5 * time.Minute

// rebuildBench is a cluster that was captured, and is lost again and again.
type rebuildBench struct {
	*scenario.Scenario
	members []string
	steps   string // of the last rebuild, with their seconds
	done    time.Duration
	scripts time.Duration // until the script had ended
}

func prepareRebuildRTO(ctx context.Context, on *stage) (sides, error) {
	muster, err := filepath.Abs("bin/muster")
	if err != nil {
		return sides{}, err
	}
	if _, err := os.Stat(muster); err != nil {
		return sides{}, fmt.Errorf("%w: run make build first", err)
	}
	on.after(func(ctx context.Context) error { return testenv.Remove(ctx, labName) })
	s, err := scenario.New(ctx, scenario.Config{
		Cluster: testenv.Config{Name: labName, ControlPlanes: 1, Workers: 2, Disks: []testenv.Disk{{Name: scenario.Disk, Bytes: 256 << 20}}},
		Size:    scenario.Size(24, 40), Dir: on.dir, Muster: muster, Out: os.Stderr,
	})
	if err != nil {
		return sides{}, err
	}
	r := &rebuildBench{Scenario: s, members: s.Members()}
	capture := func(ctx context.Context) error { return s.Run(ctx, "capture", io.Discard, "run", "capture") }
	for _, step := range []func(context.Context) error{s.Fill, s.Init, capture} {
		if err := step(ctx); err != nil {
			return sides{}, err
		}
	}
	return sides{ours: r.ours, reference: r.reference, notes: r.notes}, nil
}

// lose destroys every machine and puts blank ones in their places.
func (r *rebuildBench) lose(ctx context.Context) error {
	if err := r.Destroy(ctx); err != nil {
		return err
	}
	return r.Blank(ctx, r.members)
}

func (r *rebuildBench) ours(ctx context.Context) (float64, error) {
	if err := r.lose(ctx); err != nil {
		return 0, err
	}
	var targets []testenv.Target
	for _, name := range r.members {
		targets = append(targets, testenv.Target{Machine: name, Role: testenv.RoleByName(name)})
	}
	began := time.Now()
	report, err := r.Rebuild(ctx, r.Lab, "", targets...)
	if err != nil {
		return 0, err
	}
	r.done = time.Since(began)
	if report.Verdict != "complete" {
		return 0, fmt.Errorf("the rebuild's verdict is %q", report.Verdict)
	}
	r.steps = ""
	for _, step := range report.Steps {
		r.steps += fmt.Sprintf(", %s %s s", step.ID, figure(step.Seconds))
	}
	return r.untilReady(ctx, began)
}

func (r *rebuildBench) reference(ctx context.Context) (float64, error) {
	if err := r.lose(ctx); err != nil {
		return 0, err
	}
	script, err := r.ByHand(ctx)
	if err != nil {
		return 0, err
	}
	asGroup(script)
	began := time.Now()
	if err := run(script); err != nil {
		return 0, err
	}
	r.scripts = time.Since(began)
	return r.untilReady(ctx, began)
}

// untilReady returns the seconds since began when the last pod has become ready.
func (r *rebuildBench) untilReady(ctx context.Context, began time.Time) (float64, error) {
	if err := r.Lab.FetchKubeconfig(ctx, r.members[0]); err != nil {
		return 0, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", r.Lab.KubeconfigFile())
	if err != nil {
		return 0, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return 0, err
	}
	waiting, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	err = workload.Ready(waiting, client, r.Lost)
	return time.Since(began).Seconds(), err
}

func (r *rebuildBench) notes() []string {
	return []string{
		fmt.Sprintf("Muster ended after %s s%s. The script ended, with an API server that answers, after %s s.",
			figure(r.done.Seconds()), r.steps, figure(r.scripts.Seconds())),
	}
}
