package testenv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
)

// Lab is one region: a bridge with its machines.
type Lab struct {
	dir   string
	parts parts
	say   func(format string, args ...any)
	State State
}

// State is what lab.json holds. Addresses outlive their machines, so that a machine that is made
// again under its name gets its address again.
type State struct {
	Name      string              `json:"name"`
	Number    int                 `json:"number"` // the bridge's subnet is 10.86.<number>.0/24
	Endpoint  string              `json:"endpoint,omitempty"`
	Machines  map[string]*Machine `json:"machines"`
	Addresses map[string]string   `json:"addresses"`
}

// StateDir is where labs live. There is one on a machine, as there is one list of network links,
// namespaces and cgroups: what is called like a lab's and isn't known here was left by a crash.
func StateDir() string { return "/var/lib/muster-lab" }

var labName = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,13}[a-z0-9])?$`)

// Create makes an empty lab: its key, bridge and number.
func Create(ctx context.Context, name string, say func(format string, args ...any)) (*Lab, error) {
	if !labName.MatchString(name) {
		return nil, fmt.Errorf("lab name %q: want up to 15 letters, digits and dashes, a letter first", name)
	}
	p, err := build(ctx, say)
	if err != nil {
		return nil, err
	}
	unlock, err := lockState()
	if err != nil {
		return nil, err
	}
	defer unlock()
	l := &Lab{dir: filepath.Join(StateDir(), name), parts: p, say: say}
	if _, err := os.Stat(l.dir); err == nil {
		return nil, fmt.Errorf("lab %q exists: lab down --name %s removes it", name, name)
	}
	number, err := freeNumber()
	if err != nil {
		return nil, err
	}
	l.State = State{Name: name, Number: number, Machines: map[string]*Machine{}, Addresses: map[string]string{}}
	if err := os.MkdirAll(filepath.Join(l.dir, "net"), 0o700); err != nil {
		return nil, err
	}
	if err := l.save(); err != nil { // before anything that Down would have to find
		return nil, err
	}
	if _, err := command(ctx, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", l.KeyFile()); err != nil {
		return nil, err
	}
	if err := os.WriteFile(l.KnownHostsFile(), nil, 0o600); err != nil {
		return nil, err
	}
	return l, l.makeBridge(ctx)
}

func lockState() (func(), error) {
	if err := os.MkdirAll(StateDir(), 0o755); err != nil {
		return nil, err
	}
	return lock(filepath.Join(StateDir(), "lock"))
}

func freeNumber() (int, error) {
	labs, err := List()
	if err != nil {
		return 0, err
	}
	for number := 1; number < 250; number++ {
		if !slices.ContainsFunc(labs, func(l *Lab) bool { return l.State.Number == number }) {
			return number, nil
		}
	}
	return 0, errors.New("there are 249 labs already")
}

// Open returns an existing lab.
func Open(ctx context.Context, name string, say func(format string, args ...any)) (*Lab, error) {
	p, err := build(ctx, say)
	if err != nil {
		return nil, err
	}
	l, err := load(name)
	if err != nil {
		return nil, err
	}
	l.parts, l.say = p, say
	return l, nil
}

func load(name string) (*Lab, error) {
	l := &Lab{dir: filepath.Join(StateDir(), name), say: func(string, ...any) {}}
	raw, err := os.ReadFile(filepath.Join(l.dir, "lab.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no lab %q: lab status lists them", name)
	}
	if err != nil {
		return nil, err
	}
	return l, json.Unmarshal(raw, &l.State)
}

// List returns all labs by name; they can be looked at and brought down.
func List() ([]*Lab, error) {
	paths, err := filepath.Glob(filepath.Join(StateDir(), "*", "lab.json"))
	if err != nil {
		return nil, err
	}
	var out []*Lab
	for _, path := range paths {
		l, err := load(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

// Find returns the lab that a machine belongs to.
func Find(machine string) (*Lab, error) {
	labs, err := List()
	if err != nil {
		return nil, err
	}
	for _, l := range labs {
		if _, ok := l.State.Machines[machine]; ok {
			return l, nil
		}
	}
	return nil, fmt.Errorf("there is no machine %q: lab status lists them", machine)
}

func (l *Lab) save() error {
	raw, err := json.MarshalIndent(l.State, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(l.dir, "lab.json")
	if err := os.WriteFile(path+".tmp", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// KeyFile is the private SSH key that every machine lets in as root.
func (l *Lab) KeyFile() string { return filepath.Join(l.dir, "id_ed25519") }

// KnownHostsFile holds every machine's host key.
func (l *Lab) KnownHostsFile() string { return filepath.Join(l.dir, "known_hosts") }

// KubeconfigFile is the administrator's kubeconfig of the lab's cluster.
func (l *Lab) KubeconfigFile() string { return filepath.Join(l.dir, "kubeconfig") }

// Names are the machines' names, sorted.
func (l *Lab) Names() []string {
	names := make([]string, 0, len(l.State.Machines))
	for name := range l.State.Machines {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// Down ends a lab: every machine, then bridge and files. What a crash left half-made goes too.
func (l *Lab) Down(ctx context.Context) error {
	var problems []error
	for _, name := range l.leftovers() {
		problems = append(problems, l.remove(ctx, name))
	}
	problems = append(problems, l.removeBridge(ctx))
	if err := errors.Join(problems...); err != nil {
		return err // the files stay, so that Down can be repeated
	}
	return removeWhileWritten(l.dir)
}

// Remove ends the lab of this name, whatever a crash left of it; it is no error when there is none.
func Remove(ctx context.Context, name string) error {
	l, err := load(name)
	if err != nil {
		if _, statErr := os.Stat(filepath.Join(StateDir(), name)); errors.Is(statErr, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return l.Down(ctx)
}

// DownAll ends every lab, those too whose files are unfinished or lost.
func DownAll(ctx context.Context) error {
	unlock, err := lockState()
	if err != nil {
		return err
	}
	defer unlock()
	labs, err := List()
	if err != nil {
		return err
	}
	var problems []error
	for _, l := range labs {
		problems = append(problems, l.Down(ctx))
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	return errors.Join(sweep(ctx), removeWhileWritten(StateDir()))
}

// leftovers are the machines that lab.json or the folder of machines knows.
func (l *Lab) leftovers() []string {
	names := l.Names()
	entries, _ := os.ReadDir(filepath.Join(l.dir, "machines")) // none is fine
	for _, entry := range entries {
		if !slices.Contains(names, entry.Name()) {
			names = append(names, entry.Name())
		}
	}
	return names
}

// Status tells a lab's machines in lines for people.
func (l *Lab) Status() string {
	var b strings.Builder
	fmt.Fprintf(&b, "lab %s  10.86.%d.0/24\n", l.State.Name, l.State.Number)
	for _, name := range l.Names() {
		m := l.State.Machines[name]
		state := "down"
		if _, err := l.initPID(name); err == nil {
			state = "up"
		}
		fmt.Fprintf(&b, "  %-24s %-14s %-14s %s\n", name, m.Address, m.Role, state)
	}
	return b.String()
}
