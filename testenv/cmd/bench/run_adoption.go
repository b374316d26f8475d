package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/state/journal"
)

func runAdoption() benchmark {
	return benchmark{
		name: "run-adoption", unit: "s", against: "the bare end of the lease", lessIsBetter: true, runs: 3,
		how: "From the death of a run's owner, by SIGKILL right after it took the run, until another process goes on with it, as muster runs adopt --watch does. " +
			"The owner has the boot ID of another machine, so nobody can see that it is dead and its lease of 10 seconds has to end. " +
			"The reference is the end of that lease, in the same run.",
		prepare: prepareRunAdoption,
	}
}

const (
	ownerEnv = "MUSTER_BENCH_OWNER" // the journal's folder, for the process that is killed

	adoptedWithin = time.Minute
	lookEvery     = 10 * time.Millisecond
)

// adoptionBench kills owners of runs.
type adoptionBench struct {
	on    *stage
	boot  string          // holds the boot ID of another machine
	lease float64         // of the last run: until it had ended
	here  []time.Duration // adoptions of runs whose owner died on this machine
}

// hold is a step that never ends in the process that is to be killed, and at once in any other.
type hold struct {
	emptyStep
	owner bool
}

// Do implements orchestrator.Step.
func (h hold) Do(ctx context.Context, _ *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	if h.owner {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	return orchestrator.Receipt("{}"), nil
}

func holdDefinitions(owner bool) []orchestrator.Definition {
	return []orchestrator.Definition{{
		ID: "hold", Summary: "hold on", Purposes: []plans.Purpose{plans.Drill}, New: func() orchestrator.Step { return &hold{owner: owner} },
	}}
}

func holdRunner(store *journal.Store, owner bool) *orchestrator.Runner {
	return orchestrator.NewRunner(orchestrator.Config{Store: store, Definitions: holdDefinitions(owner), Observer: silence{}, Log: noLog(), Now: time.Now})
}

// ownRun is the process that is killed.
func ownRun(ctx context.Context, dir string) error {
	set, err := plans.Read("plan.yaml", strings.NewReader(
		"apiVersion: muster.dev/v1alpha1\nkind: Plan\nmetadata: {name: bench}\nspec:\n  purpose: drill\n  steps: [{id: hold, uses: hold}]\n"))
	if err != nil {
		return err
	}
	plan, err := plans.CheckSteps(set, "bench", orchestrator.Vocabulary(holdDefinitions(true)))
	if err != nil {
		return err
	}
	store, err := journal.Open(ctx, journal.Config{Directory: dir, Owner: "owner", Log: noLog()})
	if err != nil {
		return err
	}
	_, err = holdRunner(store, true).Start(ctx, orchestrator.Request{ID: "run", Plan: plan})
	return errors.Join(err, store.Close())
}

func prepareRunAdoption(_ context.Context, on *stage) (sides, error) {
	b := &adoptionBench{on: on, boot: on.fresh("boot")}
	err := os.WriteFile(b.boot, []byte("00000000-0000-4000-8000-000000000000\n"), 0o600)
	return sides{ours: b.ours, reference: b.reference, notes: b.notes}, err
}

func (b *adoptionBench) ours(ctx context.Context) (float64, error) {
	taken, _, err := b.adopt(ctx, false)
	if err != nil {
		return 0, err
	}
	b.here = append(b.here, taken)
	taken, lease, err := b.adopt(ctx, true)
	b.lease = lease.Seconds()
	return taken.Seconds(), err
}

func (b *adoptionBench) reference(context.Context) (float64, error) { return b.lease, nil }

func (b *adoptionBench) notes() []string {
	var seconds []float64
	for _, taken := range b.here {
		seconds = append(seconds, taken.Seconds())
	}
	return []string{fmt.Sprintf("An owner that died on the adopter's own machine is not waited for: its runs were adopted after %s s.", list(seconds))}
}

// adopt kills the owner of a run, and returns how long it took until the run went on, and until the
// owner's lease had ended.
func (b *adoptionBench) adopt(ctx context.Context, elsewhere bool) (taken, lease time.Duration, err error) {
	dir := b.on.fresh("journal")
	store, err := journal.Open(ctx, journal.Config{Directory: dir, Owner: "adopter", Log: noLog()})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, adoptedWithin)
	defer cancel()
	owner, err := b.start(ctx, dir, elsewhere)
	if err != nil {
		return 0, 0, err
	}
	defer owner.Process.Kill() //nolint:errcheck // it is dead, or ends with this process
	if err := until(ctx, store, orchestrator.StepIntent); err != nil {
		return 0, 0, err
	}
	adopting, stop := context.WithCancel(ctx)
	adopted := make(chan error, 1)
	go func() {
		adopted <- holdRunner(store, false).Adopt(adopting, false, func(string, *orchestrator.Report, error) {})
	}()
	died := time.Now()
	_ = owner.Process.Kill()
	_ = owner.Wait() // the error is the signal
	ended := make(chan time.Duration, 1)
	go func() { ended <- leaseEnd(ctx, store, died) }()
	err = until(ctx, store, orchestrator.RunResumed)
	taken = time.Since(died)
	lease = <-ended
	if err == nil {
		err = until(ctx, store, orchestrator.RunCompleted)
	}
	stop()
	<-adopted // it ends with its context
	return taken, lease, err
}

// start starts the owner; elsewhere, it has the boot ID of another machine.
func (b *adoptionBench) start(ctx context.Context, dir string, elsewhere bool) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := command(ctx, self)
	if elsewhere {
		c = command(ctx, "unshare", "--mount", "--propagation", "private",
			"sh", "-c", `mount --bind "$1" /proc/sys/kernel/random/boot_id && exec "$2"`, "sh", b.boot, self)
	}
	c.Env = append(os.Environ(), ownerEnv+"="+dir)
	c.Stderr = os.Stderr
	return c, c.Start()
}

// until waits for the first event of a type; of a run that does not exist yet, too.
func until(ctx context.Context, store *journal.Store, event string) error {
	found := errors.New("found")
	err := store.Watch(ctx, "run", 0, func(e journal.Event) error {
		if e.Type == event {
			return found
		}
		return nil
	})
	if errors.Is(err, found) {
		return nil
	}
	return fmt.Errorf("the run has no %s: %w", event, errors.Join(err, ctx.Err()))
}

// leaseEnd looks until the owner's key is gone, or is another's already.
func leaseEnd(ctx context.Context, store *journal.Store, since time.Time) time.Duration {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		owner, _, err := store.Owner(ctx, "run")
		if ctx.Err() != nil || err == nil && owner != "owner" {
			return time.Since(since)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}
