package scenario

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/musterdr/muster/testenv/workload"
)

// fromHelper is another entry for a server: its tools run in a pod beside it, and reach it by its Service.
func (p *podServer) fromHelper() string {
	host := fmt.Sprintf("{host: %s.%s.svc}", p.Name, workload.BankNamespace)
	entry := strings.NewReplacer(
		"name: "+p.name()+"\n", "name: "+p.name()+"-afar\n",
		fmt.Sprintf("pod: {namespace: %s, selector: app=%s}", workload.BankNamespace, p.Name), fmt.Sprintf("helper: {namespace: %s, image: %s}", workload.BankNamespace, p.Image),
		p.settings, host,
	)
	return entry.Replace(p.entry())
}

// throughHelper backs a server up by tools in a pod beside it, spoils its data, and brings it back the same way.
func (s *Scenario) throughHelper(t *testing.T, p *podServer, spoil string) {
	t.Helper()
	out, err := s.Lab.Kubectl(t.Context(), "create", "service", "clusterip", p.Name, "--namespace", workload.BankNamespace, "--tcp=5432")
	if err != nil {
		t.Fatal(err, out)
	}
	appendFile(t, s.path("muster.yaml"), func(f *bytes.Buffer) { fmt.Fprintf(f, podPlans, "afar", p.name()+"-afar", "logical") })
	n, wrong := p.judge(p.ask(t, s, p.client, p.books))
	if wrong != "" {
		t.Fatal(wrong)
	}
	must(t, s.Run(t.Context(), "back-up-afar", nil, "run", "back-up-afar"))
	p.ask(t, s, p.client, spoil)
	must(t, s.Run(t.Context(), "restore-afar", nil, "run", "restore-afar"))
	p.restored(t, s, p.Name+" through a helper", n, n)
	pods, err := s.Lab.Kubectl(t.Context(), "get", "pods", "--namespace", workload.BankNamespace, "--selector", "app.kubernetes.io/managed-by=muster", "--output", "name")
	must(t, err)
	if pods != "" {
		t.Errorf("helpers are left: %s", pods)
	}
}
