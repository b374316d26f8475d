package main

import (
	"strings"
	"testing"

	"github.com/musterdr/muster/providers/fault"
)

func TestPointsGraph(t *testing.T) {
	s := newTenancy(t)
	d := s.desk(false)
	if _, said, err := d.muster(t.Context(), "run", "teams"); err != nil {
		t.Fatal(err, said)
	}
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"points", "graph", "latest"}, []string{"secrets", "2 objects", "namespaces"}},
		{[]string{"points", "graph", "latest", "--objects", "--namespace", "team-a"}, []string{"secrets team-a/password-of-team-a", "namespaces team-a"}},
		{[]string{"points", "graph", "latest", "--format", "svg"}, []string{"<svg", "serviceaccounts"}},
		{[]string{"points", "graph", "latest", "--explain", "secret/password-of-team-a"}, []string{"secrets team-a/password-of-team-a", "waits for", "its namespace", "must be there first"}},
		{[]string{"points", "graph", "latest", "--explain", "Namespace/team-b"}, []string{"needed by", "secrets team-b/password-of-team-b"}},
	} {
		printed, said, err := d.muster(t.Context(), c.args...)
		if err != nil {
			t.Errorf("%v: %v %s", c.args, err, said)
		}
		for _, want := range c.want {
			if !strings.Contains(printed, want) {
				t.Errorf("%v printed no %q:\n%s", c.args, want, printed)
			}
		}
	}
	if printed, _, _ := d.muster(t.Context(), "points", "graph", "latest", "--objects", "--namespace", "team-a"); strings.Contains(printed, "team-b") {
		t.Errorf("the neighbour is drawn, too:\n%s", printed)
	}
	if _, _, err := d.muster(t.Context(), "points", "graph", "latest", "--explain", "Secret/none"); !fault.Is(err, fault.NotFound) {
		t.Errorf("an object that is not there ends with %v", err)
	}
	if _, _, err := d.muster(t.Context(), "points", "graph", "latest", "--explain", "Secret"); err == nil || !strings.Contains(err.Error(), "KIND/NAME") {
		t.Errorf("half a name ends with %v", err)
	}
}
