package shell

import (
	"context"
	"maps"
	"os"
	"slices"
)

// What programs find where nothing else is set.
const (
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	defaultLang = "C.UTF-8"
)

// Runner is the machine that this process runs on.
type Runner struct{}

// String is "on the runner" and its host name.
func (Runner) String() string {
	name, _ := os.Hostname() // it is for people
	return "on the runner " + name
}

// runnerEnv is the environment of a program on the runner: nothing of the runner's own but these.
func runnerEnv(env map[string]string) map[string]string {
	out := map[string]string{"PATH": defaultPath, "HOME": "/", "LANG": defaultLang}
	for name := range out {
		if value := os.Getenv(name); value != "" {
			out[name] = value
		}
	}
	maps.Copy(out, env)
	return out
}

// LookPath finds a program where Run with these variables would: fault.NotFound when it is not there.
func (Runner) LookPath(name string, env map[string]string) (string, error) {
	return lookPath(name, runnerEnv(env)["PATH"])
}

// Run gives the script a process group of its own, and a clean environment: PATH, HOME and LANG as the
// runner has them, and its own. What it leaves running in its group is ended a second after it; what has
// left the group goes on. It does not outlive the runner's process.
func (r Runner) Run(ctx context.Context, script Script) (int, error) {
	if err := script.check(r); err != nil {
		return 0, err
	}
	env := runnerEnv(script.Env)
	ctx, s := newStreams(ctx)
	defer s.end()
	p := process{argv: script.Command, dir: script.Directory, stdout: s.output(script.Stdout), stderr: s.output(script.Stderr)}
	if script.Text != "" {
		p.argv = []string{"sh", "-c", script.Text}
	}
	if p.dir == "" {
		p.dir = env["HOME"]
	}
	if script.Stdin != nil {
		p.stdin = s.input(script.Stdin)
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		p.env = append(p.env, name+"="+env[name])
	}
	var err error
	if p.path, err = lookPath(p.argv[0], env["PATH"]); err != nil {
		return 0, err
	}
	code, err := p.run(ctx)
	if failed := s.failure(); failed != nil {
		return 0, failed
	}
	return code, err
}
