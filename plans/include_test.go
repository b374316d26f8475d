package plans

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/musterdr/muster/providers/fault"
)

func checkedNightly(t *testing.T, settings ...Setting) *Checked {
	t.Helper()
	set := mustRead(t, "testdata/inventory.yaml", "testdata/include/plans.yaml")
	checked, err := Check(set, "nightly", vocabulary(), settings...)
	if err != nil {
		t.Fatal(err)
	}
	return checked
}

func TestIncludedPlansAreShown(t *testing.T) {
	checked := checkedNightly(t)
	var page, text, dot bytes.Buffer
	if err := errors.Join(Show(&page, checked, vocabulary()), checked.Graph.Text(&text), checked.Graph.DOT(&dot)); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/include/show.txt", page.Bytes())
	golden(t, "testdata/include/graph.txt", text.Bytes())
	golden(t, "testdata/include/graph.dot", dot.Bytes())
	fitsPage(t, page.String())
	fitsPage(t, text.String())
}

func TestIncludeChangesNothingInTheSet(t *testing.T) {
	set := mustRead(t, "testdata/inventory.yaml", "testdata/include/plans.yaml")
	before := mustRead(t, "testdata/inventory.yaml", "testdata/include/plans.yaml")
	if _, err := Check(set, "nightly", vocabulary()); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(set.Plans, before.Plans) {
		t.Error("the documents were changed")
	}
}

func TestIncludedPlanSurvivesFreezing(t *testing.T) {
	checked := checkedNightly(t, Setting{"names", "api,db"}, Setting{"announce", "false"})
	content, digest, err := Freeze(checked)
	if err != nil {
		t.Fatal(err)
	}
	thawed, err := Thaw(content)
	if err != nil || !reflect.DeepEqual(thawed, checked) {
		t.Errorf("%v: got %+v\nwant %+v", err, thawed, checked)
	}
	again, same, err := Freeze(thawed)
	if err != nil || same != digest || !bytes.Equal(again, content) {
		t.Errorf("freezing again gives other bytes: %v", err)
	}
}

// chain makes n plans of which each includes the next.
func chainOf(n int) *Set {
	set := NewSet()
	for i := range n {
		plan := &Plan{Metadata: Metadata{Name: fmt.Sprintf("p%d", i)}, Spec: PlanSpec{Purpose: Capture}}
		plan.Spec.Steps = []Step{{ID: "in", Uses: IncludePlan, With: map[string]any{"plan": fmt.Sprintf("p%d", i+1)}}}
		if i == n-1 {
			plan.Spec.Steps = []Step{{ID: "end", Uses: "any"}}
		}
		set.Plans[plan.Metadata.Name] = plan
	}
	return set
}

func TestDepthOfIncludesIsBounded(t *testing.T) {
	checked, err := CheckSteps(chainOf(maxIncludes+1), "p0", vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := checked.Graph.Order(), []string{strings.Repeat("in.", maxIncludes) + "end"}; !slices.Equal(got, want) {
		t.Errorf("steps are %v, want %v", got, want)
	}
	_, err = CheckSteps(chainOf(maxIncludes+2), "p0", vocabulary())
	want := "check plan p0: plans can be included at most 10 deep: p0 includes p1 includes p2 includes p3 includes p4 includes " +
		"p5 includes p6 includes p7 includes p8 includes p9 includes p10 includes p11"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	// p4 is reached by a short way first, and from there all is well.
	set := chainOf(maxIncludes + 2)
	set.Plans["p0"].Spec.Steps = append([]Step{{ID: "short", Uses: IncludePlan, With: map[string]any{"plan": "p4"}}}, set.Plans["p0"].Spec.Steps...)
	if _, err = CheckSteps(set, "p0", vocabulary()); err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestNumberOfStepsIsBounded(t *testing.T) {
	set := chainOf(9)
	for _, plan := range set.Plans {
		first := plan.Spec.Steps[0]
		for i := range 9 {
			first.ID = fmt.Sprintf("s%d", i)
			plan.Spec.Steps = append(plan.Spec.Steps, first)
		}
	}
	_, err := CheckSteps(set, "p0", vocabulary())
	if want := "check plan p0: the plan has more than 10000 steps, and no more can run"; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if checked, err := CheckSteps(set, "p5", vocabulary()); err != nil || len(checked.Plan.Spec.Steps) != 10_000 {
		t.Errorf("ten thousand are too many: %v", err)
	}
}

func TestLengthOfExpandedIDsIsBounded(t *testing.T) {
	set := chainOf(4)
	long := "a" + strings.Repeat("-"+strings.Repeat("b", 50), 4)
	for _, plan := range set.Plans {
		plan.Spec.Steps[0].ID = long
	}
	_, err := CheckSteps(set, "p0", vocabulary())
	if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "longer than 512 letters") {
		t.Errorf("error is %v", err)
	}
}

// drawPlans draws plans of which each includes some of the later ones, all sound.
func drawPlans(t *rapid.T) *Set {
	set := NewSet()
	n := rapid.IntRange(1, 4).Draw(t, "plans")
	for i := range n {
		spec := PlanSpec{Purpose: Capture}
		for s := range rapid.IntRange(1, 5).Draw(t, "steps") {
			step := Step{ID: fmt.Sprintf("s%d", s), Uses: "any"}
			if i+1 < n && rapid.Bool().Draw(t, "includes") {
				step.Uses = IncludePlan
				step.With = map[string]any{"plan": fmt.Sprintf("p%d", rapid.IntRange(i+1, n-1).Draw(t, "which"))}
			}
			for need := range s {
				if rapid.IntRange(0, 2).Draw(t, "need") == 0 {
					step.Needs = append(step.Needs, fmt.Sprintf("s%d", need))
				}
			}
			spec.Steps = append(spec.Steps, step)
		}
		set.Plans[fmt.Sprintf("p%d", i)] = &Plan{Metadata: Metadata{Name: fmt.Sprintf("p%d", i)}, Spec: spec}
	}
	return set
}

// leaves lists the steps of a plan by the IDs that expanding gives them, without expanding: a step
// is reached through its includes.
func leaves(set *Set, plan, prefix string) []string {
	var out []string
	for _, step := range set.Plans[plan].Spec.Steps {
		if step.Uses == IncludePlan {
			out = append(out, leaves(set, step.With["plan"].(string), prefix+step.ID+".")...)
		} else {
			out = append(out, prefix+step.ID)
		}
	}
	return out
}

// mustPrecede is the reference: a comes before b when, in the innermost plan that both are part of,
// the step that a is or comes from is before that of b.
func mustPrecede(t *rapid.T, set *Set, a, b string) bool {
	plan := "p0"
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for as[0] == bs[0] {
		step := set.Plans[plan].Spec.Steps[slices.IndexFunc(set.Plans[plan].Spec.Steps, func(s Step) bool { return s.ID == as[0] })]
		plan, as, bs = step.With["plan"].(string), as[1:], bs[1:]
	}
	graph, err := NewGraph(set.Plans[plan].Spec.Steps)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Contains(graph.Ancestors(bs[0]), as[0])
}

func TestExpandedPlansKeepEveryOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set := drawPlans(t)
		checked, err := CheckSteps(set, "p0", vocabulary())
		if err != nil {
			t.Fatal(err)
		}
		want := leaves(set, "p0", "")
		var got []string
		for _, step := range checked.Plan.Spec.Steps {
			got = append(got, step.ID)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("steps are %v, want %v", got, want)
		}
		for _, b := range want {
			before := checked.Graph.Ancestors(b)
			for _, a := range want {
				if a != b && slices.Contains(before, a) != mustPrecede(t, set, a, b) {
					t.Fatalf("%s before %s: %v", a, b, slices.Contains(before, a))
				}
			}
		}
		for _, id := range slices.Sorted(maps.Keys(checked.Scopes)) {
			if id != "" && !slices.ContainsFunc(want, func(step string) bool { return strings.HasPrefix(step, id+".") }) {
				t.Fatalf("there is a scope %q and no step in it", id)
			}
		}
	})
}
