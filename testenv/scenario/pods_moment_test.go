package scenario

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

// logPlan stores what has come to the logs of servers.
const logPlan = `---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: archive}
spec:
  purpose: capture
  steps:
    - {id: logs, uses: archive-logs, with: {databases: [%[1]s], onGap: fail}}
    - {id: seal, uses: seal-recovery-point, needs: [logs]}
`

// momentPlan rolls physical backups forward.
const momentPlan = `---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: restore-moment}
spec:
  purpose: migrate
  steps:
    - {id: databases, uses: restore-databases, with: {databases: [%[1]s], onExisting: replace, until: {time: %[2]q}}}
`

func namesOf(servers []*podServer) string {
	var names []string
	for _, p := range servers {
		names = append(names, p.name())
	}
	return strings.Join(names, ", ")
}

// beginArchive makes the first pass: from then on servers keep their logs until a point holds them.
func (s *Scenario) beginArchive(t *testing.T, servers []*podServer) {
	t.Helper()
	appendFile(t, s.path("muster.yaml"), func(f *bytes.Buffer) { fmt.Fprintf(f, logPlan, namesOf(servers)) })
	must(t, s.Run(t.Context(), "archive", nil, "run", "archive"))
}

// pickMoment chooses a moment while money moves, and archives the logs when more has moved since. It tells between
// which transactions the moment lies.
func (s *Scenario) pickMoment(t *testing.T, servers []*podServer) podPoint {
	t.Helper()
	point := podPoint{servers: map[string]struct{ least, most int }{}}
	moment := time.Now()
	for _, p := range servers {
		point.servers[p.name()] = struct{ least, most int }{p.bank.acknowledged(moment.Truncate(p.tick)), p.bank.sentSoFar()}
		must(t, p.bank.await(t.Context(), 200))
	}
	appendFile(t, s.path("muster.yaml"), func(f *bytes.Buffer) {
		fmt.Fprintf(f, momentPlan, namesOf(servers), moment.UTC().Format(time.RFC3339Nano))
	})
	must(t, s.Run(t.Context(), "archive", nil, "run", "archive"))
	var manifest struct {
		ID string `json:"id"`
	}
	must(t, s.query(t.Context(), &manifest, "points", "show", "latest", "--output", "json"))
	point.ID = manifest.ID
	return point
}

// restoreMoment has the servers' books be those of the moment.
func (s *Scenario) restoreMoment(t *testing.T, servers []*podServer, point podPoint) {
	t.Helper()
	must(t, s.Run(t.Context(), "restore-moment", nil, "run", "restore-moment", "--point", point.ID))
	for _, p := range servers {
		p.restored(t, s, p.Name+" at a moment", point.servers[p.name()].least, point.servers[p.name()].most)
	}
}
