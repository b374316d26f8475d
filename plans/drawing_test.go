package plans

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// drawnPlan is a plan with everything that is hard to draw: arrows over several columns, a step alone, IDs
// that are too long, and text that XML and DOT do not take as it is.
func drawnPlan() []Step {
	return []Step{
		{ID: "etcd", Uses: "snapshot-etcd"},
		{ID: "machines", Uses: "capture-machines"},
		{ID: "apps", Uses: "capture-namespaces", Needs: []string{"etcd"}},
		{ID: "databases", Uses: "capture-databases", Needs: []string{"apps"}},
		{ID: "approve-what-was-captured-before-it-is-sealed-for-ever", Uses: "approve", Needs: []string{"databases", "machines"}},
		{ID: "seal", Uses: "seal-recovery-point", Needs: []string{"etcd", "apps", "databases", "machines", "approve-what-was-captured-before-it-is-sealed-for-ever"}},
		{ID: "tell", Uses: `<notify> & "friends"`, Needs: []string{"seal"}},
		{ID: "measure", Uses: "run-command", Needs: []string{"etcd"}},
		{ID: "alone", Uses: "wait-for"},
		{ID: "clean-up", Uses: "run-command", Needs: []string{"measure", "alone"}},
	}
}

func drawnRun(t *testing.T) Drawing {
	t.Helper()
	g, err := NewGraph(drawnPlan())
	if err != nil {
		t.Fatal(err)
	}
	return Drawing{
		Graph: g, Title: "Run nightly-20260102-150405-1f2e", Note: `plan nightly, running for 3m12s, "by" host-a/4711 <&>`,
		Path: []string{"etcd", "apps", "databases"},
		Marks: map[string]Mark{
			"etcd": {"verified", "12s"}, "machines": {"running", "3/42"}, "apps": {"verified", "1m"},
			"databases": {"failed", "9s  2/3"}, "approve-what-was-captured-before-it-is-sealed-for-ever": {"blocked", ""},
			"seal": {"pending", ""}, "tell": {"skipped", ""}, "measure": {"waiting", "2 retries"},
			"alone": {"interrupted", "3s"}, "clean-up": {"undone", ""},
		},
	}
}

func TestDrawings(t *testing.T) {
	run := drawnRun(t)
	for name, d := range map[string]Drawing{
		"plan": {Graph: run.Graph, Title: "Plan nightly", Note: "capture, 10 steps"}, "run": run,
	} {
		for format, draw := range map[string]func(io.Writer) error{"svg": d.SVG, "dot": d.DOT, "txt": d.Text} {
			var out bytes.Buffer
			if err := draw(&out); err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("testdata", "drawing", name+"."+format), out.Bytes())
			var again bytes.Buffer
			if err := draw(&again); err != nil || !bytes.Equal(out.Bytes(), again.Bytes()) {
				t.Errorf("%s.%s is drawn in two ways, %v", name, format, err)
			}
		}
	}
}

// TestSVGHoldsWhatItIsGiven reads the picture back: it is XML, and no text of a step has become markup.
func TestSVGHoldsWhatItIsGiven(t *testing.T) {
	var out bytes.Buffer
	if err := drawnRun(t).SVG(&out); err != nil {
		t.Fatal(err)
	}
	texts := svgTexts(t, out.Bytes())
	for _, want := range []string{`<notify> & "friends"`, "✗ failed  9s  2/3", `plan nightly, running for 3m12s, "by" host-a/4711 <&>`, "critical path", "to a step that needs it"} {
		if !slices.Contains(texts, want) {
			t.Errorf("%q is missing", want)
		}
	}
	words := "approve-what-was-captured-before-it-is-sealed-for-ever (approve) is blocked, needs machines, databases."
	if !strings.Contains(strings.Join(texts, "\n"), words) {
		t.Errorf("the words for those who can't see it lack %q", words)
	}
	var hostile bytes.Buffer
	g, err := NewGraph([]Step{{ID: "\x00\x1b</svg><script>", Uses: "]]>\xff"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := (Drawing{Graph: g, Title: "<script>", Marks: map[string]Mark{"\x00\x1b</svg><script>": {"<b>", "&"}}}).SVG(&hostile); err != nil {
		t.Fatal(err)
	}
	svgTexts(t, hostile.Bytes())
	if bytes.Contains(hostile.Bytes(), []byte("<script")) {
		t.Errorf("%s", hostile.Bytes())
	}
}

func svgTexts(t *testing.T, svg []byte) []string {
	t.Helper()
	var texts []string
	decoder := xml.NewDecoder(bytes.NewReader(svg))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return texts
		}
		if err != nil {
			t.Fatalf("no XML: %v\n%s", err, svg)
		}
		if text, ok := token.(xml.CharData); ok && strings.TrimSpace(string(text)) != "" {
			texts = append(texts, string(text))
		}
	}
}

// TestLayoutKeepsApart draws graphs: in no column does a box or an arrow stand where another one does,
// every step is right of all it needs, and an arrow passes each column between its ends.
func TestLayoutKeepsApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var steps []Step
		for i := range rapid.IntRange(1, 30).Draw(t, "steps") {
			step := Step{ID: fmt.Sprintf("s%d", i), Uses: "x"}
			for j := range i {
				if rapid.IntRange(0, 5).Draw(t, "needs") == 0 {
					step.Needs = append(step.Needs, fmt.Sprintf("s%d", j))
				}
			}
			steps = append(steps, step)
		}
		g, err := NewGraph(steps)
		if err != nil {
			t.Fatal(err)
		}
		l := newLayout(g, 40)
		boxes := 0
		for _, column := range l.columns {
			for i, p := range column {
				if p.step >= 0 {
					boxes++
				}
				if p.y-p.height/2 < -1e-6 {
					t.Fatalf("something stands above the picture: %+v", p)
				}
				if i > 0 && p.y-column[i-1].y < apart(column[i-1], p)-1e-6 {
					t.Fatalf("two things overlap: %g and %g", column[i-1].y, p.y)
				}
			}
		}
		if boxes != len(steps) {
			t.Fatalf("%d boxes for %d steps", boxes, len(steps))
		}
		arrows := map[[2]int]int{} // how many columns each goes on
		for _, s := range l.segments {
			if s.to.column != s.from.column+1 {
				t.Fatalf("an arrow jumps: %+v", s)
			}
			for _, need := range s.needs {
				arrows[need]++
			}
		}
		for to, step := range g.needs {
			for _, from := range step {
				if arrows[[2]int{from, to}] != l.boxes[to].column-l.boxes[from].column {
					t.Fatalf("the arrow from %d to %d is not whole: %v", from, to, arrows)
				}
			}
		}
	})
}

func TestInversions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		numbers := rapid.SliceOfN(rapid.IntRange(0, 9), 0, 20).Draw(t, "numbers")
		want := 0
		for i, a := range numbers {
			for _, b := range numbers[i+1:] {
				if a > b {
					want++
				}
			}
		}
		if got := inversions(slices.Clone(numbers)); got != want {
			t.Fatalf("%d, want %d", got, want)
		}
	})
}

// TestLargePlansAreDrawn draws what would take for ever if every arrow had a lane of its own.
func TestLargePlansAreDrawn(t *testing.T) {
	steps := make([]Step, 2000)
	for i := range steps {
		steps[i] = Step{ID: fmt.Sprintf("s%d", i), Uses: "x"}
		if i > 0 {
			steps[i].Needs = []string{fmt.Sprintf("s%d", i-1), fmt.Sprintf("s%d", i/2)}
		}
		if i > 1990 {
			for j := range i {
				steps[i].Needs = append(steps[i].Needs, fmt.Sprintf("s%d", j))
			}
		}
	}
	g, err := NewGraph(steps)
	if err != nil {
		t.Fatal(err)
	}
	if err := (Drawing{Graph: g}).SVG(io.Discard); err != nil {
		t.Fatal(err)
	}
}
