package plans

import (
	"fmt"
	"slices"
	"strings"
)

// Position is a place in a file that was read. Line and Column count from 1; 0 means unknown.
type Position struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

// String gives file:line:column as far as they are known.
func (p Position) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Column == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	default:
		return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
	}
}

// Problem is one thing that is wrong with a document.
type Problem struct {
	Position Position `json:"position"`
	Text     string   `json:"text"`
}

// Error gives "file:line:column: text".
func (p Problem) Error() string {
	if where := p.Position.String(); where != "" {
		return where + ": " + p.Text
	}
	return p.Text
}

// Problems is everything that is wrong, in the order of the files. It is the cause inside the
// fault.Invalid errors of this package.
type Problems []Problem

// Error gives one problem a line.
func (p Problems) Error() string {
	if len(p) == 1 {
		return p[0].Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d problems", len(p))
	for _, problem := range p {
		b.WriteString("\n  " + problem.Error())
	}
	return b.String()
}

func (p *Problems) add(at Position, format string, args ...any) {
	*p = append(*p, Problem{Position: at, Text: fmt.Sprintf(format, args...)})
}

// sorted orders the problems of each file by their place; files stay in the order they were read.
func (p Problems) sorted() Problems {
	files := map[string]int{}
	for _, problem := range p {
		if _, known := files[problem.Position.File]; !known {
			files[problem.Position.File] = len(files)
		}
	}
	slices.SortStableFunc(p, func(a, b Problem) int {
		if a.Position.File != b.Position.File {
			return files[a.Position.File] - files[b.Position.File]
		}
		if a.Position.Line != b.Position.Line {
			return a.Position.Line - b.Position.Line
		}
		return a.Position.Column - b.Position.Column
	})
	return p
}

// suggest ends a message about an unknown name: with the known one that it resembles, else with all
// that are known.
func suggest(name string, known []string) string {
	if near := nearest(name, known); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	if len(known) == 0 {
		return ""
	}
	known = slices.Sorted(slices.Values(known))
	const shown = 12 // a longer list hides what it should tell
	if len(known) > shown {
		return fmt.Sprintf("; known are %s and %d more", strings.Join(known[:shown], ", "), len(known)-shown)
	}
	return "; known are " + strings.Join(known, ", ")
}

// nearest returns the known name with the smallest edit distance, empty when none is near.
func nearest(name string, known []string) string {
	best, limit := "", max(1, len(name)/3)
	if len(name) > longestCompared {
		return ""
	}
	for _, candidate := range slices.Sorted(slices.Values(known)) {
		if strings.EqualFold(candidate, name) {
			return candidate
		}
		d := distance(strings.ToLower(name), strings.ToLower(candidate))
		if d <= limit && d < len(name) {
			best, limit = candidate, d-1
		}
	}
	return best
}

// longestCompared bounds the work of distance, in bytes: names in documents are far shorter.
const longestCompared = 64

// distance is the optimal string alignment distance: insertions, deletions, replacements and swaps
// of neighbours each count one.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
