package database

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/musterdr/muster/providers/fault"
)

// Problem is something that a check found.
type Problem struct {
	Kind    string `json:"kind"` // a fault.Kind, or info for what only has to be known
	Subject string `json:"subject"`
	Text    string `json:"text"`
}

// Part is one stream of a backup.
type Part struct {
	Path  string `json:"path"`  // below the database's folder
	Phase int    `json:"phase"` // parts of one phase come back together, before those of the next
	Bytes int64  `json:"bytes"` // how much is about to come, an estimate: heavy ones go first
	// Args are the engine's own: what the part holds.
	Args []string `json:"args,omitempty"`
}

// Digest is the content of one table or collection, computed by the engine.
type Digest struct {
	Scope string `json:"scope"`
	Name  string `json:"name"`
	Count string `json:"count"`
	// Checksum is in the engine's words, and the order of rows does not count; Unsettled where there is none.
	Checksum string `json:"checksum"`
}

// Unsettled is the checksum of what writers changed beside the backup, which can't be compared; as the count, too,
// it says that not even its being there is known.
const Unsettled = "-"

// Log is one file of a server's log of changes.
type Log struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
	// From and To are the positions at which it begins and ends, and order as text; both are empty for a file
	// that is no stretch of the log.
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// told is what a script said on its standard output.
type told struct {
	problems []Problem
	parts    []Part
	scopes   []string
	facts    map[string]string
	digests  []Digest
	logs     []Log
	ready    bool
}

// maxLine bounds one line of what a script tells, in bytes.
const maxLine = 1 << 20

// read takes lines until they end, or one is `ready`.
func (t *told) read(from io.Reader) error {
	lines := bufio.NewScanner(from)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	for lines.Scan() {
		if err := t.line(lines.Text()); err != nil {
			return err
		}
		if t.ready {
			return nil
		}
	}
	return lines.Err()
}

// line takes one line: a word, and fields with tabs between them.
func (t *told) line(text string) error {
	fields := strings.Split(text, "\t")
	bad := func() error {
		return fault.Newf("read what the engine tells", fault.Internal, "", "a line that is not understood: %.200q", text)
	}
	switch word, n := fields[0], len(fields); {
	case text == "ready":
		t.ready = true
	case word == "problem" && n == 4:
		t.problems = append(t.problems, Problem{fields[1], fields[2], fields[3]})
	case word == "scope" && n == 2:
		t.scopes = append(t.scopes, fields[1])
	case word == "fact" && n == 3:
		t.facts[fields[1]] = fields[2]
	case word == "digest" && n == 4:
		scope := ""
		if len(t.scopes) > 0 {
			scope = t.scopes[len(t.scopes)-1]
		}
		t.digests = append(t.digests, Digest{scope, fields[1], fields[2], fields[3]})
	case word == "log" && n == 5:
		bytes, err := strconv.ParseInt(fields[2], 10, 64)
		if err != nil || !goodPath(fields[1]) || strings.Contains(fields[1], "/") {
			return bad()
		}
		t.logs = append(t.logs, Log{fields[1], bytes, fields[3], fields[4]})
	case word == "part" && n >= 4:
		phase, err := strconv.Atoi(fields[2])
		bytes, err2 := strconv.ParseInt(fields[3], 10, 64)
		if err != nil || err2 != nil || !goodPath(fields[1]) {
			return bad()
		}
		t.parts = append(t.parts, Part{Path: fields[1], Phase: phase, Bytes: bytes, Args: fields[4:]})
	default:
		return bad()
	}
	return nil
}

// goodPath holds for relative paths that stay below their folder.
func goodPath(p string) bool {
	return p != "" && path.Clean(p) == p && !path.IsAbs(p) && p != ".." && !strings.HasPrefix(p, "../") && !strings.ContainsAny(p, "\x00\n")
}

// Line is the part as scripts tell it, and read it.
func (p Part) Line() string {
	return strings.Join(append([]string{"part", p.Path, strconv.Itoa(p.Phase), strconv.FormatInt(p.Bytes, 10)}, p.Args...), "\t")
}

// Line is the file of the log as scripts tell it, and read it.
func (l Log) Line() string {
	return strings.Join([]string{"log", l.Name, strconv.FormatInt(l.Bytes, 10), l.From, l.To}, "\t")
}

// Line is the digest as a file of them holds it: scope, name, count and checksum with tabs between them.
func (d Digest) Line() string {
	return strings.Join([]string{d.Scope, d.Name, d.Count, d.Checksum}, "\t")
}

// ReadDigests reads lines that Digest.Line wrote. Errors are Corrupt.
func ReadDigests(from io.Reader) ([]Digest, error) {
	var all []Digest
	lines := bufio.NewScanner(from)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), "\t")
		if len(fields) != 4 {
			return nil, fault.Newf("read digests", fault.Corrupt, "", "a line of %d fields", len(fields))
		}
		all = append(all, Digest{fields[0], fields[1], fields[2], fields[3]})
	}
	if err := lines.Err(); err != nil {
		return nil, fault.New("read digests", fault.Corrupt, "", err)
	}
	return all, nil
}

// Differences tells, for people, which tables are not as they were recorded; names in ignore are passed over, and
// tables of unknown content.
func Differences(recorded, found []Digest, ignore []string) []string {
	type key struct{ scope, name string }
	now := map[key]Digest{}
	for _, d := range found {
		now[key{d.Scope, d.Name}] = d
	}
	var out []string
	for _, was := range recorded {
		is, there := now[key{was.Scope, was.Name}]
		delete(now, key{was.Scope, was.Name})
		switch {
		case slices.Contains(ignore, was.Name), was.Count == Unsettled:
		case !there:
			out = append(out, fmt.Sprintf("%s of %s is missing", was.Name, was.Scope))
		case was.Checksum == Unsettled:
		case is.Count != was.Count:
			out = append(out, fmt.Sprintf("%s of %s has %s rows, had %s", was.Name, was.Scope, is.Count, was.Count))
		case is.Checksum != was.Checksum:
			out = append(out, fmt.Sprintf("%s of %s has other content in its %s rows", was.Name, was.Scope, is.Count))
		}
	}
	for k := range now {
		if !slices.Contains(ignore, k.name) {
			out = append(out, fmt.Sprintf("%s of %s was not there", k.name, k.scope))
		}
	}
	slices.Sort(out)
	return out
}
