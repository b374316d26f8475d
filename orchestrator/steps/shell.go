package steps

import (
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/musterdr/muster/orchestrator/machine"
)

// input returns what a shell elsewhere reads from its standard input, and the script that reads it.
// Neither variables nor the program stand on a command line, where every user could read them. What
// came in part alone is not run.
func (j job) input() (text, reader string) {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(j.env)) {
		fmt.Fprintf(&b, "export %s=%s\n", name, machine.Quote(j.env[name]))
	}
	if j.directory != "" {
		fmt.Fprintf(&b, "cd %s || exit %d\n", machine.Quote(j.directory), exitNotRun)
	}
	if j.Script != "" {
		b.WriteString("exec </dev/null\n" + j.Script + "\n")
	} else {
		b.WriteString("exec")
		for _, word := range j.Command {
			b.WriteString(" " + machine.Quote(word))
		}
		b.WriteString(" </dev/null\n")
	}
	end := "muster-end-" + rand.Text()
	b.WriteString(end + "\n")
	return b.String(), fmt.Sprintf(readInput, end, exitNotRun)
}

// exitNotRun is the exit code of our own scripts when the program could not be started as asked.
const exitNotRun = 126

// readInput uses nothing but the shell itself: a container may hold no other program.
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
