package scenario

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// writer changes a cluster while it is captured: it counts up in one ConfigMap, and makes and
// deletes others, and notes the revision of each change.
type writer struct {
	client  kubernetes.Interface
	cancel  context.CancelFunc
	done    sync.WaitGroup
	err     error
	changes []change
}

type change struct {
	revision int64
	made     string // "" | name
	deleted  string
	count    string
}

const (
	writerNamespace = "default"
	counterName     = "counter"
	writeEvery      = 20 * time.Millisecond
)

func startWriter(ctx context.Context, client kubernetes.Interface) (*writer, error) {
	maps := client.CoreV1().ConfigMaps(writerNamespace)
	err := maps.Delete(ctx, counterName, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, err
	}
	if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: counterName}, Data: map[string]string{"count": "0"}}, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	w := &writer{client: client}
	ctx, w.cancel = context.WithCancel(ctx)
	w.done.Go(func() { w.err = w.write(ctx) })
	return w, nil
}

func (w *writer) write(ctx context.Context) error {
	ticker := time.NewTicker(writeEvery)
	defer ticker.Stop()
	for n := 1; ; n++ {
		if err := w.round(context.WithoutCancel(ctx), n); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// round counts, makes one object, and deletes one that was made eight rounds ago.
func (w *writer) round(ctx context.Context, n int) error {
	maps := w.client.CoreV1().ConfigMaps(writerNamespace)
	counter := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: counterName}, Data: map[string]string{"count": strconv.Itoa(n)}}
	updated, err := maps.Update(ctx, counter, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	if err := w.note(updated, change{count: strconv.Itoa(n)}); err != nil {
		return err
	}
	made, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: written(n)}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	if err == nil {
		if err := w.note(made, change{made: written(n)}); err != nil {
			return err
		}
	}
	if n <= 8 {
		return nil
	}
	// A delete does not tell its revision: the next update is after it, and so bounds it. It must
	// change something, or it has no revision of its own.
	if err := maps.Delete(ctx, written(n-8), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	counter.Data["deleted"] = written(n - 8)
	after, err := maps.Update(ctx, counter, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	return w.note(after, change{deleted: written(n - 8)})
}

func written(n int) string { return fmt.Sprintf("written-%04d", n) }

func (w *writer) note(object metav1.Object, c change) error {
	revision, err := strconv.ParseInt(object.GetResourceVersion(), 10, 64)
	c.revision = revision
	w.changes = append(w.changes, c)
	return err
}

func (w *writer) stop() error {
	w.cancel()
	w.done.Wait()
	return w.err
}

// expected is what the written objects were at a revision: those that must be there, those that must
// not, and the counter.
func (w *writer) expected(revision int64) (present, absent map[string]bool, count string, err error) {
	present, absent = map[string]bool{}, map[string]bool{}
	before, after := 0, 0
	for i, c := range w.changes {
		if c.revision > revision {
			after++
			if c.made != "" {
				absent[c.made] = true
			}
			// Deleted between the revision before this note's and this note's: known only when the
			// change before it is after the revision too.
			if c.deleted != "" && i > 0 && w.changes[i-1].revision > revision && !absent[c.deleted] {
				present[c.deleted] = true
			}
			continue
		}
		before++
		switch {
		case c.made != "":
			present[c.made] = true
		case c.deleted != "":
			delete(present, c.deleted)
			absent[c.deleted] = true
		case c.count != "":
			count = c.count
		}
	}
	if before == 0 || after == 0 {
		return nil, nil, "", errors.New("the writer did not write both before and after the snapshot: the cut is not proven")
	}
	// The one that was being deleted when the snapshot was taken may be there or not.
	for i, c := range w.changes {
		if c.deleted != "" && c.revision > revision && (i == 0 || w.changes[i-1].revision <= revision) {
			delete(present, c.deleted)
		}
	}
	return present, absent, count, nil
}
