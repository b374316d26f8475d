package corpus

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/musterdr/muster/testenv/apiserver"
)

// server has no controllers: what a test has made stays as it is.
var server apiserver.Shared

func TestMain(m *testing.M) {
	code := m.Run()
	if err := server.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func config(t *testing.T) *rest.Config {
	t.Helper()
	config, err := clientcmd.RESTConfigFromKubeConfig(server.Need(t).Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func parsed(t *testing.T, text string) Case {
	t.Helper()
	c, err := parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// look looks once, without the patience that controllers need.
func look(t *testing.T, c Case) []string {
	t.Helper()
	p, err := at(config(t))
	if err != nil {
		t.Fatal(err)
	}
	return p.look(t.Context(), c)
}

const seeded = `
case: seeded
why: test
want:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: owned, ownerReferences: [{uid: "$(uid:ConfigMap/owner)"}]}, data: {text: "$(fill:20)"}}
- {apiVersion: seeded.example.org/v1, kind: Widget, metadata: {name: w}, spec: {size: 1}, status: {phase: Ready}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: going, deletionTimestamp: "$(any)"}}
- {apiVersion: v1, kind: ServiceAccount, metadata: {name: twice, labels: {a: b}}}
- {apiVersion: v1, kind: Secret, metadata: {name: s, namespace: seeded-other}}
absent:
- {apiVersion: v1, kind: ConfigMap, name: never}
- {apiVersion: never.example.org/v1, kind: Never, name: never}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: going, finalizers: [example.org/hold], deletionTimestamp: "2026-01-01T00:00:00Z"}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.seeded.example.org}
spec:
  group: seeded.example.org
  scope: Namespaced
  names: {plural: widgets, kind: Widget}
  versions: [{name: v1, served: true, storage: true, subresources: {status: {}}, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
---
apiVersion: seeded.example.org/v1
kind: Widget
metadata: {name: w}
spec: {size: 1}
status: {phase: Ready}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: owner}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: owned, ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: owner, uid: "$(uid:ConfigMap/owner)"}]}
data: {text: 0123456789abcdef0123}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: twice}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: twice, labels: {a: b}}
---
apiVersion: v1
kind: Secret
metadata: {name: s, namespace: seeded-other}
`

func TestSeedMakesWhatDocumentsSay(t *testing.T) {
	c := parsed(t, seeded)
	if err := Seed(t.Context(), config(t), []Case{c}); err != nil {
		t.Fatal(err)
	}
	if problems, err := Check(t.Context(), config(t), c, nil); err != nil || len(problems) > 0 {
		t.Errorf("%v %q", err, problems)
	}
}

func TestSeedTellsWhatIsRefused(t *testing.T) {
	c := parsed(t, "case: refused\nwhy: test\nwant: [{}]\n---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: Not A Name}}")
	err := Seed(t.Context(), config(t), []Case{c})
	if err == nil || !strings.Contains(err.Error(), "case refused: ConfigMap/Not A Name") || !strings.Contains(err.Error(), "RFC 1123") {
		t.Errorf("%v", err)
	}
}

// TestCheckCanFail has one problem for each thing that a case can ask of a target.
func TestCheckCanFail(t *testing.T) {
	const made = `
case: %s
why: test
want: [{}]
target:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: owner}, data: {a: b}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: owned, ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: owner, uid: 6f5d1d0e-35ab-4c3c-9ae5-8d0c9f3f7a11}]}}
`
	c := parsed(t, fmt.Sprintf(made, "failing"))
	if err := Prepare(t.Context(), config(t), []Case{c}); err != nil {
		t.Fatal(err)
	}
	for asked, problem := range map[string]string{
		`want: [{apiVersion: v1, kind: ConfigMap, metadata: {name: owner}, data: {a: c}}]`:                                         `ConfigMap/owner: /data/a is "b", want "c"`,
		`want: [{apiVersion: v1, kind: ConfigMap, metadata: {name: gone}}]`:                                                        `ConfigMap/gone: configmaps "gone" not found`,
		`want: [{apiVersion: v1, kind: ConfigMap, metadata: {name: owner, namespace: other}}]`:                                     `ConfigMap other/owner: configmaps "owner" not found`,
		`want: [{apiVersion: gone.example.org/v1, kind: Gone, metadata: {name: x}}]`:                                               `Gone/x: the server could not find`,
		`want: [{apiVersion: v1, kind: ConfigMap, metadata: {name: owned, ownerReferences: [{uid: "$(uid:ConfigMap/owner)"}]}}]`:   `/metadata/ownerReferences/0/uid is "6f5d1d0e`,
		`want: [{apiVersion: v1, kind: ConfigMap, metadata: {name: owned, ownerReferences: [{uid: "$(uid:ConfigMap/gone)"}]}}]`:    `$(uid:ConfigMap/gone): configmaps "gone" not found`,
		`want: [{apiVersion: v1, kind: ConfigMap, metadata: {name: owned, annotations: {a: "$(uid:ConfigMap/elsewhere/owner)"}}}]`: `configmaps "owner" not found`,
		`absent: [{apiVersion: v1, kind: ConfigMap, name: owner}]`:                                                                 `ConfigMap/owner is there`,
		`absent: [{apiVersion: v1, kind: ConfigMap, name: owner, namespace: failing}]`:                                             `ConfigMap failing/owner is there`,
		`want: [{apiVersion: v1, kind: ConfigMap, metadata: {name: owner}, data: {a: "$(fill:3)"}}]`:                               `/data/a is "b", want "012"`,
		`want: [{apiVersion: v1, kind: ConfigMap, metadata: {name: owner, uid: "$(uid:ConfigMap/failing/owned)"}}]`:                `/metadata/uid is`,
		`want: [{apiVersion: v1, kind: ConfigMap, metadata: {name: owned, ownerReferences: "$(absent)"}}]`:                         `/metadata/ownerReferences is`,
		`want: [{apiVersion: v1, kind: ConfigMap, metadata: {name: owned, ownerReferences: {contains: [{name: somebody}]}}}]`:      `which lacks {"name":"somebody"}`,
	} {
		problems := look(t, parsed(t, "case: failing\nwhy: test\n"+asked))
		if !slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, problem) }) {
			t.Errorf("%s gives %q, want %q", asked, problems, problem)
		}
	}
}

func TestCheckOfOutcomes(t *testing.T) {
	c := parsed(t, `
case: outcomes
why: test
absent: [{apiVersion: v1, kind: ConfigMap, name: a}]
lost:
- {apiVersion: v1, kind: ConfigMap, name: a, reason: Quota}
- {apiVersion: gone.example.org/v1, kind: Gone, namespace: outcomes, name: a, reason: KindNotServed}
outcomes: [{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, name: outcomes-a, outcome: kept}]
`)
	right := map[Key][2]string{
		{"", "configmaps", "outcomes", "a"}:                             {"lost", "Quota"},
		{"gone.example.org", "gones", "outcomes", "a"}:                  {"lost", "KindNotServed"},
		{"rbac.authorization.k8s.io", "clusterroles", "", "outcomes-a"}: {"kept", "Anything"},
	}
	for _, wrong := range []struct {
		key     Key
		told    [2]string
		problem string
	}{
		{problem: ""},
		{Key{"", "configmaps", "outcomes", "a"}, [2]string{"created", "Quota"}, "ConfigMap/a was created Quota, want lost Quota"},
		{Key{"", "configmaps", "outcomes", "a"}, [2]string{"lost", "Denied"}, "ConfigMap/a was lost Denied, want lost Quota"},
		{Key{"gone.example.org", "gones", "outcomes", "a"}, [2]string{"lost", ""}, "was lost , want lost KindNotServed"},
		{Key{"rbac.authorization.k8s.io", "clusterroles", "", "outcomes-a"}, [2]string{"replaced", ""}, "want kept"},
		{Key{"rbac.authorization.k8s.io", "clusterroles", "", "outcomes-a"}, [2]string{}, "told nothing of ClusterRole/outcomes-a"},
	} {
		problems, err := Check(t.Context(), config(t), c, func(key Key) (outcome, reason string, found bool) {
			told := right[key]
			if key == wrong.key {
				told = wrong.told
			}
			return told[0], told[1], told[0] != ""
		})
		if err != nil {
			t.Fatal(err)
		}
		if wrong.problem == "" && len(problems) > 0 || wrong.problem != "" && (len(problems) != 1 || !strings.Contains(problems[0], wrong.problem)) {
			t.Errorf("%v: %q", wrong, problems)
		}
	}
}
