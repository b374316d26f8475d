package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/musterdr/muster/orchestrator"
)

// screen redraws lines in place on a terminal, with the control sequences that every terminal knows
// (ECMA-48: CUU, CUP, EL, ED).
type screen struct {
	out   io.Writer
	size  func() (width, height int)
	color bool

	rows, width, height int // of what was drawn, and of the terminal then
}

// draw replaces what was drawn before, in one write, so that nothing flickers.
func (s *screen) draw(v *orchestrator.View) {
	width, height := s.size()
	s.put(fitted(newPicture(v, width, v.Time), height-1), width, height)
}

// last draws the whole picture, however high it is: it stays there.
func (s *screen) last(v *orchestrator.View) {
	width, height := s.size()
	s.put(drawView(v, width, v.Time), width, height)
}

func (s *screen) put(lines []string, width, height int) {
	var b strings.Builder
	switch {
	case s.rows == 0:
	case width != s.width || height != s.height: // the terminal has moved the lines to where it likes
		b.WriteString("\x1b[H\x1b[2J")
	default:
		fmt.Fprintf(&b, "\x1b[%dA", s.rows)
	}
	for _, line := range lines {
		b.WriteString("\r\x1b[2K" + s.painted(line) + "\n")
	}
	b.WriteString("\x1b[J")
	s.rows, s.width, s.height = len(lines), width, height
	_, _ = io.WriteString(s.out, b.String()) // nobody looks any more
}

var colors = map[string]string{
	glyphs[orchestrator.TaskVerified]: "32", glyphs[orchestrator.TaskRunning]: "36", glyphs[orchestrator.TaskReceived]: "36",
	glyphs[orchestrator.TaskFailed]: "31", glyphs[orchestrator.TaskWaiting]: "33", glyphs[asking]: "35", "!": "31",
}

// painted gives the glyph at a line's beginning its color.
func (s *screen) painted(line string) string {
	glyph, rest, found := strings.Cut(line, " ")
	if color, known := colors[glyph]; found && known && s.color {
		return "\x1b[" + color + "m" + glyph + "\x1b[0m " + rest
	}
	return line
}

// fitted cuts a picture down to a number of lines: first neighbouring steps that are done, or have not
// begun, become one line; then running items go; then questions, but for the commands to type; then the
// end is cut off.
func fitted(p picture, height int) []string {
	steps := p.steps
	for _, shorten := range []func([]stepLines) []stepLines{
		func(s []stepLines) []stepLines { return s }, joined, withoutItems, withoutQuestions, withoutAnswers,
	} {
		steps = shorten(steps)
		if lines := p.with(steps); len(lines) <= height {
			return lines
		}
	}
	lines := p.with(steps)
	height = max(height, 2)
	return append(lines[:height-1:height-1], fmt.Sprintf("… %d more lines: muster runs show tells all", len(lines)-height+1))
}

func (p picture) with(steps []stepLines) []string {
	lines := append([]string{}, p.head...)
	for _, s := range steps {
		lines = append(lines, s.lines...)
	}
	return append(lines, p.tail...)
}

// joined makes one line of three and more neighbours of the same quiet kind.
func joined(steps []stepLines) []stepLines {
	var out []stepLines
	for i := 0; i < len(steps); {
		n := 1
		for ; steps[i].quiet != "" && i+n < len(steps) && steps[i+n].quiet == steps[i].quiet; n++ {
		}
		if n < 3 {
			out = append(out, steps[i:i+n]...)
		} else {
			out = append(out, stepLines{lines: []string{fmt.Sprintf("%s %d steps are %s", glyphs[steps[i].quiet], n, steps[i].quiet)}})
		}
		i += n
	}
	return out
}

func withoutItems(steps []stepLines) []stepLines {
	return each(steps, func(s stepLines) []string {
		if len(s.answers) > 0 {
			return s.lines
		}
		return s.lines[:1]
	})
}

func withoutQuestions(steps []stepLines) []stepLines {
	return each(steps, func(s stepLines) []string { return append(s.lines[:1:1], s.answers...) })
}

func withoutAnswers(steps []stepLines) []stepLines {
	return each(steps, func(s stepLines) []string { return s.lines[:1] })
}

func each(steps []stepLines, lines func(stepLines) []string) []stepLines {
	out := make([]stepLines, 0, len(steps))
	for _, s := range steps {
		s.lines = lines(s)
		out = append(out, s)
	}
	return out
}
