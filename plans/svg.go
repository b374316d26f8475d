package plans

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strings"
)

// The measures of a picture, in pixels. Text is of fixed width, so that its length can be told.
const (
	pageMargin = 24
	columnGap  = 64
	lineHeight = 17
	textWidth  = 7.25 // of a letter of 12 px; those of 13 px are bold, and count as 8
	idWidth    = 8.0
	padding    = 12
	narrowest  = 130
	widest     = 260
	headHeight = 66
	leastWidth = 560
)

// SVG draws the graph as a picture: steps from left to right, arrows from each to those that need it.
func (d Drawing) SVG(out io.Writer) error {
	p := d.picture()
	_, err := io.WriteString(out, p.draw())
	return err
}

// picture is a drawing with its measures.
type picture struct {
	Drawing
	*layout
	box           int // width of boxes
	height        int // of boxes
	right, bottom int // of the part with boxes
	b             strings.Builder
}

func (d Drawing) picture() *picture {
	p := &picture{Drawing: d, height: 2*lineHeight + padding, box: narrowest}
	if len(d.Marks) > 0 {
		p.height += lineHeight
	}
	for _, step := range d.Graph.steps {
		needed := max(float64(letters(step.ID))*idWidth, float64(letters(step.Uses))*textWidth, float64(letters(d.state(step.ID)))*textWidth)
		p.box = min(max(p.box, int(math.Ceil(needed))+2*padding), widest)
	}
	p.layout = newLayout(d.Graph, float64(p.height))
	for _, column := range p.columns {
		for _, at := range column {
			p.bottom = max(p.bottom, p.y(at.y+at.height/2))
		}
	}
	p.right = 2*pageMargin + len(p.columns)*(p.box+columnGap) - columnGap
	p.right = max(p.right, leastWidth, 2*pageMargin+int(float64(letters(clipped(d.Title, 100)))*10), 2*pageMargin+int(float64(letters(clipped(d.Note, 140)))*textWidth))
	return p
}

// state is the third line of a box.
func (d Drawing) state(id string) string {
	mark, known := d.Marks[id]
	if !known {
		return ""
	}
	return styleOf(mark.State).glyph + " " + mark.text()
}

func (p *picture) x(column int) int { return pageMargin + column*(p.box+columnGap) }
func (p *picture) y(of float64) int { return headHeight + int(math.Round(of)) }
func (p *picture) top(at *spot) int { return p.y(at.y) - p.height/2 }

func (p *picture) draw() string {
	legend, bottom := p.legend()
	fmt.Fprintf(&p.b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" role="img" aria-labelledby="muster-title muster-text" font-family="'DejaVu Sans Mono','Liberation Mono',Menlo,Consolas,monospace" font-size="12">`+"\n", p.right, bottom)
	p.line(`<title id="muster-title">%s</title>`, xmlText(p.Title))
	p.line(`<desc id="muster-text">%s</desc>`, xmlText(p.words()))
	p.line(`<defs><marker id="muster-tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0 8 4 0 8z" fill="#57606a"/></marker></defs>`)
	p.line(`<rect width="%d" height="%d" fill="#ffffff"/>`, p.right, bottom)
	p.line(`<text x="%d" y="28" font-size="16" font-weight="bold" fill="#1f2328">%s</text>`, pageMargin, xmlText(clipped(p.Title, 100)))
	p.line(`<text x="%d" y="46" fill="#57606a">%s</text>`, pageMargin, xmlText(clipped(p.Note, 140)))
	for _, s := range p.segments {
		p.segment(s)
	}
	for i := range p.boxes {
		p.step(i)
	}
	p.b.WriteString(legend)
	p.line(`</svg>`)
	return p.b.String()
}

func (p *picture) line(format string, args ...any) { fmt.Fprintf(&p.b, format+"\n", args...) }

// words tell what the picture shows, for those who can't see it.
func (d Drawing) words() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d steps.", len(d.Graph.steps))
	for i, step := range d.Graph.steps {
		fmt.Fprintf(&b, " %s (%s)", step.ID, step.Uses)
		if mark, known := d.Marks[step.ID]; known {
			b.WriteString(" is " + mark.text())
		}
		if needs := d.Graph.ids(d.Graph.needs[i]); len(needs) > 0 {
			b.WriteString(", needs " + strings.Join(needs, ", "))
		}
		b.WriteString(".")
	}
	if len(d.Path) > 0 {
		b.WriteString(" Critical path: " + strings.Join(d.Path, ", ") + ".")
	}
	return b.String()
}

// segment bends between columns, and runs straight where it passes one.
func (p *picture) segment(s *segment) {
	x, from, to := p.x(s.from.column), p.y(s.from.y), p.y(s.to.y)
	path := fmt.Sprintf("M%d %d", x+p.box, from)
	if s.from.step < 0 {
		path = fmt.Sprintf("M%d %dH%d", x, from, x+p.box)
	}
	x = p.x(s.to.column)
	path += fmt.Sprintf("C%d %d %d %d %d %d", x-columnGap/2, from, x-columnGap/2, to, x, to)
	width, tip := "1.4", ""
	for _, need := range s.needs {
		if p.critical(p.Graph.steps[need[0]].ID, p.Graph.steps[need[1]].ID) {
			width = "3.2"
		}
	}
	if s.to.step >= 0 {
		tip = ` marker-end="url(#muster-tip)"`
	}
	p.line(`<path d="%s" fill="none" stroke="#57606a" stroke-width="%s"%s/>`, path, width, tip)
}

func (p *picture) step(i int) {
	step, at := p.Graph.steps[i], p.boxes[i]
	x, y := p.x(at.column), p.top(at)
	look := style{fill: "#ffffff", line: "#57606a"}
	title := step.ID + ": " + step.Uses
	mark, known := p.Marks[step.ID]
	if known {
		look = styleOf(mark.State)
		title += ", " + mark.text()
	}
	p.line(`<g><title>%s</title>`, xmlText(title))
	p.line(`<rect x="%d" y="%d" width="%d" height="%d" rx="6" fill="%s" stroke="%s" stroke-width="1.5"%s/>`, x, y, p.box, p.height, look.fill, look.line, dashed(look))
	room := float64(p.box - 2*padding)
	p.text(x+padding, y+lineHeight+3, `font-size="13" font-weight="bold" fill="#1f2328"`, clipped(step.ID, int(room/idWidth)))
	p.text(x+padding, y+2*lineHeight+2, `fill="#424a53"`, clipped(step.Uses, int(room/textWidth)))
	if known {
		p.text(x+padding, y+3*lineHeight+2, `fill="`+look.line+`"`, clipped(p.state(step.ID), int(room/textWidth)))
	}
	p.line(`</g>`)
}

func (p *picture) text(x, y int, attributes, text string) {
	p.line(`<text x="%d" y="%d" %s>%s</text>`, x, y, attributes, xmlText(text))
}

func dashed(s style) string {
	if s.dashes == "" {
		return ""
	}
	return ` stroke-dasharray="` + s.dashes + `"`
}

// legend explains what the picture holds, below it; it also returns the picture's height.
func (p *picture) legend() (svg string, bottom int) {
	present := map[string]bool{}
	for _, mark := range p.Marks {
		present[mark.State] = true
	}
	l := picture{box: p.box}
	x, y := pageMargin, p.bottom+pageMargin+16
	next := func(width int) {
		if x > pageMargin && x+width > p.right-pageMargin {
			x, y = pageMargin, y+24
		}
	}
	for _, s := range styles {
		if !present[s.state] {
			continue
		}
		width := 30 + int(float64(letters(s.state)+2)*textWidth) + 16
		next(width)
		l.line(`<rect x="%d" y="%d" width="22" height="14" rx="3" fill="%s" stroke="%s" stroke-width="1.5"%s/>`, x, y-11, s.fill, s.line, dashed(s))
		l.text(x+30, y, `fill="`+s.line+`"`, s.glyph+" "+s.state)
		x += width
	}
	for _, arrow := range p.meanings() {
		width := 38 + int(float64(letters(arrow.text))*textWidth) + 16
		next(width)
		l.line(`<path d="M%d %dH%d" stroke="#57606a" stroke-width="%s" marker-end="url(#muster-tip)"/>`, x, y-4, x+30, arrow.width)
		l.text(x+38, y, `fill="#424a53"`, arrow.text)
		x += width
	}
	return l.b.String(), y + pageMargin
}

type meaning struct{ width, text string }

func (d Drawing) meanings() []meaning {
	out := []meaning{{"1.4", "to a step that needs it"}}
	if len(d.Path) > 1 {
		out = append(out, meaning{"3.2", "critical path"})
	}
	return out
}

func letters(text string) int { return len([]rune(text)) }

// clipped cuts a text to so many letters.
func clipped(text string, most int) string {
	runes := []rune(text)
	if len(runes) <= most {
		return text
	}
	return string(runes[:max(0, most-1)]) + "…"
}

// xmlText makes any text content of XML; what XML can't hold becomes U+FFFD.
func xmlText(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a Builder takes everything
	return b.String()
}
