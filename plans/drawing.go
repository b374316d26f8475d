package plans

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Drawing is a graph to be drawn, with what is known of its steps.
type Drawing struct {
	Graph *Graph
	Title string          // of the picture: the plan's name, or the run's
	Note  string          // below it
	Marks map[string]Mark // how the steps of a run stand; none for a plan alone
	Path  []string        // the steps of the run's critical path, in the order of time
}

// Mark says how one step stands.
type Mark struct {
	State string // as in reports: verified, running, …
	Note  string // short: how long it took, how many of its items are done
}

// text is the mark in one line.
func (m Mark) text() string { return strings.TrimSpace(m.State + "  " + m.Note) }

// Text draws the graph for a terminal of 80 columns: level by level, what runs side by side, and
// what each step waits for.
func (d Drawing) Text(out io.Writer) error {
	g := d.Graph
	id, uses := g.columns()
	mark := 0
	for _, m := range d.Marks {
		mark = max(mark, len([]rune(m.text())))
	}
	var b strings.Builder
	for n, level := range g.Levels() {
		if n > 0 {
			b.WriteString("   │\n")
		}
		for i, name := range level {
			step := g.steps[g.index[name]]
			margin := "     "
			if i == 0 {
				margin = fmt.Sprintf("%3d  ", n+1)
			}
			line := fmt.Sprintf("%s%-*s  %-*s", margin, id, step.ID, uses, step.Uses)
			if len(d.Marks) > 0 {
				line = fmt.Sprintf("%s  %-*s", line, mark, d.Marks[name].text())
			}
			b.WriteString(wrap(line, waiting(step), pageWidth))
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// DOT writes the graph in Graphviz' language. Arrows point from a step to those that need it.
func (d Drawing) DOT(out io.Writer) error {
	g := d.Graph
	var b strings.Builder
	b.WriteString("digraph plan {\n  rankdir=LR;\n  node [shape=box, style=rounded];\n")
	for _, step := range g.steps {
		label, look := step.ID+"\n"+step.Uses, ""
		if mark, known := d.Marks[step.ID]; known {
			style := styleOf(mark.State)
			label += "\n" + mark.text()
			look = fmt.Sprintf(`, style="rounded,filled", fillcolor=%s, color=%s`, dotText(style.fill), dotText(style.line))
		}
		fmt.Fprintf(&b, "  %s [label=%s%s];\n", dotText(step.ID), dotText(label), look)
	}
	for i, step := range g.steps {
		for _, need := range g.ids(g.needs[i]) {
			bold := ""
			if d.critical(need, step.ID) {
				bold = " [penwidth=3]"
			}
			fmt.Fprintf(&b, "  %s -> %s%s;\n", dotText(need), dotText(step.ID), bold)
		}
	}
	b.WriteString("}\n")
	_, err := io.WriteString(out, b.String())
	return err
}

// critical reports an arrow of the critical path.
func (d Drawing) critical(from, to string) bool {
	at := slices.Index(d.Path, from)
	return at >= 0 && at+1 < len(d.Path) && d.Path[at+1] == to
}

// style is how a state looks. No two differ by color alone: each has its word, and its glyph.
type style struct {
	state, glyph string
	fill, line   string
	dashes       string
}

// styles are in the order of the legend. The colors of lines and text keep a contrast of 4.5 to 1 on
// their ground (WCAG 2.1, 1.4.3).
var styles = [...]style{
	{"verified", "✓", "#dcf3e1", "#116329", ""},
	{"running", "●", "#d9ecff", "#0550ae", ""},
	{"received", "◉", "#d9ecff", "#0550ae", "2 2"},
	{"waiting", "↻", "#fff3cd", "#7d4e00", ""},
	{"pending", "○", "#ffffff", "#57606a", ""},
	{"interrupted", "‖", "#eaeef2", "#424a53", "6 3"},
	{"failed", "✗", "#ffe0de", "#a40e26", ""},
	{"blocked", "⊘", "#f0e6ff", "#6639ba", "6 3"},
	{"skipped", "»", "#f6f8fa", "#57606a", "2 2"},
	{"undone", "↶", "#fbe9d9", "#953800", "6 3"},
}

// styleOf is the style of a state; a state that is not known looks like pending, under its own name.
func styleOf(state string) style {
	for _, s := range styles {
		if s.state == state {
			return s
		}
	}
	return style{state, "·", "#ffffff", "#57606a", ""}
}
