package plans

import (
	"io"
	"strings"
)

// Text draws the graph for a terminal of 80 columns: level by level, what runs side by side, and
// what each step waits for.
func (g *Graph) Text(out io.Writer) error { return Drawing{Graph: g}.Text(out) }

// columns are the widths of IDs and of what they use, bounded so that there is room for needs.
func (g *Graph) columns() (id, uses int) {
	const widest = 24
	for _, step := range g.steps {
		id, uses = max(id, len(step.ID)), max(uses, len(step.Uses))
	}
	return min(id, widest), min(uses, widest)
}

func waiting(step Step) string {
	if len(step.Needs) == 0 {
		return ""
	}
	return "after " + strings.Join(step.Needs, ", ")
}

// DOT writes the graph in Graphviz' language. Arrows point from a step to those that need it.
func (g *Graph) DOT(out io.Writer) error { return Drawing{Graph: g}.DOT(out) }

// dotText quotes for DOT, where a double quote and a backslash are all that is special.
func dotText(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(text) + `"`
}

// pageWidth is the width that everything for people fits in, in columns.
const pageWidth = 80

// wrap writes text behind a label, word by word, continued below its own beginning. It ends with a
// newline.
func wrap(label, text string, width int) string {
	if text == "" {
		return strings.TrimRight(label, " ") + "\n"
	}
	indent := len([]rune(label)) + 2
	line := label + "  "
	if indent > width*3/4 { // a long label leaves no room beside it
		indent = 12
		line = strings.TrimRight(label, " ") + "\n" + strings.Repeat(" ", indent)
	}
	var b strings.Builder
	b.WriteString(line)
	column := indent
	for i, word := range strings.Fields(text) {
		length := len([]rune(word))
		switch {
		case i == 0:
		case column+1+length > width:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			column = indent
		default:
			b.WriteString(" ")
			column++
		}
		b.WriteString(word)
		column += length
	}
	return b.String() + "\n"
}
