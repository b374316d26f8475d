package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/state/journal"
)

// TestNamesObeyNoTerminal prints a finding about an object whose name would clear the screen.
func TestNamesObeyNoTerminal(t *testing.T) {
	finding := orchestrator.Finding{Severity: orchestrator.Lost, Layer: "namespaces", Subject: "core/configmaps/a/b\x1b[2Jc", Text: "lost\r\x1b]0;d\a"}
	var report strings.Builder
	printFindings(&report, []orchestrator.Finding{finding})
	data, err := json.Marshal(finding)
	if err != nil {
		t.Fatal(err)
	}
	line := eventLine(journal.Event{Type: orchestrator.StepFinding, Data: data})
	for _, text := range []string{report.String(), line} {
		if strings.ContainsAny(text, "\x1b\r\a") || !strings.Contains(text, "core/configmaps/a/b") || !strings.Contains(text, "lost") {
			t.Errorf("printed %q", text)
		}
	}
}
