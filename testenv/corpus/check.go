package corpus

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
)

// settledWithin bounds how long controllers of the target may work until all is as it must be.
const settledWithin = 20 * time.Second

// Key names an object as outcomes do. Group is empty for the legacy group.
type Key struct{ Group, Resource, Namespace, Name string }

// Told finds what a replay told of an object.
type Told func(Key) (outcome, reason string, found bool)

// Check lists what of a case is not in the target as it must be. Outcomes are looked at when told is
// not nil.
func Check(ctx context.Context, target *rest.Config, c Case, told Told) ([]string, error) {
	all, err := CheckAll(ctx, target, []Case{c}, map[string]Told{c.ReplayName(): told})
	return all[c.Name], err
}

// CheckAll is Check of many cases side by side: problems by case. told are the outcomes by replay.
func CheckAll(ctx context.Context, target *rest.Config, cases []Case, told map[string]Told) (map[string][]string, error) {
	p, err := at(target)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	all := map[string][]string{}
	group, working := errgroup.WithContext(ctx)
	for _, c := range cases {
		group.Go(func() error {
			problems := append(p.settled(working, c), p.outcomes(c, told[c.ReplayName()])...)
			mu.Lock()
			defer mu.Unlock()
			all[c.Name] = problems
			return ctx.Err()
		})
	}
	return all, group.Wait()
}

// ReplayName is the name of the replay that brings the case back.
func (c Case) ReplayName() string {
	if c.Replay == nil {
		return Shared
	}
	return c.Name
}

// settled looks again until there is no problem any more, or the time is up.
func (p *place) settled(ctx context.Context, c Case) []string {
	problems := []string{"the target did not answer in time"}
	_ = wait.PollUntilContextTimeout(ctx, time.Second, settledWithin, true, func(ctx context.Context) (bool, error) {
		if found := p.look(ctx, c); ctx.Err() == nil { // else the deadline cut it off, and it says nothing
			problems = found
		}
		return len(problems) == 0, nil
	})
	return problems
}

func (p *place) look(ctx context.Context, c Case) []string {
	var problems []string
	for _, want := range c.Want {
		problems = append(problems, p.wanted(ctx, c, want)...)
	}
	for _, ref := range c.Absent {
		_, err := p.get(ctx, c, ref)
		if err == nil {
			problems = append(problems, fmt.Sprintf("%s is there", ref))
		} else if !apierrors.IsNotFound(err) {
			problems = append(problems, fmt.Sprintf("%s: %v", ref, err))
		}
	}
	return problems
}

func (p *place) wanted(ctx context.Context, c Case, want Object) []string {
	have, err := p.get(ctx, c, want.ref())
	if err != nil {
		return []string{fmt.Sprintf("%s: %v", want.ref(), err)}
	}
	want, err = p.resolve(ctx, c, want)
	if err != nil {
		return []string{err.Error()}
	}
	problems := differ("", map[string]any(want), have.Object)
	for i, problem := range problems {
		problems[i] = fmt.Sprintf("%s: %s", want.ref(), problem)
	}
	return problems
}

func (p *place) outcomes(c Case, told Told) []string {
	if told == nil {
		return nil
	}
	var problems []string
	for _, want := range c.Outcomes {
		outcome, reason, found := told(p.key(c, want.Ref))
		if !found {
			problems = append(problems, fmt.Sprintf("the replay told nothing of %s, want %s %s", want.Ref, want.Outcome, want.Reason))
		} else if outcome != want.Outcome || want.Reason != "" && reason != want.Reason {
			problems = append(problems, fmt.Sprintf("the replay told that %s was %s %s, want %s %s", want.Ref, outcome, reason, want.Outcome, want.Reason))
		}
	}
	return problems
}

// key works for kinds that the target does not serve, too.
func (p *place) key(c Case, ref Ref) Key {
	k, located, err := p.located(c, ref)
	if err == nil {
		return Key{Group: k.Group, Resource: k.Resource, Namespace: located.Namespace, Name: located.Name}
	}
	plural, _ := meta.UnsafeGuessKindToResource(schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind))
	return Key{Group: plural.Group, Resource: plural.Resource, Namespace: ref.Namespace, Name: ref.Name}
}
