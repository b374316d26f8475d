package database

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/musterdr/muster/orchestrator/machine"
	"github.com/musterdr/muster/orchestrator/secret"
	"github.com/musterdr/muster/orchestrator/shell"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

//go:embed preamble.sh
var preamble string

// ServerConfig says which server it is.
type ServerConfig struct {
	Database plans.Database
	Engine   plans.Engine
	Place    shell.Place       // where the engine's tools are
	Secrets  map[string]string // by the engine's names for them
	Mask     *secret.Mask      // knows them
	Token    string            // the same at every try of a task
}

// Server is a database server. It is safe for concurrent use.
type Server struct {
	ServerConfig
	settings map[string]string
	errors   []knownError
	pulse    pulse
}

type knownError struct {
	match *regexp.Regexp
	plans.EngineError
}

// NewServer checks the database's entry against its engine. Errors are Invalid.
func NewServer(config ServerConfig) (*Server, error) {
	s := &Server{ServerConfig: config, settings: map[string]string{}, pulse: pulse{try: rand.Text(), every: beatEvery, deadAfter: deadAfter}}
	refuse := func(format string, args ...any) error {
		return fault.Newf("check database", fault.Invalid, config.Database.Name, format, args...)
	}
	spec := config.Engine.Spec
	for name := range config.Database.Settings {
		if _, known := spec.Settings[name]; !known {
			return nil, refuse("settings: engine %s has no setting %q; it has %s", config.Engine.Metadata.Name, name, strings.Join(slices.Sorted(maps.Keys(spec.Settings)), ", "))
		}
	}
	for name := range config.Database.Secrets {
		if _, known := spec.Secrets[name]; !known {
			return nil, refuse("secrets: engine %s has no secret %q; it has %s", config.Engine.Metadata.Name, name, strings.Join(slices.Sorted(maps.Keys(spec.Secrets)), ", "))
		}
	}
	for name, setting := range spec.Settings {
		s.settings[name] = cmp.Or(config.Database.Settings[name], setting.Default)
		if setting.Required && s.settings[name] == "" {
			return nil, refuse("settings.%s is missing: %s", name, setting.Text)
		}
	}
	for name, wanted := range spec.Secrets {
		if _, given := config.Database.Secrets[name]; wanted.Required && !given {
			return nil, refuse("secrets.%s is missing: %s", name, wanted.Text)
		}
	}
	for _, e := range spec.Errors {
		match, err := regexp.Compile(e.Match)
		if err != nil {
			return nil, refuse("errors: %v", err)
		}
		s.errors = append(s.errors, knownError{match, e})
	}
	return s, nil
}

// Mode returns the mode of that name, and the name of the engine's own choice for none.
func (s *Server) Mode(name string) (string, plans.EngineMode, error) {
	name = cmp.Or(name, s.Engine.Spec.Mode)
	mode, known := s.Engine.Spec.Modes[name]
	if !known {
		return name, mode, fault.Newf("check mode", fault.Invalid, name, "engine %s has %s", s.Engine.Metadata.Name, strings.Join(slices.Sorted(maps.Keys(s.Engine.Spec.Modes)), ", "))
	}
	return name, mode, nil
}

// call is one script of the engine with what it finds.
type call struct {
	op     string
	script string
	args   []string
	env    map[string]string
	parts  []Part
	facts  map[string]string
	logs   []Log
	stdin  io.Reader
	stdout io.Writer
}

// run runs a script after the preamble and the engine's prelude. What it says on standard error is not seen
// unless it fails, and then without secrets.
func (s *Server) run(ctx context.Context, c call) error {
	diagnostics := &ending{}
	hidden := s.Mask.Writer(diagnostics)
	env := s.pulse.env(s.Token)
	for name, value := range s.settings {
		env["DB_"+strings.ToUpper(name)] = value
	}
	maps.Copy(env, c.env)
	head, reader := s.head(c)
	stdin := io.Reader(strings.NewReader(head))
	if c.stdin != nil {
		stdin = io.MultiReader(stdin, c.stdin)
	}
	stop := s.beat()
	defer stop()
	code, err := s.Place.Run(ctx, shell.Script{Text: reader, Env: env, Stdin: stdin, Stdout: c.stdout, Stderr: hidden, LeavesFirst: true})
	_ = hidden.Close() // an ending takes everything
	if err == nil && code != 0 {
		err = s.failure(c.op, code, diagnostics.String())
	}
	return s.Mask.Error(err)
}

// head is what a script reads first, with everything that must not stand on a command line or in an
// environment, and the script that reads it.
func (s *Server) head(c call) (text, reader string) {
	var b strings.Builder
	b.WriteString(shell.Leaves + preamble)
	for _, name := range slices.Sorted(maps.Keys(s.Secrets)) {
		fmt.Fprintf(&b, "printf '%%s\\n' %s >\"$MUSTER_DIR/secret.%s\"\n", machine.Quote(s.Secrets[name]), name)
	}
	write := func(name string, lines []string) {
		fmt.Fprintf(&b, ": >\"$MUSTER_DIR/%s\"\n", name)
		for _, line := range lines {
			fmt.Fprintf(&b, "printf '%%s\\n' %s >>\"$MUSTER_DIR/%s\"\n", machine.Quote(line), name)
		}
	}
	var parts, facts, logs []string
	for _, part := range c.parts {
		parts = append(parts, part.Line())
	}
	for _, name := range slices.Sorted(maps.Keys(c.facts)) {
		facts = append(facts, "fact\t"+name+"\t"+c.facts[name])
	}
	for _, log := range c.logs {
		logs = append(logs, log.Line())
	}
	write("parts", parts)
	write("facts", facts)
	write("logs", logs)
	b.WriteString("set --")
	for _, arg := range c.args {
		b.WriteString(" " + machine.Quote(arg))
	}
	// A shell of its own: what the preamble has running is none that the script's wait waits for.
	b.WriteString("\nset +e\n(\nset -e\ntrap muster_last EXIT\ntrap 'exit 143' TERM INT HUP\n" + s.Engine.Spec.Prelude + "\n" + c.script + "\n)\nexit $?\n")
	end := "muster-end-" + rand.Text()
	return b.String() + end + "\n", fmt.Sprintf(readHead, end)
}

// readHead uses the shell's own read, which takes no byte more than the line it reads.
const readHead = `muster_text=
while IFS= read -r muster_line; do
	case $muster_line in %s) eval "unset muster_text muster_line
$muster_text"; exit;; esac
	muster_text="$muster_text$muster_line
"
done
echo 'the connection broke before the whole script was here' >&2
exit 126
`

// failure gives what a tool said the kind that the engine knows for it.
func (s *Server) failure(op string, code int, said string) error {
	text := lastLines(said)
	for _, known := range s.errors {
		if !known.match.MatchString(said) {
			continue
		}
		if known.Text != "" {
			text = known.Text + ": " + text
		}
		return fault.New(op, fault.ParseKind(known.Kind), s.Database.Name, errors.New(text))
	}
	return fault.Newf(op, fault.Internal, s.Database.Name, "exit code %d: %s", code, text)
}

// ask runs a script and reads what it tells.
func (s *Server) ask(ctx context.Context, c call) (told, error) {
	t := told{facts: map[string]string{}}
	var out bounded
	c.stdout = &out
	if err := s.run(ctx, c); err != nil {
		return t, err
	}
	return t, t.read(&out.Buffer)
}

// maxTold bounds what a script may tell, in bytes: half a million tables fit.
const maxTold = 64 << 20

type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxTold {
		return 0, fault.Newf("read what the engine tells", fault.Unsupported, "", "it is more than %d MiB", maxTold>>20)
	}
	return b.Buffer.Write(p)
}

// ending keeps the last bytes of a stream.
type ending struct{ kept []byte }

const endingBytes = 16 << 10

func (e *ending) Write(p []byte) (int, error) {
	e.kept = append(e.kept, p...)
	if over := len(e.kept) - endingBytes; over > endingBytes {
		e.kept = append(e.kept[:0], e.kept[over:]...)
	}
	return len(p), nil
}

func (e *ending) String() string { return string(e.kept) }

// lastLines is the end of a text as one line.
func lastLines(text string) string {
	const lines, size = 4, 800
	all := strings.Split(strings.TrimSpace(text), "\n")
	joined := strings.Join(all[max(0, len(all)-lines):], "; ")
	return strings.ToValidUTF8(joined[max(0, len(joined)-size):], "")
}

// Version asks the server for its version.
func (s *Server) Version(ctx context.Context) (string, error) {
	var out bounded
	err := s.run(ctx, call{op: "ask for the server's version", script: s.Engine.Spec.Server, stdout: &out})
	return strings.TrimSpace(out.String()), err
}

// Check finds everything that would make a backup fail, or be less than it seems. Problems of kind info are
// no hindrance. The error says that it could not look.
func (s *Server) Check(ctx context.Context, mode string) ([]Problem, error) {
	_, m, err := s.Mode(mode)
	if err != nil {
		return nil, err
	}
	t, err := s.ask(ctx, call{op: "check database", script: s.tools() + m.Check})
	return t.problems, err
}

// tools ends a check that could find nothing without them.
func (s *Server) tools() string {
	var b strings.Builder
	for _, tool := range s.Engine.Spec.Tools {
		fmt.Fprintf(&b, "command -v %[1]s >/dev/null || problem not-found %[1]s 'there is no such program where the tools shall run'\n", machine.Quote(tool))
	}
	if len(s.Engine.Spec.Tools) > 0 {
		quoted := make([]string, 0, len(s.Engine.Spec.Tools))
		for _, tool := range s.Engine.Spec.Tools {
			quoted = append(quoted, machine.Quote(tool))
		}
		fmt.Fprintf(&b, "for muster_tool in %s; do command -v \"$muster_tool\" >/dev/null || exit 0; done\n", strings.Join(quoted, " "))
	}
	return b.String()
}

// Refused makes one error of the problems that are no mere info, nil when there are none.
func (s *Server) Refused(op string, problems []Problem) error {
	var errs []error
	for _, p := range problems {
		if p.Kind != "info" {
			errs = append(errs, fault.Newf(op, fault.ParseKind(p.Kind), s.Database.Name+": "+p.Subject, "%s", p.Text))
		}
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// Query runs a statement in a scope and returns its rows, decoded from JSON with numbers as they stand.
func (s *Server) Query(ctx context.Context, scope, statement string) ([]any, error) {
	if s.Engine.Spec.Query == "" {
		return nil, fault.Newf("query", fault.Unsupported, s.Database.Name, "engine %s answers no queries", s.Engine.Metadata.Name)
	}
	var out bounded
	err := s.run(ctx, call{op: "query", script: s.Engine.Spec.Query, env: map[string]string{"SCOPE": scope, "QUERY": statement}, stdout: &out})
	if err != nil {
		return nil, err
	}
	rows := []any{}
	decoder := json.NewDecoder(&out.Buffer)
	decoder.UseNumber()
	for {
		var row any
		switch err := decoder.Decode(&row); {
		case errors.Is(err, io.EOF):
			return rows, nil
		case err != nil:
			return nil, fault.New("query", fault.Internal, s.Database.Name, err)
		}
		rows = append(rows, row)
	}
}
