package steps

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator/shell"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

func TestRunCommandOnTheRunner(t *testing.T) {
	w := newWatched()
	w.Item = "a"
	step := settings[RunCommand](t, `
script: |
  pwd; echo "$COLOUR $MUSTER_RUN $MUSTER_STEP $MUSTER_ITEM $MUSTER_TOKEN"
  echo why >&2
  exit 3
directory: /usr
env: {COLOUR: "dark 'red'"}
expectExit: [0, 3]
`)
	r := do[commandReceipt](t, step, w.Run)
	host, _ := os.Hostname()
	want := "/usr\ndark 'red' run-1 own a " + token(w.Run, forDoing) + "\n"
	if r.Stdout != want || r.Stderr != "why\n" || r.Exit != 3 || r.Cut || r.Ran != (commandPlace{On: OnRunner, Machine: host}) || r.Seconds <= 0 {
		t.Errorf("%+v", r)
	}
	prior := []byte(`{"exit":0}`)
	if again, err := step.Do(t.Context(), w.Run, prior); err != nil || string(again) != string(prior) {
		t.Errorf("with a receipt: %s, %v", again, err)
	}
}

func TestTokensAreOfTheTask(t *testing.T) {
	w := newWatched()
	seen := map[string]bool{}
	for _, item := range []string{"", "a", "b"} {
		w.Item = item
		seen[token(w.Run, forDoing)], seen[token(w.Run, forUndoing)] = true, true
	}
	if again := token(w.Run, forDoing); len(seen) != 6 || !seen[again] || len(again) != 32 {
		t.Errorf("%v, again %s", seen, again)
	}
}

func TestRunCommandHasACleanEnvironment(t *testing.T) {
	t.Setenv("MUSTER_TEST_LEAK", "x")
	t.Setenv("LANG", "")
	r := do[commandReceipt](t, settings[RunCommand](t, `{command: [env], env: {OWN: "1"}}`), newWatched().Run)
	var names []string
	for line := range strings.Lines(r.Stdout) {
		name, _, _ := strings.Cut(line, "=")
		names = append(names, name)
	}
	slices.Sort(names)
	if got := strings.Join(names, " "); got != "HOME LANG MUSTER_ITEM MUSTER_RUN MUSTER_STEP MUSTER_TOKEN OWN PATH" {
		t.Errorf("the environment is %s", got)
	}
	left, err := syscall.Open("/dev/null", syscall.O_RDONLY, 0) // as a parent leaves one: without close-on-exec
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(left)
	r = do[commandReceipt](t, settings[RunCommand](t, `{script: "ls /proc/self/fd; readlink /proc/self/fd/0; cat"}`), newWatched().Run)
	if r.Stdout != "0\n1\n2\n3\n/dev/null\n" { // 3 is ls's own
		t.Errorf("its files are %q", r.Stdout)
	}
}

func TestRunCommandDecodesJSON(t *testing.T) {
	for text, want := range map[string]string{
		`{"id": 12345678901234567890, "ok": true}`: `{"id":12345678901234567890,"ok":true}`,
		`[1]`: ``, `{"id": 1} {"id": 2}`: ``, `{"id":`: ``,
	} {
		step := &RunCommand{Program: Program{Command: []string{"echo", text}}}
		if r := do[commandReceipt](t, step, newWatched().Run); string(r.JSON) != want || r.Stdout != text+"\n" {
			t.Errorf("%s gives %s", text, r.JSON)
		}
	}
}

func TestRunCommandKeepsBothEndsOfItsOutput(t *testing.T) {
	step := settings[RunCommand](t, `{script: "echo BEGIN; head -c 30000000 /dev/zero | tr '\\0' x; echo END; echo short >&2", maxOutput: 1000}`)
	r := do[commandReceipt](t, step, newWatched().Run)
	if !r.Cut || len(r.Stdout) > 1100 || !strings.HasPrefix(r.Stdout, "BEGIN\n") || !strings.HasSuffix(r.Stdout, "xEND\n") ||
		!strings.Contains(r.Stdout, "[29999010 bytes left out here]") || r.Stderr != "short\n" {
		t.Errorf("cut %v, %d bytes: %.80s", r.Cut, len(r.Stdout), r.Stdout)
	}
	step = settings[RunCommand](t, `{script: "head -c 1000 /dev/zero | tr '\\0' x", maxOutput: 1000}`)
	if r := do[commandReceipt](t, step, newWatched().Run); r.Cut || r.Stdout != strings.Repeat("x", 1000) {
		t.Errorf("as much as fits: cut %v, %d bytes", r.Cut, len(r.Stdout))
	}
}

func TestRunCommandJudgesExitCodes(t *testing.T) {
	for script, want := range map[string]struct {
		kind fault.Kind
		text string
	}{
		"echo first >&2; echo last >&2; exit 4": {fault.Internal, "exit code 4, want 0 or 7: first; last"},
		"echo only; exit 5":                     {fault.Transient, "exit code 5, want 0 or 7: only"},
		"kill -9 $$":                            {fault.Internal, "exit code 137, want 0 or 7: it wrote nothing"},
	} {
		step := &RunCommand{Program: Program{Script: script}, ExpectExit: []int{0, 7}, RetryExit: []int{5}}
		_, err := step.Do(t.Context(), newWatched().Run, nil)
		wantFault(t, err, want.kind, want.text)
	}
	for _, c := range []struct {
		step *RunCommand
		kind fault.Kind
	}{
		{&RunCommand{Program: Program{Command: []string{"/none/program"}}}, fault.NotFound},
		{&RunCommand{Program: Program{Command: []string{"/etc/passwd"}}}, fault.Denied},
		{&RunCommand{Program: Program{Command: []string{"true"}}, Directory: "/none"}, fault.NotFound},
		{&RunCommand{Program: Program{Command: []string{"true", strings.Repeat("x", 1<<20)}}}, fault.Invalid},
	} {
		_, err := c.step.Do(t.Context(), newWatched().Run, nil)
		wantFault(t, err, c.kind, "start program")
	}
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// survives gives a process that was killed the moment that it needs to be gone.
func survives(pid int) bool {
	for deadline := time.Now().Add(2 * time.Second); alive(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return true
		}
	}
	return false
}

// fifo makes a named pipe: reading from it waits for the other side.
func fifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// numberFrom waits for a number that somebody writes into a named pipe.
func numberFrom(t *testing.T, path string) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestRunCommandEndsWithItsContext: neither the program nor a child that ignores TERM outlives it.
func TestRunCommandEndsWithItsContext(t *testing.T) {
	t.Parallel()
	told := fifo(t)
	step := &RunCommand{Program: Program{Script: `sh -c 'trap "" TERM; echo $$ >` + told + `; while :; do sleep 1; done' & wait`}}
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() { _, err := step.Do(ctx, newWatched().Run, nil); ended <- err }()
	child := numberFrom(t, told)
	began := time.Now()
	cancel(fault.Newf("run step", fault.Transient, "own", "not done after its timeout of 1s"))
	err := <-ended
	wantFault(t, err, fault.Transient, "not done after its timeout")
	if took := time.Since(began); survives(child) || took < shell.Grace || took > shell.Grace+2*time.Second {
		t.Errorf("after %s the child that ignores TERM lives: %v", took, alive(child))
	}
	// One that obeys is not waited for.
	told = fifo(t)
	step = &RunCommand{Program: Program{Script: "echo $$ >" + told + "; exec sleep 1000"}}
	ctx, stop := context.WithCancel(t.Context())
	go func() { _, err := step.Do(ctx, newWatched().Run, nil); ended <- err }()
	child, began = numberFrom(t, told), time.Now()
	stop()
	if err := <-ended; !fault.Is(err, fault.Transient) || survives(child) || time.Since(began) > shell.Grace/2 {
		t.Errorf("after %s: %v, lives: %v", time.Since(began), err, alive(child))
	}
}

// TestRunCommandEndsWhatItLeaves: a child in the background holds neither the step nor the output.
func TestRunCommandEndsWhatItLeaves(t *testing.T) {
	t.Parallel()
	began := time.Now()
	r := do[commandReceipt](t, settings[RunCommand](t, `{script: "sleep 1000 & echo $!"}`), newWatched().Run)
	child, err := strconv.Atoi(strings.TrimSpace(r.Stdout))
	if err != nil || survives(child) || time.Since(began) > 10*time.Second {
		t.Errorf("after %s the child lives: %v, %v", time.Since(began), alive(child), err)
	}
	// One that left the group is no business of ours, though it holds the output open.
	r = do[commandReceipt](t, settings[RunCommand](t, `{script: "setsid sleep 1000 & echo $!"}`), newWatched().Run)
	if child, err = strconv.Atoi(strings.TrimSpace(r.Stdout)); err != nil || !alive(child) {
		t.Errorf("the child that left: %v", err)
	}
	_ = syscall.Kill(child, syscall.SIGKILL)
}

// TestRunCommandHidesSecrets plants one everywhere and looks for it in all that anybody can see.
func TestRunCommandHidesSecrets(t *testing.T) {
	started, gate := fifo(t), fifo(t)
	t.Setenv("MUSTER_TEST_SECRET", planted)
	step := settings[RunCommand](t, `
script: |
  echo $$ >`+started+`; read x <`+gate+`
  [ "$TOKEN" = "$SAME" ] || exit 9
  echo "out $TOKEN"; printf '%s' "$TOKEN" | base64; printf 'sw0rdfish-'; sleep 0.1; echo 'in-the-dark'
  printf '{"x":"%s"}\n' "$TOKEN"
  echo "err $TOKEN" >&2
  exit 5
secretEnv: {TOKEN: {file: `+secretFile(t, planted)+`}, SAME: {env: MUSTER_TEST_SECRET}}
expectExit: [0, 5]
`)
	w := newWatched()
	go func() {
		numberFrom(t, started)
		list, err := exec.Command("ps", "-eww", "-o", "args").Output()
		if err != nil || !strings.Contains(string(list), "read x <"+gate) {
			t.Errorf("ps does not show the command: %v", err)
		}
		noSecret(t, "process list", string(list))
		if err := os.WriteFile(gate, []byte("go\n"), 0); err != nil {
			t.Error(err)
		}
	}()
	r := do[commandReceipt](t, step, w.Run)
	if want := "out ***\n***\n***\n{\"x\":\"***\"}\n"; r.Stdout != want || r.Stderr != "err ***\n" {
		t.Errorf("output is %q and %q", r.Stdout, r.Stderr)
	}
	noSecret(t, "receipt", mustJSON(t, r))
	if strings.Contains(mustJSON(t, r), base64.StdEncoding.EncodeToString([]byte(planted))) {
		t.Error("the receipt holds it in base64")
	}
	step.ExpectExit = nil
	step.Script = `echo "failed with $TOKEN" >&2; exit 5`
	_, err := step.Do(t.Context(), w.Run, nil)
	wantFault(t, err, fault.Internal, "failed with ***")
	noSecret(t, "error", err.Error())
	noSecret(t, "log", w.said())
}

func TestRunCommandUndoes(t *testing.T) {
	dir := t.TempDir()
	step := settings[RunCommand](t, `
script: |
  touch `+dir+`/$MUSTER_TOKEN; printf '{"name": "%s"}' $MUSTER_TOKEN
undo: {script: 'case $MUSTER_JSON in *$MUSTER_TOKEN*) rm `+dir+`/$MUSTER_TOKEN;; esac'}
`)
	w := newWatched()
	raw, err := step.Do(t.Context(), w.Run, nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, token(w.Run, forDoing))
	if _, err := os.Stat(file); err != nil {
		t.Fatal(err)
	}
	if err := step.Undo(t.Context(), w.Run, raw); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("after undo: %v", err)
	}
	wantFault(t, step.Undo(t.Context(), w.Run, raw), fault.Internal, "No such file")
	step.Reverse = nil
	if err := step.Undo(t.Context(), w.Run, raw); err != nil || !strings.Contains(w.said(), "has no undo") {
		t.Errorf("without undo: %v, %s", err, w.said())
	}
	wantFault(t, step.Undo(t.Context(), w.Run, json.RawMessage("[]")), fault.Corrupt, "read receipt")
}

func TestRunCommandCheck(t *testing.T) {
	open := filepath.Join(t.TempDir(), "open")
	if err := os.WriteFile(open, []byte(planted), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		with, text string
		kind       fault.Kind
	}{
		{`{}`, "exactly one of command and script", fault.Invalid},
		{`{command: ["true"], script: "true"}`, "exactly one of command and script", fault.Invalid},
		{`{command: ["true"], undo: {}}`, "undo.command", fault.Invalid},
		{`{command: [""]}`, "name is empty", fault.Invalid},
		{`{command: ["true"], on: moon}`, "runner, machine or pod", fault.Invalid},
		{`{command: ["true"], machine: m}`, "go together", fault.Invalid},
		{`{command: ["true"], on: machine}`, "go together", fault.Invalid},
		{`{command: ["true"], on: pod}`, "go together", fault.Invalid},
		{`{command: ["true"], on: pod, pod: {}}`, "one of name and selector", fault.Invalid},
		{`{command: ["true"], on: pod, pod: {name: a, selector: a=b}}`, "one of name and selector", fault.Invalid},
		{`{command: ["true"], on: pod, pod: {selector: "a in b"}}`, "pod.selector", fault.Invalid},
		{`{command: ["true"], directory: here}`, "absolute path", fault.Invalid},
		{`{command: ["true"], env: {A-B: c}}`, "name of a variable", fault.Invalid},
		{`{command: ["true"], env: {MUSTER_X: c}}`, "Muster's own", fault.Invalid},
		{`{command: ["true"], env: {A: b}, secretEnv: {A: {env: B}}}`, "in env and in secretEnv", fault.Invalid},
		{`{command: ["true"], expectExit: [256]}`, "want 0 to 255", fault.Invalid},
		{`{command: ["true"], retryExit: [0]}`, "expected already", fault.Invalid},
		{`{command: ["true"], maxOutput: 99999999}`, "maxOutput", fault.Invalid},
		{`{command: ["no-such-program"]}`, "no folder of PATH", fault.NotFound},
		{`{command: ["true"], secretEnv: {A: {env: MUSTER_TEST_NONE}}}`, "not set", fault.NotFound},
		{`{command: ["true"], secretEnv: {A: {file: /none}}}`, "no such file", fault.NotFound},
		{`{command: ["true"], secretEnv: {A: {file: ` + open + `}}}`, "every user", fault.Denied},
		{`{command: ["true"], on: machine, machine: moon}`, "lists no such machine", fault.NotFound},
		{`{command: ["true"], on: pod, pod: {name: a}}`, "no such file", fault.NotFound},
	} {
		w := newWatched()
		w.Cluster = &plans.Cluster{Spec: plans.ClusterSpec{KubeconfigFile: "/none/kubeconfig", Machines: []plans.Machine{{Name: "cp-0"}}}}
		wantFault(t, settings[RunCommand](t, c.with).Check(t.Context(), w.Run), c.kind, c.text)
	}
}
