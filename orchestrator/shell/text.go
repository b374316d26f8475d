package shell

import (
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/musterdr/muster/orchestrator/machine"
)

// input returns what a shell elsewhere reads from its standard input, before what the script reads
// itself, and the script that reads it. Neither variables nor the program stand on a command line, where
// every user could read them. What came in part alone is not run.
func (s Script) input() (text, reader string) {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s.Env)) {
		fmt.Fprintf(&b, "export %s=%s\n", name, machine.Quote(s.Env[name]))
	}
	if s.Directory != "" {
		fmt.Fprintf(&b, "cd %s || exit %d\n", machine.Quote(s.Directory), exitNotRun)
	}
	if s.Text != "" {
		if s.Stdin == nil {
			b.WriteString("exec </dev/null\n")
		}
		b.WriteString(s.Text + "\n")
	} else {
		b.WriteString("exec")
		for _, word := range s.Command {
			b.WriteString(" " + machine.Quote(word))
		}
		if s.Stdin == nil {
			b.WriteString(" </dev/null")
		}
		b.WriteString("\n")
	}
	end := "muster-end-" + rand.Text()
	b.WriteString(end + "\n")
	return b.String(), fmt.Sprintf(readInput, end, exitNotRun)
}

// exitNotRun is the exit code of our own scripts when the program could not be started as asked.
const exitNotRun = 126

// readInput uses nothing but the shell itself: a container may hold no other program. A shell's read takes
// no byte after the end of its line (POSIX, read: it shall not consume more than it needs): what follows
// the mark is left to the script.
const readInput = `muster_text= muster_all=
while IFS= read -r muster_line; do
	case $muster_line in %s) muster_all=1; break;; esac
	muster_text="$muster_text$muster_line
"
done
[ "$muster_all" ] || { echo 'the connection broke before the whole command was here' >&2; exit %d; }
`

// evaluate runs what was read in the place of the shell that read it.
const evaluate = `eval "unset muster_text muster_line muster_all
$muster_text"`
