package steps

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/secret"
	"github.com/musterdr/muster/orchestrator/shell"
	"github.com/musterdr/muster/providers/fault"
)

// RunCommand runs a program of the user's on the runner, on a machine or in a pod. It may run more than
// once, when a process or a connection dies before its receipt is kept: MUSTER_TOKEN is the same then.
type RunCommand struct {
	On Venue `yaml:"on,omitempty"` // default runner
	// Machine names a target machine of a rebuild, else one of the Cluster document.
	Machine string     `yaml:"machine,omitempty"`
	Pod     *PodChoice `yaml:"pod,omitempty"`

	Program `yaml:",inline"`
	// Directory is where the program starts: on the runner default HOME, else what the login or the
	// container gives.
	Directory string                      `yaml:"directory,omitempty"`
	Env       map[string]string           `yaml:"env,omitempty"`
	SecretEnv map[string]secret.Reference `yaml:"secretEnv,omitempty"`

	ExpectExit []int `yaml:"expectExit,omitempty"` // default 0
	// RetryExit are exit codes that may change when tried again. All others that nobody expects are
	// the program's own, and it is not tried again.
	RetryExit []int `yaml:"retryExit,omitempty"`
	// MaxOutput bounds what is kept of each output stream, in bytes: its first and its last half.
	MaxOutput int `yaml:"maxOutput,omitempty"` // default 64 KiB
	// Reverse is what Undo runs in the same place.
	Reverse *Program `yaml:"undo,omitempty"`
}

// Program is what runs: exactly one of both.
type Program struct {
	Command []string `yaml:"command,omitempty"` // a program and its arguments; no shell reads them
	Script  string   `yaml:"script,omitempty"`  // text for sh
}

// Venue is a kind of place that programs run in.
type Venue string

// The venues.
const (
	OnRunner  Venue = "runner"
	OnMachine Venue = "machine"
	InPod     Venue = "pod"
)

const (
	defaultOutput = 64 << 10
	maxOutput     = 128 << 10 // receipts are kept in etcd
	maxScript     = 96 << 10  // Linux takes no argument or variable that is much longer
	maxExit       = 255
)

// commandReceipt is what run-command leaves.
type commandReceipt struct {
	Ran     commandPlace    `json:"ran"`
	Exit    int             `json:"exit"`
	Stdout  string          `json:"stdout"`
	Stderr  string          `json:"stderr"`
	Cut     bool            `json:"cut"` // some output was left out
	JSON    json.RawMessage `json:"json,omitempty"`
	Seconds float64         `json:"seconds"`
	Token   string          `json:"token"`
}

// commandPlace tells where a program ran.
type commandPlace struct {
	On        Venue  `json:"on"`
	Machine   string `json:"machine,omitempty"` // on the runner its host name
	Namespace string `json:"namespace,omitempty"`
	Pod       string `json:"pod,omitempty"`
	Container string `json:"container,omitempty"`
}

func (p commandPlace) String() string {
	switch p.On {
	case OnMachine:
		return "on machine " + p.Machine
	case InPod:
		return fmt.Sprintf("in pod %s/%s", p.Namespace, p.Pod)
	default:
		return "on the runner " + p.Machine
	}
}

// Do runs the program, unless a receipt says that it ran.
func (s *RunCommand) Do(ctx context.Context, run *orchestrator.Run, prior orchestrator.Receipt) (orchestrator.Receipt, error) {
	if len(prior) > 0 {
		return prior, nil
	}
	r, err := s.execute(ctx, run, s.Program, commandPlace{}, nil)
	if err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

// execute runs a program where the step says; before is where its Do ran, if that was in a pod.
func (s *RunCommand) execute(ctx context.Context, run *orchestrator.Run, program Program, before commandPlace, extra map[string]string) (commandReceipt, error) {
	secrets, mask, err := secret.ReadAll(s.SecretEnv)
	if err != nil {
		return commandReceipt{}, err
	}
	limit := cmp.Or(s.MaxOutput, defaultOutput)
	stdout, stderr := newCapture(limit, mask), newCapture(limit, mask)
	script := shell.Script{
		Text: program.Script, Command: program.Command, Directory: s.Directory, Env: commandEnv(run), Stdout: stdout, Stderr: stderr,
	}
	maps.Copy(script.Env, extra)
	maps.Copy(script.Env, s.Env)
	maps.Copy(script.Env, secrets)
	began := run.Now()
	place, code, err := s.start(ctx, run, script, before)
	if err != nil {
		return commandReceipt{}, mask.Error(err)
	}
	_ = stdout.Close() // what it writes to takes everything
	_ = stderr.Close()
	r := commandReceipt{
		Ran: place, Exit: code, Stdout: stdout.kept.String(), Stderr: stderr.kept.String(),
		Cut: stdout.kept.cut() || stderr.kept.cut(), Seconds: run.Now().Sub(began).Seconds(), Token: token(run, forDoing),
	}
	if !stdout.kept.cut() {
		r.JSON = objectIn(r.Stdout)
	}
	return r, mask.Error(s.judge(r))
}

func (s *RunCommand) start(ctx context.Context, run *orchestrator.Run, script shell.Script, before commandPlace) (commandPlace, int, error) {
	switch s.On {
	case OnMachine:
		return runOnMachine(ctx, run, s.Machine, script)
	case InPod:
		return runInPod(ctx, run, *s.Pod, before, script)
	default:
		return runOnRunner(ctx, script)
	}
}

// commandEnv is what tells a program which task it serves.
func commandEnv(run *orchestrator.Run) map[string]string {
	return map[string]string{"MUSTER_RUN": run.ID, "MUSTER_STEP": run.Step, "MUSTER_ITEM": run.Item, "MUSTER_TOKEN": token(run, forDoing)}
}

// judge makes an error of an exit code that nobody expects: Transient where the step says that trying
// again may help, else Internal, which is an error that nobody classified.
func (s *RunCommand) judge(r commandReceipt) error {
	if slices.Contains(s.expected(), r.Exit) {
		return nil
	}
	kind := fault.Internal
	if slices.Contains(s.RetryExit, r.Exit) {
		kind = fault.Transient
	}
	said := cmp.Or(lastLines(r.Stderr), lastLines(r.Stdout), "it wrote nothing")
	return fault.Newf("run command", kind, r.Ran.String(), "exit code %d, want %s: %s", r.Exit, numbers(s.expected()), said)
}

func (s *RunCommand) expected() []int {
	if len(s.ExpectExit) == 0 {
		return []int{0}
	}
	return s.ExpectExit
}

func numbers(list []int) string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(list), "[]"), " ", " or ")
}

// objectIn returns text that is one JSON object, without white space.
func objectIn(text string) json.RawMessage {
	var out bytes.Buffer
	if text = strings.TrimSpace(text); !strings.HasPrefix(text, "{") || json.Compact(&out, []byte(text)) != nil {
		return nil
	}
	return out.Bytes()
}

// Verify has nothing to look at: what a program does is the user's to verify, in a step of its own.
func (s *RunCommand) Verify(context.Context, *orchestrator.Run, orchestrator.Receipt) error {
	return nil
}

// Undo runs the step's undo where Do ran. MUSTER_JSON is the JSON object that Do's program wrote, if it
// is not too long for a variable.
func (s *RunCommand) Undo(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	var r commandReceipt
	if err := json.Unmarshal(receipt, &r); err != nil {
		return fault.New("read receipt", fault.Corrupt, run.Step, err)
	}
	if s.Reverse == nil {
		run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Info, Layer: "commands", Subject: run.Step,
			Text: "the command ran " + r.Ran.String() + " and has no undo: what it changed stays"})
		return nil
	}
	reverse := *s
	reverse.ExpectExit, reverse.RetryExit = nil, nil
	written := map[string]string{}
	if len(r.JSON) <= maxScript {
		written["MUSTER_JSON"] = string(r.JSON)
	}
	_, err := reverse.execute(ctx, run, *s.Reverse, r.Ran, written)
	return err
}
