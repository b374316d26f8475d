package steps

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv"
)

// waitForBox uses the step that is made for it.
func waitForBox(t *testing.T, w *watched) {
	t.Helper()
	step := settings[WaitFor](t, `
objects: {apiVersion: v1, kind: Pod, namespace: default, name: box}
condition: object.status.conditions.exists(c, c.type == "Ready" && c.status == "True")
within: 2m
`)
	do[waitReceipt](t, step, w.Run)
}

// places are the same settings for a machine and for a pod.
func places() map[string]string {
	return map[string]string{
		"machine": "on: machine\nmachine: steps-cp-0\n",
		"pod":     "on: pod\npod: {selector: app=box, container: second}\n",
	}
}

func TestRunCommandElsewhere(t *testing.T) {
	l := needLab(t)
	w := inLab(t, l)
	waitForBox(t, w)
	for name, place := range places() {
		t.Run(name, func(t *testing.T) {
			w := inLab(t, l)
			w.Item = "it's"
			step := settings[RunCommand](t, place+`
script: |
  pwd; echo "$COLOUR|$MUSTER_ITEM|$MUSTER_TOKEN"; cat
  echo "why '$COLOUR'" >&2
  exit 7
directory: /tmp
env: {COLOUR: "dark\n'red' $HOME"}
expectExit: [7]
`)
			r := do[commandReceipt](t, step, w.Run)
			if want := "/tmp\ndark\n'red' $HOME|it's|" + token(w.Run, forDoing) + "\n"; r.Stdout != want || r.Stderr != "why 'dark\n'red' $HOME'\n" || r.Exit != 7 {
				t.Errorf("%+v", r)
			}
			step.ExpectExit = []int{0}
			_, err := step.Do(t.Context(), w.Run, nil)
			wantFault(t, err, fault.Internal, "exit code 7, want 0: why 'dark; 'red' $HOME'")
			step.RetryExit = []int{7}
			_, err = step.Do(t.Context(), w.Run, nil)
			wantFault(t, err, fault.Transient, "exit code 7")
			argv := settings[RunCommand](t, place+`command: [sh, -c, 'printf "{\"a\": \"%s\"}" "$1"', sh, "it's $HOME"]`)
			if r := do[commandReceipt](t, argv, w.Run); string(r.JSON) != `{"a":"it's $HOME"}` || r.Exit != 0 {
				t.Errorf("%+v", r)
			}
			none := settings[RunCommand](t, place+`command: [no-such-program]`)
			_, err = none.Do(t.Context(), w.Run, nil)
			wantFault(t, err, fault.Internal, "exit code 127")
		})
	}
}

func TestRunCommandElsewhereIsBounded(t *testing.T) {
	l := needLab(t)
	waitForBox(t, inLab(t, l))
	for name, place := range places() {
		step := settings[RunCommand](t, place+`
script: 'echo BEGIN; i=0; while [ $i -lt 20000 ]; do echo 0123456789 0123456789 0123456789 0123456789; i=$((i+1)); done; echo END'
maxOutput: 1000
`)
		r := do[commandReceipt](t, step, inLab(t, l).Run)
		if !r.Cut || !strings.HasPrefix(r.Stdout, "BEGIN\n") || !strings.HasSuffix(r.Stdout, "END\n") || !strings.Contains(r.Stdout, "[879010 bytes left out here]") {
			t.Errorf("%s: cut %v, %s", name, r.Cut, r.Stdout)
		}
	}
}

func TestRunCommandElsewhereHasItsEnvironment(t *testing.T) {
	l := needLab(t)
	waitForBox(t, inLab(t, l))
	t.Setenv("MUSTER_TEST_LEAK", "x")
	r := do[commandReceipt](t, settings[RunCommand](t, places()["machine"]+`script: env | cut -d= -f1 | sort | tr '\n' ' '`), inLab(t, l).Run)
	if r.Stdout != "HOME LANG MUSTER_ITEM MUSTER_RUN MUSTER_STEP MUSTER_TOKEN PATH PWD " { // PWD is the shell's own
		t.Errorf("on the machine it is %s", r.Stdout)
	}
	r = do[commandReceipt](t, settings[RunCommand](t, places()["pod"]+`script: 'echo $OF_THE_CONTAINER $MUSTER_TEST_LEAK'`), inLab(t, l).Run)
	if r.Stdout != "kept\n" || r.Ran != (commandPlace{On: InPod, Namespace: "default", Pod: "box", Container: "second"}) {
		t.Errorf("in the pod %+v", r)
	}
}

// TestRunCommandElsewhereHidesSecrets looks into the process lists of both machines while it runs. A
// container's processes show in its machine's list.
func TestRunCommandElsewhereHidesSecrets(t *testing.T) {
	l := needLab(t)
	waitForBox(t, inLab(t, l))
	t.Setenv("MUSTER_TEST_SECRET", planted)
	for name, place := range places() {
		t.Run(name, func(t *testing.T) {
			w := inLab(t, l)
			host := onMachine(t, w)
			root := "/"
			if name == "pod" {
				root = output(t, host, `for p in $(pgrep -f '^/bin/busybox sleep'); do tr '\0' '\n' </proc/$p/environ | grep -q OF_THE_CONTAINER && echo /proc/$p/root/; done`)
			}
			output(t, host, "rm -f "+root+"tmp/started "+root+"tmp/gate; mkfifo "+root+"tmp/started "+root+"tmp/gate")
			step := settings[RunCommand](t, place+`
script: |
  echo yes >/tmp/started; read x </tmp/gate
  echo "out $TOKEN"; echo "err $TOKEN" >&2
  case $TOKEN in sw0rdfish*) exit 5;; esac
secretEnv: {TOKEN: {env: MUSTER_TEST_SECRET}}
expectExit: [5]
`)
			go func() {
				output(t, host, "cat "+root+"tmp/started")
				noSecret(t, "machine's process list", output(t, host, "ps -eww -o args"))
				list, err := exec.Command("ps", "-eww", "-o", "args").Output()
				if err != nil {
					t.Error(err)
				}
				noSecret(t, "runner's process list", string(list))
				output(t, host, "echo go >"+root+"tmp/gate")
			}()
			r := do[commandReceipt](t, step, w.Run)
			if r.Stdout != "out ***\n" || r.Stderr != "err ***\n" {
				t.Errorf("%+v", r)
			}
			step.ExpectExit, step.Script = nil, `echo "$TOKEN" >&2; exit 5`
			_, err := step.Do(t.Context(), w.Run, nil)
			wantFault(t, err, fault.Internal, "exit code 5, want 0: ***")
			noSecret(t, "error", err.Error())
			noSecret(t, "log", w.said())
		})
	}
}

// awaitRunning waits until a command shows in a process list.
func awaitRunning(t *testing.T, running func() string, ended <-chan error) {
	t.Helper()
	for running() == "0" {
		select {
		case err := <-ended:
			t.Fatalf("it ended before it was seen: %v", err)
		default:
		}
	}
}

// TestRunCommandElsewhereEnds: when the context ends, so does what runs there, one that ignores TERM
// among it.
func TestRunCommandElsewhereEnds(t *testing.T) {
	l := needLab(t)
	waitForBox(t, inLab(t, l))
	for name, place := range places() {
		t.Run(name, func(t *testing.T) {
			w := inLab(t, l)
			host := onMachine(t, w)
			step := settings[RunCommand](t, place+`script: 'trap "" TERM; echo begun >&2; while :; do sleep 987; done'`)
			running := func() string { return output(t, host, "pgrep -fc '[s]leep 987' || true") }
			ctx, cancel := context.WithCancelCause(t.Context())
			ended := make(chan error, 1)
			go func() { _, err := step.Do(ctx, w.Run, nil); ended <- err }()
			awaitRunning(t, running, ended)
			cancel(fault.Newf("run step", fault.Transient, "own", "not done after its timeout of 1s"))
			wantFault(t, <-ended, fault.Transient, "not done after its timeout")
			if n := running(); n != "0" {
				t.Errorf("%s still run: %s", n, output(t, host, "ps -eww -o pid,ppid,pgid,args | grep -e 987 -e PID"))
			}
		})
	}
}

func TestRunCommandUsesTheTargetMachinesOfARebuild(t *testing.T) {
	l := needLab(t)
	waitForBox(t, inLab(t, l))
	text, err := l.MachinesDocument("", testenv.Target{Machine: "steps-cp-0", Role: testenv.RoleControlPlane})
	if err != nil {
		t.Fatal(err)
	}
	set, err := plans.Read("machines.yaml", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	w := newWatched()
	w.Machines = set.Machines[labName]
	r := do[commandReceipt](t, settings[RunCommand](t, places()["machine"]+`command: [hostname]`), w.Run)
	if r.Stdout != "steps-cp-0\n" || r.Ran.Machine != "steps-cp-0" {
		t.Errorf("%+v", r)
	}
	// The rebuilt cluster is reached through its machine.
	r = do[commandReceipt](t, settings[RunCommand](t, places()["pod"]+`command: [echo, here]`), w.Run)
	if r.Stdout != "here\n" {
		t.Errorf("%+v", r)
	}
}

func TestRunCommandUndoesInTheSamePod(t *testing.T) {
	l := needLab(t)
	w := inLab(t, l)
	waitForBox(t, w)
	step := settings[RunCommand](t, places()["pod"]+`
script: 'echo x >/tmp/$MUSTER_TOKEN'
undo: {script: 'rm /tmp/$MUSTER_TOKEN && [ ! -e /tmp/$MUSTER_TOKEN ]'}
`)
	raw, err := step.Do(t.Context(), w.Run, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := step.Undo(t.Context(), w.Run, raw); err != nil {
		t.Fatal(err)
	}
	gone := []byte(`{"ran": {"on": "pod", "namespace": "default", "pod": "another"}}`)
	wantFault(t, step.Undo(t.Context(), w.Run, gone), fault.Internal, "in pod default/box")
}

func TestRunCommandFindsNoPod(t *testing.T) {
	l := needLab(t)
	w := inLab(t, l)
	waitForBox(t, w)
	for pod, want := range map[string]struct {
		kind fault.Kind
		text string
	}{
		`{name: none}`:                  {fault.NotFound, "not found"},
		`{name: box, container: third}`: {fault.NotFound, "has first, second"},
		`{selector: app=none}`:          {fault.Transient, "none of 0 pods is ready"},
		`{namespace: kube-system, selector: k8s-app=kube-dns}`: {fault.NotFound, "has no sh"},
	} {
		step := settings[RunCommand](t, "{on: pod, pod: "+pod+`, command: ["true"]}`)
		_, err := step.Do(t.Context(), w.Run, nil)
		wantFault(t, err, want.kind, want.text)
	}
	w.Cluster.Spec.KubeconfigFile = "/none"
	wantFault(t, settings[RunCommand](t, places()["pod"]+`command: ["true"]`).Check(t.Context(), w.Run), fault.NotFound, "no such file")
}

// TestRunCommandFallsBackToSPDY: something before the server knows no websockets.
func TestRunCommandFallsBackToSPDY(t *testing.T) {
	l := needLab(t)
	waitForBox(t, inLab(t, l))
	for refuse, want := range map[string]string{"": "websocket", "websocket": "websocket SPDY/3.1"} {
		w, b := inLab(t, l), &between{refuse: refuse}
		b.stand(t, w)
		step := settings[RunCommand](t, places()["pod"]+"script: echo out; echo err >&2; exit 3\nexpectExit: [3]\n")
		r := do[commandReceipt](t, step, w.Run)
		if b.seen() != want || r.Stdout != "out\n" || r.Stderr != "err\n" || r.Exit != 3 {
			t.Errorf("over %s: %+v", b.seen(), r)
		}
	}
}

// TestRunCommandInAPodSurvivesNoCut: a connection that breaks is no end of the command; what runs is
// ended before anybody tries again.
func TestRunCommandInAPodSurvivesNoCut(t *testing.T) {
	l := needLab(t)
	waitForBox(t, inLab(t, l))
	for _, refuse := range []string{"", "websocket"} {
		w, b := inLab(t, l), &between{refuse: refuse}
		host := onMachine(t, w)
		b.stand(t, w)
		step := settings[RunCommand](t, places()["pod"]+`script: 'echo begun; sleep 986; exit 0'`)
		running := func() string { return output(t, host, "pgrep -fc '[s]leep 986' || true") }
		ended := make(chan error, 1)
		go func() { _, err := step.Do(t.Context(), w.Run, nil); ended <- err }()
		awaitRunning(t, running, ended)
		b.mu.Lock()
		b.cut()
		b.mu.Unlock()
		wantFault(t, <-ended, fault.Transient, "run in pod")
		if n := running(); n != "0" {
			t.Errorf("over %s: %s still run", b.seen(), n)
		}
	}
}
