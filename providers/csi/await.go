package csi

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// object is what await waits for.
type object interface {
	runtime.Object
	metav1.Object
}

// objects are one kind of objects in one namespace: any typed client, and any dynamic one.
type objects[T object] interface {
	Get(ctx context.Context, name string, options metav1.GetOptions) (T, error)
	Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error)
}

// wait says what is awaited and how long.
type wait struct {
	op, subject string
	within      Duration
	// why explains a wait that took too long.
	why func(ctx context.Context) string
	// nudge, where given, is called every few seconds: it has a controller look again.
	nudge func(ctx context.Context)
}

// await waits until holds says yes of the object; without the object it returns NotFound.
func await[T object](ctx context.Context, w wait, all objects[T], name string, holds func(T) (bool, error)) (T, error) {
	var last T
	err := w.run(ctx, func(ctx context.Context) error {
		for {
			current, err := all.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return wrap(w.op, w.subject, err)
			}
			last = current
			if done, err := holds(current); done || err != nil {
				return err
			}
			if err := next(ctx, all, name, current.GetResourceVersion()); err != nil {
				return wrap(w.op, w.subject, err)
			}
		}
	})
	return last, err
}

// awaitGone waits until there is no object of this name. problem, where given, may end it early.
func awaitGone[T object](ctx context.Context, w wait, all objects[T], name string, problem func(T) error) error {
	_, err := await(ctx, w, all, name, func(current T) (bool, error) {
		if problem == nil {
			return false, nil
		}
		return false, problem(current)
	})
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// next returns when the object changes after a version, or might have: the caller looks again.
func next[T object](ctx context.Context, all objects[T], name, version string) error {
	watcher, err := all.Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String(), ResourceVersion: version,
	})
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer watcher.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-watcher.ResultChan(): // an event, an error or the watch's end: Get tells
		return nil
	}
}

// reportEvery is how often a long wait says that it is alive.
const reportEvery = 2 * time.Second

// run bounds body in time and reports progress while it waits.
func (w wait) run(ctx context.Context, body func(context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, time.Duration(w.within))
	defer cancel()
	stop := w.report(ctx, bounded)
	err := body(bounded)
	stop()
	if err == nil || ctx.Err() != nil || bounded.Err() == nil {
		return err
	}
	if fault.KindOf(err) != fault.Transient {
		return err
	}
	reason := ""
	if w.why != nil {
		reason = w.why(context.WithoutCancel(ctx))
	}
	if reason == "" {
		reason = "the object's events tell more"
	}
	return fault.New(w.op, fault.Transient, w.subject, fmt.Errorf("not done within %s: %s", time.Duration(w.within), reason))
}

func (w wait) report(ctx, bounded context.Context) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(reportEvery)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				providers.Report(ctx, providers.Progress{Text: w.op + " " + w.subject})
				if w.nudge != nil {
					w.nudge(bounded)
				}
			}
		}
	}()
	return func() { close(done); <-ended }
}
