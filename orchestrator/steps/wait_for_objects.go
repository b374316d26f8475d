package steps

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

// ObjectChoice chooses objects of one kind, which the API server's discovery finds.
type ObjectChoice struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Namespace  string `yaml:"namespace,omitempty"` // empty means all, or none for kinds without
	Name       string `yaml:"name,omitempty"`
	Selector   string `yaml:"selector,omitempty"` // of labels; with neither name nor selector it is all of the kind
}

// String is "Deployment web in shop".
func (o *ObjectChoice) String() string { return o.Kind + " " + o.subset().String() }

func (o *ObjectChoice) subset() cluster.Subset {
	return cluster.Subset{Namespace: o.Namespace, Name: o.Name, Selector: o.Selector}
}

func (s *WaitFor) condition() (*plans.Condition, error) {
	if s.Objects.Name != "" {
		return plans.NewCondition(s.Condition, "object")
	}
	return plans.NewCondition(s.Condition, "objects")
}

// checkObjects asks the cluster for the kind, unless the run has yet to build it. An apiVersion that is
// not served yet is no error: an earlier step may bring it.
func (s *WaitFor) checkObjects(ctx context.Context, run *orchestrator.Run) error {
	if s.Objects.Name != "" && s.Objects.Selector != "" {
		return invalid("objects", "want at most one of name and selector")
	}
	if s.Objects.Kind == "" {
		return invalid("objects", "kind is missing")
	}
	if problems := content.IsPathSegmentName(s.Objects.Namespace); len(problems) > 0 {
		return invalid("objects.namespace", "it %s", problems[0])
	}
	if _, err := labels.Parse(s.Objects.Selector); err != nil {
		return invalid("objects.selector", "%v", err)
	}
	if _, err := s.condition(); err != nil {
		return err
	}
	if run.Machines != nil {
		return nil
	}
	client, err := clusterClient(ctx, run)
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = s.resolve(ctx, client)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// resolve finds the kind and wants a namespace where one is needed to name an object.
func (s *WaitFor) resolve(ctx context.Context, client *cluster.Client) (cluster.Resource, error) {
	r, err := client.Resolve(ctx, s.Objects.APIVersion, s.Objects.Kind)
	switch {
	case err != nil:
		return r, err
	case r.Namespaced && s.Objects.Name != "" && s.Objects.Namespace == "":
		return r, invalid("objects", "%s %s: say in which namespace", s.Objects.Kind, s.Objects.Name)
	case !r.Namespaced && s.Objects.Namespace != "":
		return r, invalid("objects", "%s is not in a namespace", s.Objects.Kind)
	}
	return r, nil
}

// waitForObjects goes on through everything that time may heal: a server that does not answer yet, and
// a kind that is not served yet.
func (s *WaitFor) waitForObjects(ctx context.Context, run *orchestrator.Run, w *waiting) error {
	condition, err := s.condition()
	if err != nil {
		return err
	}
	for {
		err := s.follow(ctx, run, condition, w)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if kind := fault.KindOf(err); !kind.Retryable() && kind != fault.NotFound {
			return err
		}
		w.see(err.Error())
		pause(ctx, w.every)
	}
}

func (s *WaitFor) follow(ctx context.Context, run *orchestrator.Run, condition *plans.Condition, w *waiting) error {
	client, err := clusterClient(ctx, run)
	if err != nil {
		return err
	}
	defer client.Close()
	r, err := s.resolve(ctx, client)
	if err != nil {
		return err
	}
	return client.Follow(ctx, r, s.Objects.subset(), w.every, func(objects []cluster.Object) (bool, error) {
		holds, err := condition.Holds(ctx, s.variables(objects))
		switch {
		case ctx.Err() != nil: // the look was cut off, and tells nothing
			return false, ctx.Err()
		case err != nil: // what it reads may be there later
			w.see(found(objects) + ", " + err.Error())
		case holds:
			w.see(found(objects) + ", the condition holds")
		default:
			w.see(found(objects) + ", the condition does not hold")
		}
		return holds, nil
	})
}

func found(objects []cluster.Object) string { return fmt.Sprintf("%d objects", len(objects)) }

func (s *WaitFor) variables(objects []cluster.Object) map[string]any {
	if s.Objects.Name == "" {
		list := make([]any, len(objects))
		for i, o := range objects {
			list[i] = map[string]any(o)
		}
		return map[string]any{"objects": list}
	}
	if len(objects) == 0 {
		return nil
	}
	return map[string]any{"object": map[string]any(objects[0])}
}
