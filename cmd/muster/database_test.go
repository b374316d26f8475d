package main

import (
	"os"
	"strings"
	"testing"

	"github.com/musterdr/muster/testenv/postgres"
)

// TestDatabaseCheck asks a real server, with its password and with another.
func TestDatabaseCheck(t *testing.T) {
	server := postgres.Need(t)
	d := equipped(t, strings.ReplaceAll(`apiVersion: muster.dev/v1alpha1
kind: Cluster
metadata: {name: prod}
spec:
  kubeconfigFile: admin.conf
  databases:
    - {name: ledger, engine: postgresql, settings: {host: $SOCKET}, secrets: {password: {file: password}}}
---
apiVersion: muster.dev/v1alpha1
kind: Repository
metadata: {name: vault}
spec: {url: "file://$DIR/repo", keyFile: $DIR/muster.key}
`, "$SOCKET", server.Socket), nil)
	server.Must(t, "postgres", "create unlogged table cache (id int)")
	for password, want := range map[string]struct {
		code int
		text string
	}{
		postgres.Password: {exitOK, "ledger    postgresql  logical  info  table public.cache of postgres"},
		"no-password":     {exitDenied, "the server refuses the role"},
	} {
		if err := os.WriteFile(d.path("password"), []byte(password), 0o600); err != nil {
			t.Fatal(err)
		}
		printed, said, err := d.muster(t.Context(), "database", "check")
		if exitCode(err) != want.code || !strings.Contains(printed, want.text) || strings.Contains(printed+said, password) {
			t.Errorf("exit code %d: %s%s", exitCode(err), printed, said)
		}
	}
}
