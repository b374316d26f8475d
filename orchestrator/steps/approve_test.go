package steps

import (
	"strings"
	"testing"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/journal"
)

func TestApproveAccepts(t *testing.T) {
	step := &Approve{Text: "switch the DNS record", Roles: []string{"lead", "dns"}, Ask: map[string]Question{
		"ticket": {Description: "number of the change", Pattern: "CHG-[0-9]+"},
		"ttl":    {Type: "int", Optional: true},
		"tested": {Type: "bool", Optional: true},
	}}
	values := func(pairs ...string) map[string]any {
		out := map[string]any{}
		for i := 0; i < len(pairs); i += 2 {
			out[pairs[i]] = pairs[i+1]
		}
		return out
	}
	for _, c := range []struct {
		name     string
		decision journal.Command
		text     string // of the refusal; empty when it is accepted
	}{
		{"all", journal.Command{As: "dns", Values: values("ticket", "CHG-7", "ttl", "60", "tested", "true")}, ""},
		{"what is optional left out", journal.Command{As: "lead", Values: values("ticket", "CHG-7")}, ""},
		{"another role", journal.Command{As: "guest", Values: values("ticket", "CHG-7")}, "lead, dns may"},
		{"nothing", journal.Command{As: "dns"}, "--set ticket="},
		{"another pattern", journal.Command{As: "dns", Values: values("ticket", "CHG-7; rm")}, "does not match"},
		{"no number", journal.Command{As: "dns", Values: values("ticket", "CHG-7", "ttl", "soon")}, "no whole number"},
		{"neither true nor false", journal.Command{As: "dns", Values: values("ticket", "CHG-7", "tested", "maybe")}, "neither true nor false"},
		{"not asked for", journal.Command{As: "dns", Values: values("ticket", "CHG-7", "color", "red")}, "not asked for"},
		{"a rejection needs no values", journal.Command{As: "dns", Verb: orchestrator.VerbReject}, ""},
	} {
		err := step.Accept(c.decision)
		if c.text == "" && err != nil || c.text != "" && (err == nil || !strings.Contains(err.Error(), c.text)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.text)
		}
	}
}

func TestApproveCheck(t *testing.T) {
	run := &orchestrator.Run{Step: "switch"}
	for _, c := range []struct {
		step Approve
		text string
	}{
		{Approve{}, "text is missing"},
		{Approve{Text: "x", OnTimeout: "wait"}, "want reject or approve"},
		{Approve{Text: "x", Ask: map[string]Question{"a": {Type: "float"}}}, "want string, int or bool"},
		{Approve{Text: "x", Ask: map[string]Question{"a": {Pattern: "("}}}, "ask.a.pattern"},
		{Approve{Text: "x", OnTimeout: "approve", Ask: map[string]Question{"a": {}}}, "can't be answered by a timeout"},
	} {
		if err := c.step.Check(t.Context(), run); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%+v: %v, want %q", c.step, err, c.text)
		}
	}
	if err := (&Approve{Text: "x", OnTimeout: "approve"}).Check(t.Context(), run); err != nil {
		t.Error(err)
	}
}
