package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/journal"
)

// leave makes a run and lets work move it; then it is as a process leaves it that dies.
func leave(t *testing.T, r *Runner, w *world, steps []string, work func(x *execution) error) {
	t.Helper()
	x, err := r.prepare(t.Context(), request(t, w, steps...))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Store.Create(t.Context(), x.header); err != nil {
		t.Fatal(err)
	}
	if x.journal, err = r.Store.Acquire(t.Context(), "run-1"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(x.moveRun(t.Context(), RunStarted, nil), work(x), x.release(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// begin journals the intent of a task, and makes what its Do makes.
func begin(ctx context.Context, x *execution, w *world, step string) error {
	t := x.ledger.byID[step].whole
	t.attempt++
	effect := (&touch{world: w}).effect(&Run{ID: "run-1", Step: step})
	return errors.Join(x.move(ctx, StepIntent, t, nil), os.WriteFile(effect, nil, 0o600))
}

// TestACancelledRunStaysCancelled lets the process die after a cancel was journaled, at once or when it
// had already noted the interruption; whoever goes on with the run brings the cancel to its end.
func TestACancelledRunStaysCancelled(t *testing.T) {
	for _, c := range []struct {
		verb, state string
		effects     []string
	}{
		{VerbCancel, RunStateCancelled, []string{"run-1-first"}},
		{VerbUndo, RunStateUndone, []string{}},
	} {
		for _, noted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%t", c.verb, noted), func(t *testing.T) {
				r, w := newRunner(t)
				leave(t, r, w, []string{"id: first, uses: touch", "id: last, uses: touch, needs: [first]"}, func(x *execution) error {
					err := errors.Join(begin(t.Context(), x, w, "first"), x.obey(t.Context(), command(c.verb, "")))
					if noted {
						err = errors.Join(err, x.moveRun(t.Context(), RunInterrupted, nil))
					}
					return err
				})
				report, err := r.Resume(t.Context(), "run-1")
				if report == nil || report.State != c.state {
					t.Fatalf("%+v, %v", report, err)
				}
				if w.count("do first")+w.count("do last") > 0 || !slices.Equal(w.effects(t), c.effects) {
					t.Errorf("the world holds %v after %v", w.effects(t), w.calls)
				}
			})
		}
	}
}

// TestAPauseDoesNotStopACancel asks for a pause of a run that is being cancelled.
func TestAPauseDoesNotStopACancel(t *testing.T) {
	r, w := newRunner(t)
	leave(t, r, w, []string{"id: first, uses: touch"}, func(x *execution) error {
		if err := x.obey(t.Context(), command(VerbCancel, "")); err != nil {
			return err
		}
		if err := x.obey(t.Context(), command(VerbPause, "")); !fault.Is(err, fault.Invalid) {
			t.Errorf("a pause of a run that is being cancelled: %v", err)
		}
		paused := command(VerbPause, "")
		return x.record(t.Context(), RunPausing, "", "", 0, paused, nil) // as an earlier muster did
	})
	if report, err := r.Resume(t.Context(), "run-1"); report == nil || report.State != RunStateCancelled || w.count("do first") > 0 {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestNothingBeginsAfterACancel lets many tasks begin while a run is cancelled.
func TestNothingBeginsAfterACancel(t *testing.T) {
	r, w := newRunner(t)
	var steps []string
	for i := range 100 {
		steps = append(steps, fmt.Sprintf("id: s%d, uses: touch", i))
	}
	leave(t, r, w, steps, func(x *execution) error {
		var tasks sync.WaitGroup
		for _, step := range x.ledger.steps {
			tasks.Go(func() {
				err := x.runTask(t.Context(), step.spec, step.whole)
				var asked *stopped
				if err != nil && !errors.As(err, &asked) {
					t.Error(err)
				}
			})
		}
		err := x.obey(t.Context(), command(VerbCancel, ""))
		tasks.Wait()
		return err
	})
	cancelled := false
	for _, event := range eventsOf(t, r) {
		cancelled = cancelled || event.Type == RunCancelling
		if cancelled && event.Type == StepIntent {
			t.Errorf("step %s began after the cancel", event.Step)
		}
	}
	if !cancelled {
		t.Error("the journal holds no cancel")
	}
}

func eventsOf(t *testing.T, r *Runner) []journal.Event {
	t.Helper()
	events, err := r.Store.Events(t.Context(), "run-1", 0)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// TestACancelWinsOverAnInterruption cancels a run that was interrupted, while a step takes its time to end.
func TestACancelWinsOverAnInterruption(t *testing.T) {
	r, w := newRunner(t)
	ctx, interrupt := context.WithCancel(t.Context())
	w.hook["slow"] = func(ctx context.Context) error {
		interrupt()
		<-ctx.Done()
		return errors.Join(r.Command(context.WithoutCancel(ctx), "run-1", command(VerbCancel, "")), context.Cause(ctx))
	}
	if report, err := r.Start(ctx, request(t, w, "id: slow, uses: touch")); report == nil || report.State != RunStateCancelled {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestUndoTakesBackWhatHasNoReceipt lets attempts fail after they made something; an undo removes that,
// too, in its place in the order, and says what it could not remove.
func TestUndoTakesBackWhatHasNoReceipt(t *testing.T) {
	r, w := newRunner(t)
	w.late["extra"] = []error{invalid()}
	w.late["broken"] = []error{transient(), invalid()}
	w.trouble["abandon extra"] = []error{fault.Newf("delete volume", fault.Denied, "vol-7", "in use")}
	report, err := r.Start(t.Context(), request(t, w, "id: first, uses: touch", "id: extra, uses: touch, needs: [first], optional: true",
		"id: after, uses: touch, needs: [extra]", "id: broken, uses: touch, needs: [after], onFailure: undo, retry: {attempts: 2, backoff: 1ms}"))
	if err == nil || report.State != RunStateUndoFailed || !strings.Contains(err.Error(), "vol-7") || !slices.Equal(w.effects(t), []string{"run-1-extra"}) {
		t.Fatalf("%+v, %v: the world holds %v", report, err, w.effects(t))
	}
	mirror := slices.DeleteFunc(slices.Clone(w.calls), func(call string) bool {
		return !strings.HasPrefix(call, "undo ") && !strings.HasPrefix(call, "abandon ")
	})
	if want := []string{"abandon broken", "undo after", "abandon extra", "undo first"}; !slices.Equal(mirror, want) {
		t.Errorf("it was taken back as %v, want %v", mirror, want)
	}
	report, err = r.Resume(t.Context(), "run-1")
	if err != nil || report.State != RunStateUndone || len(w.effects(t)) > 0 || w.count("abandon broken") != 1 {
		t.Errorf("%+v, %v: the world holds %v after %v", report, err, w.effects(t), w.calls)
	}
}

// TestUndoTakesBackAnAttemptThatFollowedAReceipt lets a task fail its verification, and its next attempt
// die: the receipt names the first one's effects alone.
func TestUndoTakesBackAnAttemptThatFollowedAReceipt(t *testing.T) {
	r, w := newRunner(t)
	leave(t, r, w, []string{"id: first, uses: touch"}, func(x *execution) error {
		t1 := x.ledger.byID["first"].whole
		return errors.Join(begin(t.Context(), x, w, "first"), x.move(t.Context(), StepReceipt, t1, Receipt(`{}`)),
			x.move(t.Context(), StepRetry, t1, failure(transient())), begin(t.Context(), x, w, "first"))
	})
	obeyed(t, r, command(VerbUndo, ""))
	if w.count("abandon first") != 1 || w.count("undo first") != 1 || w.position("undo first") < w.position("abandon first") || len(w.effects(t)) > 0 {
		t.Errorf("the world holds %v after %v", w.effects(t), w.calls)
	}
}

// TestUndoOfASkippedStep skips a step whose attempt made something and left no receipt.
func TestUndoOfASkippedStep(t *testing.T) {
	r, w := newRunner(t)
	w.late["first"] = []error{invalid()}
	if report, err := r.Start(t.Context(), request(t, w, "id: first, uses: touch", "id: last, uses: touch, needs: [first]")); err == nil || report.State != RunStateFailed {
		t.Fatalf("%+v, %v", report, err)
	}
	obeyed(t, r, command(VerbSkip, "first"))
	obeyed(t, r, command(VerbUndo, ""))
	if len(w.effects(t)) > 0 {
		t.Errorf("the world holds %v", w.effects(t))
	}
}

// undoneInPart starts a run that is to be undone, and interrupts it in the last step of its undo.
func undoneInPart(t *testing.T, r *Runner, w *world) {
	t.Helper()
	ctx, interrupt := context.WithCancel(t.Context())
	w.trouble["broken"] = []error{invalid()}
	w.hook["undo first"] = func(ctx context.Context) error {
		interrupt()
		<-ctx.Done()
		return context.Cause(ctx)
	}
	report, err := r.Start(ctx, request(t, w, "id: first, uses: touch", "id: broken, uses: touch, needs: [first], onFailure: undo"))
	var interrupted *Interrupted
	if !errors.As(err, &interrupted) || report.State != RunStateUndoing {
		t.Fatalf("%+v, %v", report, err)
	}
	delete(w.hook, "undo first")
}

func TestAnUndoThatIsInterruptedInItsLastStepGoesOn(t *testing.T) {
	r, w := newRunner(t)
	undoneInPart(t, r, w)
	report, err := r.Resume(t.Context(), "run-1")
	if err != nil || report.State != RunStateUndone || len(w.effects(t)) > 0 {
		t.Errorf("%+v, %v: the world holds %v", report, err, w.effects(t))
	}
}

// TestAnUndoThatIsAskedForAgain asks for it when a process is at it, and when none is any more.
func TestAnUndoThatIsAskedForAgain(t *testing.T) {
	t.Run("at work", func(t *testing.T) {
		r, w := newRunner(t)
		w.trouble["broken"] = []error{invalid()}
		w.hook["undo first"] = func(ctx context.Context) error {
			for _, verb := range []string{VerbCancel, VerbPause} {
				if err := r.Command(ctx, "run-1", command(verb, "")); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "being undone") {
					t.Errorf("%s of a run that is being undone: %v", verb, err)
				}
			}
			if err := r.Command(ctx, "run-1", command(VerbRetry, "broken")); !fault.Is(err, fault.Invalid) {
				t.Errorf("a retry in a run that is being undone: %v", err)
			}
			return r.Command(ctx, "run-1", command(VerbUndo, ""))
		}
		report, _ := r.Start(t.Context(), request(t, w, "id: first, uses: touch", "id: broken, uses: touch, needs: [first], onFailure: undo"))
		if report.State != RunStateUndone || len(w.effects(t)) > 0 {
			t.Errorf("%+v: the world holds %v", report, w.effects(t))
		}
	})
	t.Run("idle", func(t *testing.T) {
		r, w := newRunner(t)
		undoneInPart(t, r, w)
		obeyed(t, r, command(VerbUndo, ""))
		if report, err := r.Report(t.Context(), "run-1"); err != nil || report.State != RunStateUndone || len(w.effects(t)) > 0 {
			t.Errorf("%+v, %v: the world holds %v", report, err, w.effects(t))
		}
	})
}

// TestAFencedRunnerSaysSo takes a run from its process that is about to end it as cancelled, or to undo
// it: it says that it lost the run, and not what it wanted to do.
func TestAFencedRunnerSaysSo(t *testing.T) {
	for _, verb := range []string{VerbCancel, VerbUndo} {
		t.Run(verb, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "journal")
			w := newWorld(t.TempDir())
			r, store, err := openRunner(t.Context(), dir, w)
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close() // every answer was waited for
			client := embedded(t, dir)
			began := make(chan struct{})
			w.hook["slow"] = func(ctx context.Context) error {
				close(began)
				<-ctx.Done()
				_, err := client.Delete(context.WithoutCancel(ctx), "/muster/v1/runs/run-1/owner")
				return errors.Join(err, context.Cause(ctx))
			}
			ended := make(chan error, 1)
			wanted := request(t, w, "id: slow, uses: touch")
			go func() {
				_, err := r.Start(context.WithoutCancel(t.Context()), wanted)
				ended <- err
			}()
			<-began
			obeyed(t, r, command(verb, ""))
			if err := <-ended; !fault.Is(err, fault.Busy) && !fault.Is(err, fault.Denied) || strings.Contains(err.Error(), "cancelled") {
				t.Errorf("it says: %v", err)
			}
		})
	}
}

// embedded is a client of the etcd that some process hosts in a folder. The path goes through
// /proc/self/fd, since that of a unix socket may have 107 bytes.
func embedded(t testing.TB, dir string) *clientv3.Client {
	t.Helper()
	folder, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{"unix://" + filepath.Join("/proc/self/fd", strconv.Itoa(int(folder.Fd())), "etcd.sock")},
		DialTimeout: 10 * time.Second, Logger: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = client.Close() // every answer was waited for
		_ = folder.Close()
	})
	return client
}
