package corpus

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
)

const (
	// takenWithin bounds how long a cluster may refuse an object: kinds are served a moment after their
	// definition is there, quotas and accounts are there a moment after their namespace.
	takenWithin = time.Minute
	pollEvery   = 100 * time.Millisecond
	sideBySide  = 16
)

// Seed makes the stand-ins' definitions and the source's objects of the cases.
func Seed(ctx context.Context, source *rest.Config, cases []Case) error {
	p, err := at(source)
	if err != nil {
		return err
	}
	standIns, err := definitions()
	if err != nil {
		return err
	}
	if err := p.makeAll(ctx, Case{Name: "definitions"}, standIns); err != nil {
		return err
	}
	return p.each(ctx, cases, func(c Case) []Object { return c.Source })
}

// Prepare makes what stands in the target before, and the definitions that it needs.
func Prepare(ctx context.Context, target *rest.Config, cases []Case) error {
	p, err := at(target)
	if err != nil {
		return err
	}
	return p.each(ctx, cases, func(c Case) []Object { return c.Target })
}

// each makes the objects of many cases side by side.
func (p *place) each(ctx context.Context, cases []Case, of func(Case) []Object) error {
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(sideBySide)
	for _, c := range cases {
		group.Go(func() error { return p.makeAll(working, c, of(c)) })
	}
	return group.Wait()
}

// makeAll makes the objects in order, and deletes those that are to be found in deletion.
func (p *place) makeAll(ctx context.Context, c Case, objects []Object) error {
	for _, o := range objects {
		if err := p.taken(ctx, c, o.ref(), func() error { return p.make(ctx, c, o) }); err != nil {
			return err
		}
	}
	for _, o := range objects {
		if o.unstructured().GetDeletionTimestamp() == nil {
			continue
		}
		if err := p.taken(ctx, c, o.ref(), func() error { return p.remove(ctx, c, o.ref()) }); err != nil {
			return err
		}
	}
	return nil
}

// taken tries until the cluster does what it is asked for, or refuses it for good.
func (p *place) taken(ctx context.Context, c Case, ref Ref, try func() error) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, pollEvery, takenWithin, true, func(context.Context) (bool, error) {
		last = try()
		if apierrors.IsInvalid(last) || apierrors.IsBadRequest(last) {
			return false, last
		}
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("case %s: %s: %w", c.Name, ref, last)
	}
	return nil
}

// make creates an object. What a controller has made already gets its content.
func (p *place) make(ctx context.Context, c Case, o Object) error {
	resolved, err := p.resolve(ctx, c, o)
	if err != nil {
		return err
	}
	k, ref, err := p.located(c, resolved.ref())
	if err != nil {
		return err
	}
	object := resolved.unstructured()
	object.SetNamespace(ref.Namespace)
	unstructured.RemoveNestedField(object.Object, "metadata", "deletionTimestamp")
	content, err := json.Marshal(object)
	if err != nil {
		return err
	}
	if err := p.namespace(ctx, ref.Namespace); err != nil {
		return err
	}
	_, err = p.resource(k, ref.Namespace).Create(ctx, object, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = p.resource(k, ref.Namespace).Patch(ctx, ref.Name, types.MergePatchType, content, metav1.PatchOptions{})
	}
	if err != nil {
		return err
	}
	return p.setStatus(ctx, k, ref, resolved["status"])
}

// namespace makes a namespace that no document makes.
func (p *place) namespace(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	k, err := p.kindOf("v1", "Namespace")
	if err != nil {
		return err
	}
	_, err = p.dynamic.Resource(k.GroupVersionResource).Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name},
	}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func (p *place) setStatus(ctx context.Context, k kind, ref Ref, status any) error {
	if status == nil || !k.status {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return err
	}
	_, err = p.resource(k, ref.Namespace).Patch(ctx, ref.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

func (p *place) remove(ctx context.Context, c Case, ref Ref) error {
	k, ref, err := p.located(c, ref)
	if err != nil {
		return err
	}
	return p.resource(k, ref.Namespace).Delete(ctx, ref.Name, metav1.DeleteOptions{})
}
