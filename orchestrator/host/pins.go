package host

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/musterdr/muster/providers/fault"
)

var digestForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Pins are the SHA-256 digests of the programs that may start, by provider.
type Pins map[string]string

const pinsHead = "# The providers' programs that muster may start, with their SHA-256: muster provider pin NAME\n"

// ReadPins reads a pins file: lines of a name and a digest. Without a file there are no pins. Errors:
// Denied (others may write it, or it is not yours), Invalid (a line).
func ReadPins(path string) (Pins, error) {
	const op = "read pins"
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Pins{}, nil
	}
	if err != nil {
		return nil, fault.New(op, kindOf(err), path, plain(err))
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fault.New(op, kindOf(err), path, plain(err))
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, fault.Newf(op, fault.Denied, path, "other users can change it: chmod go-w %s", path)
	}
	if err := trusted(op, path, info); err != nil {
		return nil, err
	}
	pins := Pins{}
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		if err := pins.add(lines.Text()); err != nil {
			return nil, fault.New(op, fault.Invalid, fmt.Sprintf("%s:%d", path, n), err)
		}
	}
	return pins, lines.Err()
}

func (p Pins) add(line string) error {
	line, _, _ = strings.Cut(line, "#")
	fields := strings.Fields(line)
	if len(fields) == 0 {
		return nil
	}
	if len(fields) != 2 || !nameForm.MatchString(fields[0]) || !digestForm.MatchString(fields[1]) {
		return errors.New("want a provider's name and a SHA-256 in hexadecimal")
	}
	if _, twice := p[fields[0]]; twice {
		return fmt.Errorf("%s is pinned twice", fields[0])
	}
	p[fields[0]] = fields[1]
	return nil
}

// Write writes a pins file in one step, with mode 0644, and its folder where that is missing.
func (p Pins) Write(path string) error {
	const op = "write pins"
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fault.New(op, kindOf(err), path, plain(err))
	}
	var text bytes.Buffer
	text.WriteString(pinsHead)
	for _, name := range slices.Sorted(maps.Keys(p)) {
		fmt.Fprintf(&text, "%s %s\n", name, p[name])
	}
	return replace(op, path, text.Bytes())
}

func replace(op, path string, content []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fault.New(op, kindOf(err), path, plain(err))
	}
	_, err = file.Write(content)
	err = errors.Join(err, file.Chmod(0o644), file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		os.Remove(file.Name())
		return fault.New(op, kindOf(err), path, plain(err))
	}
	return nil
}

// Installed is a program in the plugin folder.
type Installed struct {
	Name   string `json:"name"`
	Path   string `json:"path"`
	SHA256 string `json:"sha256,omitempty"`
	Pinned bool   `json:"pinned"`
	// Problem is why it would not start; empty when nothing speaks against it.
	Problem string `json:"problem,omitempty"`
}

// List returns the programs in the plugin folder, by name. It starts none.
func (h *Host) List() ([]Installed, error) {
	names, err := h.folder.names()
	if err != nil {
		return nil, err
	}
	all := make([]Installed, 0, len(names))
	for _, name := range names {
		one, err := h.Find(name)
		if err == nil && !one.Pinned {
			err = h.checkPin(name, one.SHA256)
		}
		if err != nil {
			one.Problem = err.Error()
		}
		all = append(all, one)
	}
	return all, nil
}

// Find looks at one program.
func (h *Host) Find(name string) (Installed, error) {
	found := Installed{Name: name, Path: filepath.Join(h.folder.path, Prefix+name)}
	p, err := h.folder.open(name)
	if err != nil {
		return found, err
	}
	defer p.file.Close()
	found.SHA256 = p.digest
	pins, err := ReadPins(h.config.Pins)
	found.Pinned = err == nil && pins[name] == p.digest
	return found, err
}

// checkPin refuses a program that nobody pinned, or that has changed since.
func (h *Host) checkPin(name, digest string) error {
	const op = "start provider"
	pins, err := ReadPins(h.config.Pins)
	if err != nil {
		return err
	}
	switch pinned, known := pins[name]; {
	case pinned == digest:
		return nil
	case known:
		return fault.Newf(op, fault.Denied, name, "the program has changed: %s is pinned, it has %s. If you know why: %s", pinned, digest, h.pinCommand(name))
	default:
		return fault.Newf(op, fault.Denied, name, "the program is not pinned; its SHA-256 is %s. If you trust it: %s", digest, h.pinCommand(name))
	}
}

// pinCommand is what pins a program, as one types it.
func (h *Host) pinCommand(name string) string {
	command := "muster provider pin " + name
	if h.folder.path != DefaultFolder {
		command += " --plugins " + h.folder.path
	}
	if h.config.Pins != DefaultPins {
		command += " --pins " + h.config.Pins
	}
	return command
}
