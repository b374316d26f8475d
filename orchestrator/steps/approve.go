package steps

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/journal"
)

// Approve is the step approve: it waits until somebody decides, in a role that may. It is also how a
// manual step is written: the text says what to do, and the values that are asked for, a ticket's number
// for one, are in the receipt for later steps.
type Approve struct {
	// Text tells what is decided, or what has to be done by hand before.
	Text string `yaml:"text"`
	// Roles may decide; empty means any.
	Roles []string `yaml:"roles,omitempty"`
	// Ask are values that an approval has to bring, by name.
	Ask map[string]Question `yaml:"ask,omitempty"`
	// Within bounds the wait; 0 means for ever.
	Within plans.Duration `yaml:"within,omitempty"`
	// OnTimeout is reject (the default) or approve: what counts when nobody decided in time. A step that
	// asks for values can't be approved so.
	OnTimeout string `yaml:"onTimeout,omitempty"`
}

// Question is one value that an approval has to bring. It is journaled: never ask for a secret.
type Question struct {
	// Type is string (the default), int or bool.
	Type        string `yaml:"type,omitempty"`
	Description string `yaml:"description,omitempty"`
	// Pattern is a regular expression (RE2) that the whole of a string has to match.
	Pattern  string `yaml:"pattern,omitempty"`
	Optional bool   `yaml:"optional,omitempty"`
}

// approveReceipt is the receipt of approve.
type approveReceipt struct {
	By       string         `json:"by"` // who typed it; empty after a timeout
	As       string         `json:"as,omitempty"`
	Comment  string         `json:"comment,omitempty"`
	Time     time.Time      `json:"time"`
	Values   map[string]any `json:"values,omitempty"`
	TimedOut bool           `json:"timedOut,omitempty"`
}

const deciding = "decide"

// Check refuses a question that no answer fits.
func (s *Approve) Check(_ context.Context, run *orchestrator.Run) error {
	if s.Text == "" {
		return fault.Newf(deciding, fault.Invalid, run.Step, "text is missing: say what is decided")
	}
	if s.OnTimeout != "" && s.OnTimeout != "reject" && s.OnTimeout != "approve" {
		return fault.Newf(deciding, fault.Invalid, run.Step, "onTimeout %q: want reject or approve", s.OnTimeout)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Ask)) {
		q := s.Ask[name]
		if q.Type != "" && q.Type != "string" && q.Type != "int" && q.Type != "bool" {
			return fault.Newf(deciding, fault.Invalid, run.Step, "ask.%s.type %q: want string, int or bool", name, q.Type)
		}
		if _, err := regexp.Compile(q.Pattern); err != nil {
			return fault.Newf(deciding, fault.Invalid, run.Step, "ask.%s.pattern: %w", name, err)
		}
		if s.OnTimeout == "approve" && !q.Optional {
			return fault.Newf(deciding, fault.Invalid, run.Step, "ask.%s can't be answered by a timeout: leave out onTimeout: approve, or make it optional", name)
		}
	}
	return nil
}

// Accept implements orchestrator.Accepter.
func (s *Approve) Accept(decision journal.Command) error {
	if len(s.Roles) > 0 && !slices.Contains(s.Roles, decision.As) {
		return fault.Newf(deciding, fault.Denied, decision.As, "this role may not decide here: %s may", strings.Join(s.Roles, ", "))
	}
	if decision.Verb == orchestrator.VerbReject {
		return nil
	}
	_, err := s.answers(decision.Values)
	return err
}

// answers gives the values of an approval their types.
func (s *Approve) answers(values map[string]any) (map[string]any, error) {
	answers := map[string]any{}
	for name, value := range values {
		q, asked := s.Ask[name]
		if !asked {
			return nil, fault.Newf(deciding, fault.Invalid, name, "this value is not asked for: %s", strings.Join(slices.Sorted(maps.Keys(s.Ask)), ", "))
		}
		answer, err := q.answer(fmt.Sprint(value))
		if err != nil {
			return nil, fault.Newf(deciding, fault.Invalid, name, "%w", err)
		}
		answers[name] = answer
	}
	for _, name := range slices.Sorted(maps.Keys(s.Ask)) {
		if _, given := answers[name]; !given && !s.Ask[name].Optional {
			return nil, fault.Newf(deciding, fault.Invalid, name, "this value is missing: give it with --set %s=… (%s)", name, s.Ask[name].Description)
		}
	}
	return answers, nil
}

func (q Question) answer(text string) (any, error) {
	switch q.Type {
	case "int":
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%q is no whole number", text)
		}
		return n, nil
	case "bool":
		b, err := strconv.ParseBool(text)
		if err != nil {
			return nil, fmt.Errorf("%q is neither true nor false", text)
		}
		return b, nil
	}
	if matched, err := regexp.MatchString("^(?:"+q.Pattern+")$", text); q.Pattern != "" && (err != nil || !matched) {
		return nil, fmt.Errorf("%q does not match %s", text, q.Pattern)
	}
	return text, nil
}

// Do waits.
func (s *Approve) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	run.Progress.Status(s.waitingFor(run))
	timedOut := fault.Newf(deciding, fault.Denied, run.Step, "nobody decided within %s", time.Duration(s.Within))
	waiting := ctx
	if s.Within > 0 {
		limited, cancel := context.WithTimeoutCause(ctx, time.Duration(s.Within), timedOut)
		defer cancel()
		waiting = limited
	}
	decision, err := run.Decision(waiting)
	switch {
	case err != nil && ctx.Err() == nil && s.OnTimeout == "approve":
		return json.Marshal(approveReceipt{Time: run.Now().UTC(), TimedOut: true})
	case err != nil:
		return nil, err
	case decision.Verb == orchestrator.VerbReject:
		return nil, fault.Newf(deciding, fault.Denied, run.Step, "rejected by %s as %s: %s", decision.By, decision.As, decision.Reason)
	}
	values, err := s.answers(decision.Values)
	if err != nil {
		return nil, err
	}
	return json.Marshal(approveReceipt{By: decision.By, As: decision.As, Comment: decision.Reason, Time: decision.Time, Values: values})
}

// waitingFor tells what to type.
func (s *Approve) waitingFor(run *orchestrator.Run) string {
	question, answer := s.Asks(run.ID, run.Step)
	return question + ": " + answer
}

// Asks implements orchestrator.Asker.
func (s *Approve) Asks(run, step string) (question, answer string) {
	question, role := s.Text, "ROLE"
	if len(s.Roles) > 0 {
		role = s.Roles[0]
	}
	if len(s.Roles) > 1 {
		question += " (" + strings.Join(s.Roles, ", ") + " may decide)"
	}
	answer = fmt.Sprintf("muster runs approve %s %s --as %s", run, step, role)
	for _, name := range slices.Sorted(maps.Keys(s.Ask)) {
		if !s.Ask[name].Optional {
			answer += " --set " + name + "=…"
		}
	}
	return question, answer
}

// Verify has nothing to look at: the decision is the journal's.
func (s *Approve) Verify(context.Context, *orchestrator.Run, orchestrator.Receipt) error { return nil }

// Undo does nothing: what was decided stays decided.
func (s *Approve) Undo(context.Context, *orchestrator.Run, orchestrator.Receipt) error { return nil }
