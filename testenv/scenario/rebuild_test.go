package scenario

import (
	"net"
	"testing"

	"github.com/musterdr/muster/testenv"
)

// TestThreeControlPlanes loses three control planes and a worker, and brings them back on machines of
// the same names; then loses them again and brings them back with one control plane.
func TestThreeControlPlanes(t *testing.T) {
	t.Parallel()
	s := play(t, testenv.Config{Name: "three", ControlPlanes: 3, Workers: 1})
	l := s.Lab
	members := s.Members()
	must(t, s.Capture(t.Context()))

	must(t, s.Destroy(t.Context()))
	blank(t, l, members...)
	balancer, err := l.NewBalancer(t.Context(), "three-lb", l.ControlPlanes(members[:3]...))
	must(t, err)
	report, err := s.Rebuild(t.Context(), l, net.JoinHostPort(balancer, "6443"), targetsOf(members)...)
	must(t, err)
	proofs, err := s.Prove(t.Context(), s.Same(members))
	check(t, report, proofs, err)

	must(t, s.Destroy(t.Context()))
	fewer := []string{members[0], members[3]}
	blank(t, l, fewer...)
	report, err = s.Rebuild(t.Context(), l, "", targetsOf(fewer)...)
	must(t, err)
	proofs, err = s.Prove(t.Context(), s.Same(fewer))
	check(t, report, proofs, err)
}

// targetsOf lists machines whose names tell their roles.
func targetsOf(names []string) []testenv.Target {
	var targets []testenv.Target
	for _, name := range names {
		targets = append(targets, testenv.Target{Machine: name, Role: testenv.RoleByName(name)})
	}
	return targets
}

// TestOtherMachines rebuilds a cluster in another region, on machines with other names and addresses,
// and with a worker more.
func TestOtherMachines(t *testing.T) {
	t.Parallel()
	s := play(t, testenv.Config{Name: "old", ControlPlanes: 1, Workers: 1, Disks: []testenv.Disk{{Name: Disk, Bytes: 64 << 20}}})
	must(t, s.Capture(t.Context()))
	must(t, s.Destroy(t.Context()))

	fresh(t, "new")
	l, err := testenv.Create(t.Context(), "new", s.say)
	must(t, err)
	for _, m := range []testenv.Machine{
		{Name: "filler", Role: testenv.RoleBlank}, // so that no address is the old one's
		{Name: "hub", Role: testenv.RoleBlank},
		{Name: "spoke", Role: testenv.RoleBlank, Disks: []testenv.Disk{{Name: Disk, Bytes: 64 << 20}}},
		{Name: "extra", Role: testenv.RoleWorker},
	} {
		must(t, l.NewMachine(t.Context(), m))
	}
	must(t, l.PodNetwork("extra", 7))
	report, err := s.Rebuild(t.Context(), l, "",
		testenv.Target{Machine: "hub", Role: testenv.RoleControlPlane, Replaces: "old-cp-0"},
		testenv.Target{Machine: "spoke", Role: testenv.RoleWorker, Replaces: "old-worker-0"},
		testenv.Target{Machine: "extra", Role: testenv.RoleWorker})
	must(t, err)
	proofs, err := s.Prove(t.Context(), Rebuilt{Lab: l, FirstControlPlane: "hub", Became: map[string]string{"old-cp-0": "hub", "old-worker-0": "spoke"}})
	check(t, report, proofs, err)
	out, err := l.Kubectl(t.Context(), "get", "nodes", "--no-headers", "-o", `jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}`)
	must(t, err)
	if want := "extra True\nhub True\nspoke True\n"; out != want {
		t.Errorf("the nodes are\n%s, want\n%s", out, want)
	}
}
