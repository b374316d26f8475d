package main

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/musterdr/muster/providers/mem"
	"github.com/musterdr/muster/providers/rpc"
)

var update = flag.Bool("update", false, "write the scripts' golden output anew")

func TestMain(m *testing.M) {
	memory := func() { os.Exit(rpc.Serve(mem.New(mem.Config{Now: time.Now, Version: "1.2.3"}))) }
	testscript.Main(m, map[string]func(){
		"muster": main, "muster-provider-mem": memory, "muster-provider-alias": memory,
		"muster-provider-future": func() {
			os.Exit(rpc.ServeProtocols(mem.New(mem.Config{Now: time.Now}), rpc.Range{Oldest: 7, Newest: 9}))
		},
	})
}

// TestScripts runs muster as a person does: see testdata/script.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", UpdateScripts: *update, RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("MUSTER_STATE_DIR", env.WorkDir+"/state")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exits": exits, "mode": mode, "identity": identity, "await": await, "run-id": runID, "expand": expand, "plugin": plugin, "etcd-snapshot": etcdSnapshot(t), "flip": flip, "cut": cut},
	})
}

// exits runs a command and wants an exit code: exits CODE COMMAND ARGS…
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

// identity makes an age identity, and puts its recipient into the environment: identity FILE VARIABLE
func identity(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: identity FILE VARIABLE")
	}
	made, err := age.GenerateX25519Identity()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(made.String()+"\n"), 0o600))
	ts.Setenv(args[1], made.Recipient().String())
}

// await repeats a command until its output matches: await PATTERN COMMAND ARGS…
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await PATTERN COMMAND ARGS…")
	}
	pattern, err := regexp.Compile(args[0])
	ts.Check(err)
	out := ""
	for range awaitTries { // each try is a process that joins the journal: it takes its time
		if ts.Exec(args[1], args[2:]...) != nil {
			continue
		}
		if out = ts.ReadFile("stdout"); pattern.MatchString(out) {
			return
		}
	}
	ts.Fatalf("it does not come to %s: %s", args[0], out)
}

const awaitTries = 300

// runID puts the ID of the newest run into the environment: run-id VARIABLE
func runID(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: run-id VARIABLE")
	}
	ts.Check(ts.Exec("muster", "runs", "list", "-o", "json"))
	var runs []struct {
		Run string `json:"run"`
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &runs))
	if len(runs) == 0 {
		ts.Fatalf("there is no run")
	}
	ts.Setenv(args[0], runs[0].Run)
}

// expand replaces variables of the environment in a file: expand FILE
func expand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: expand FILE")
	}
	text := strings.ReplaceAll(ts.ReadFile(args[0]), "$WORK", ts.Getenv("WORK"))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// plugin puts providers' programs into a folder: plugin FOLDER NAMES…
func plugin(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: plugin FOLDER NAMES…")
	}
	ts.Check(os.MkdirAll(ts.MkAbs(args[0]), 0o755))
	for _, name := range args[1:] {
		self, err := os.Executable()
		ts.Check(err)
		to := filepath.Join(ts.MkAbs(args[0]), "muster-provider-"+name)
		if os.Link(self, to) == nil {
			continue
		}
		content, err := os.ReadFile(self)
		ts.Check(err)
		ts.Check(os.WriteFile(to, content, 0o755))
	}
}

// mode wants a file's permissions: mode 0600 FILE
func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode OCTAL FILE")
	}
	want, err := strconv.ParseUint(args[0], 8, 32)
	ts.Check(err)
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if info.Mode().Perm() != os.FileMode(want) {
		ts.Fatalf("%s has mode %o, want %o", args[1], info.Mode().Perm(), want)
	}
}
