package plans

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/providers/fault"
)

func facts() Facts {
	return Facts{
		Cluster: &Cluster{
			Metadata: Metadata{Name: "prod", Labels: map[string]string{"site": "north"}},
			Spec: ClusterSpec{Machines: []Machine{
				{Name: "cp-0", Address: "10.0.0.1", Role: ControlPlane}, {Name: "w-0", Address: "10.0.0.2", Role: Worker},
			}},
		},
		Machines: &Machines{Spec: MachinesSpec{Machines: []Machine{{Name: "new-0", Role: ControlPlane, Replaces: "cp-0"}}}},
		Receipts: func() map[string]any {
			return map[string]any{"etcd": map[string]any{"revision": 4711.0, "members": []any{"a", "b"}}}
		},
		Now:   time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		Point: "prod-20260301",
	}
}

func evalWhen(text string, facts Facts) (bool, error) {
	return (&Checked{}).Wanted(Step{ID: "a", When: text}, facts)
}

func evalItems(forEach any, facts Facts) ([]string, error) {
	return (&Checked{}).Items(Step{ID: "a", ForEach: forEach}, facts)
}

func TestEvalWhen(t *testing.T) {
	for text, want := range map[string]bool{
		`true`:                             true,
		`cluster.name == "prod"`:           true,
		`cluster.labels["site"] == "east"`: false,
		`cluster.machines.exists(m, m.role == "worker" && m.address == "10.0.0.2")`: true,
		`machines.all(m, m.replaces != "")`:                                         true,
		`receipts.etcd.revision > 4710`:                                             true,
		`has(receipts.apps)`:                                                        false,
		`"etcd" in receipts`:                                                        true,
		`now > timestamp("2026-03-01T00:00:00Z")`:                                   true,
		`now.getHours() == 13`:                                                      false,
		`point.startsWith("prod-")`:                                                 true,
	} {
		got, err := evalWhen(text, facts())
		if err != nil || got != want {
			t.Errorf("%s is %v, %v; want %v", text, got, err, want)
		}
	}
	if got, err := evalWhen(`cluster.name == "" && size(machines) == 0 && size(cluster.machines) == 0`, Facts{}); err != nil || !got {
		t.Errorf("without facts: %v, %v", got, err)
	}
}

func TestEvalItems(t *testing.T) {
	for text, want := range map[string][]string{
		`cluster.machines.map(m, m.name)`:                               {"cp-0", "w-0"},
		`cluster.machines.filter(m, m.role == "worker").map(m, m.name)`: {"w-0"},
		`receipts.etcd.members`:                                         {"a", "b"},
		`["z", "a"]`:                                                    {"z", "a"},
		`cluster.machines.filter(m, false).map(m, m.name)`:              {},
	} {
		got, err := evalItems(text, facts())
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s is %v, %v; want %v", text, got, err, want)
		}
	}
	got, err := evalItems([]any{"b", "a"}, facts())
	if err != nil || !slices.Equal(got, []string{"b", "a"}) {
		t.Errorf("the list is %v, %v", got, err)
	}
}

func TestExpressionsThatAreRefused(t *testing.T) {
	const costly = `[0,1,2,3,4,5,6,7,8,9].all(a, [0,1,2,3,4,5,6,7,8,9].all(b, [0,1,2,3,4,5,6,7,8,9].all(c, ` +
		`[0,1,2,3,4,5,6,7,8,9].all(d, [0,1,2,3,4,5,6,7,8,9].all(e, [0,1,2,3,4,5,6,7,8,9].all(f, a+b+c+d+e+f < 100))))))`
	for text, want := range map[string]string{
		`cluster.nmae == "x"`:                   `undefined field "nmae"; did you mean "name"?`,
		`recepits.etcd == 1`:                    `unknown name "recepits"; did you mean "receipts"?`,
		`"text"`:                                "want true or false, got string",
		`receipts.none.revision > 1`:            "no such key: none",
		`receipts.etcd.revision`:                "want true or false, got int64",
		costly:                                  "cost",
		strings.Repeat("(", 200) + "1":          "recursion",
		strings.Repeat("true&&", 1000) + "true": "size",
	} {
		_, err := evalWhen(text, facts())
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: error is %v, want %q in it", text, err, want)
		}
	}
	for want, forEach := range map[string]any{
		"holds an empty item":            `["a", ""]`,
		`holds "a" twice`:                []any{"a", "a"},
		"want a list of texts, got":      `receipts.etcd.revision`,
		"want text in the list":          []any{1},
		"want a list of texts, or an ex": map[string]any{},
		"[1]: want a list of texts":      `[1]`,
	} {
		_, err := evalItems(forEach, facts())
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: error is %v, want %q in it", forEach, err, want)
		}
	}
}

func TestReadsReceipts(t *testing.T) {
	for text, want := range map[string]bool{`receipts.etcd.members`: true, `cluster.machines.map(m, m.name)`: false, `not an expression`: false} {
		if got := (&Checked{}).ReadsReceipts(Step{ForEach: text}); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	if (&Checked{}).ReadsReceipts(Step{ForEach: []any{"receipts.etcd"}}) {
		t.Error("a list reads no receipts")
	}
}
