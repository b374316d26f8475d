package steps

import (
	"strings"
	"testing"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

// TestTestable: a restore test must never reach another server than its own copy.
func TestTestable(t *testing.T) {
	pod := &plans.DatabasePod{Namespace: "shop", Selector: "app=ledger"}
	for name, c := range map[string]struct {
		entry plans.Database
		text  string
	}{
		"socket":          {plans.Database{Engine: "postgresql", Pod: pod}, ""},
		"socket's folder": {plans.Database{Engine: "postgresql", Pod: pod, Settings: map[string]string{"host": "/run/postgresql"}}, ""},
		"loopback":        {plans.Database{Engine: "postgresql", Pod: pod, Settings: map[string]string{"host": "127.0.0.1"}}, ""},
		"loopback, IPv6":  {plans.Database{Engine: "postgresql", Pod: pod, Settings: map[string]string{"host": "::1"}}, ""},
		"engine's host":   {plans.Database{Engine: "opensearch", Pod: pod}, ""},
		"service":         {plans.Database{Engine: "postgresql", Pod: pod, Settings: map[string]string{"host": "ledger.shop.svc"}}, "settings.host is ledger.shop.svc"},
		"address":         {plans.Database{Engine: "mariadb", Pod: pod, Settings: map[string]string{"host": "10.0.0.7"}}, "settings.host is 10.0.0.7"},
		"replica set":     {plans.Database{Engine: "mongodb", Pod: pod, Settings: map[string]string{"host": "rs0/127.0.0.1:27017,db-1:27017"}}, "settings.host is rs0/"},
		"looks local":     {plans.Database{Engine: "mariadb", Pod: pod, Settings: map[string]string{"host": "localhost.example"}}, "settings.host is localhost.example"},
		"runner":          {plans.Database{Engine: "postgresql"}, "only a server in a pod"},
		"machine":         {plans.Database{Engine: "postgresql", Machine: "db-0"}, "only a server in a pod"},
		"helper":          {plans.Database{Engine: "postgresql", Helper: &plans.DatabaseHelper{Namespace: "shop", Image: "tools"}}, "only a server in a pod"},
	} {
		engine, err := database.Find(c.entry.Engine, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = testable(c.entry, engine)
		if c.text == "" && err != nil || c.text != "" && (!fault.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), "drill whose Cluster document")) {
			t.Errorf("%s: got %v, want %q", name, err, c.text)
		}
	}
}
