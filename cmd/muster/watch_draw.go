package main

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/musterdr/muster/orchestrator"
)

// picture is a view of a run in lines that fit a width.
type picture struct {
	head  []string
	steps []stepLines
	tail  []string
}

// stepLines are a step's own line and those below it. Where room is short, neighbours of the same quiet
// kind become one line.
type stepLines struct {
	lines   []string
	quiet   string   // verified, or pending
	answers []string // the lines that tell what to type, where somebody has to decide
}

// mostItems is how many running items of one step are drawn.
const mostItems = 5

// glyphs stand for the states of tasks; whoever can't tell them apart reads the word beside them.
var glyphs = map[string]string{
	orchestrator.TaskPending: "○", orchestrator.TaskRunning: "●", orchestrator.TaskReceived: "◉",
	orchestrator.TaskVerified: "✓", orchestrator.TaskWaiting: "↻", orchestrator.TaskInterrupted: "‖",
	orchestrator.TaskFailed: "✗", orchestrator.TaskSkipped: "»", orchestrator.TaskBlocked: "⊘",
	orchestrator.TaskUndone: "↶", asking: "?",
}

// asking is the word for a step that waits for somebody's decision.
const asking = "asks"

// drawView draws a view: no line is longer than width.
func drawView(v *orchestrator.View, width int, now time.Time) []string {
	p := newPicture(v, width, now)
	lines := p.head
	for _, s := range p.steps {
		lines = append(lines, s.lines...)
	}
	return append(lines, p.tail...)
}

func newPicture(v *orchestrator.View, width int, now time.Time) picture {
	d := &drawer{View: v, width: max(20, width), now: now, running: map[string][]orchestrator.RunningTask{}}
	for _, t := range v.Running {
		d.running[t.Step] = append(d.running[t.Step], t)
	}
	for _, s := range v.Report.Steps {
		d.ids = min(max(d.ids, runeLen(s.ID)), d.width/3)
	}
	p := picture{head: d.head(), tail: d.tail()}
	for _, s := range v.Report.Steps {
		p.steps = append(p.steps, d.step(s))
	}
	return p
}

// drawer draws one view.
type drawer struct {
	*orchestrator.View
	width   int
	now     time.Time
	ids     int // width of the column of IDs
	running map[string][]orchestrator.RunningTask
}

func (d *drawer) head() []string {
	title := "Run " + d.Report.Run + ", plan " + d.Report.Plan
	if d.Report.Cluster != "" {
		title += ", cluster " + d.Report.Cluster
	}
	lines := append(wrapped(title, d.width, "  "), wrapped(d.standing(), d.width, "  ")...)
	if d.Trouble != "" {
		lines = append(lines, wrapped("! "+d.Trouble, d.width, "  ")...)
	}
	for _, b := range d.Blockers {
		lines = append(lines, wrapped("waits for run "+b.Run+", which works on "+b.Resource, d.width, "  ")...)
	}
	return append(lines, "")
}

// standing says in words how the run stands, and what to type to go on.
func (d *drawer) standing() string {
	r := d.Report
	took := " after " + durationText(seconds(r.Seconds))
	goOn := "; go on with: muster runs resume " + r.Run
	switch {
	case d.Orphan:
		return r.State + ", but nobody works on it: its process died" + goOn
	case r.State == orchestrator.RunStatePending && d.Owner == "":
		return "pending: nobody works on it" + goOn
	case r.State == orchestrator.RunStateFailed, r.State == orchestrator.RunStateInterrupted,
		r.State == orchestrator.RunStatePaused, r.State == orchestrator.RunStateUndoFailed:
		if d.Owner != "" {
			return r.State + took + ", by " + d.Owner
		}
		return r.State + took + goOn
	case !r.Ended.IsZero():
		return r.State + took
	case r.Started.IsZero():
		return r.State + ", by " + d.Owner
	}
	return r.State + " for " + durationText(d.now.Sub(r.Started)) + ", by " + d.Owner
}

func (d *drawer) step(s orchestrator.StepReport) stepLines {
	tasks := d.running[s.ID]
	word := s.State
	for _, t := range tasks {
		if t.Answer != "" {
			word = asking
		}
	}
	glyph := glyphs[word]
	if glyph == "" {
		glyph = "·"
	}
	line := fmt.Sprintf("%s %-*s  %-11s  %s", glyph, d.ids, clip(s.ID, d.ids), word, d.detail(s, tasks, word))
	out := stepLines{lines: []string{clip(line, d.width)}}
	switch {
	case s.State == orchestrator.TaskVerified || s.State == orchestrator.TaskPending && len(tasks) == 0:
		out.quiet = s.State
	case s.State == orchestrator.TaskFailed && s.Failure != nil:
		out.lines = append(out.lines, bounded(wrapped("└ "+s.Failure.Error, d.width-2, "  "), 3, "  ")...)
	}
	if word == asking {
		questions, answers := d.questions(tasks)
		out.lines, out.answers = append(out.lines, questions...), answers
	} else if isFan(s, tasks) {
		out.lines = append(out.lines, d.items(tasks)...)
	}
	return out
}

// isFan reports a step that has items.
func isFan(s orchestrator.StepReport, tasks []orchestrator.RunningTask) bool {
	return s.Tasks != 1 || s.LastItem != "" || len(tasks) > 0 && tasks[0].Item != ""
}

// detail is the rest of a step's line.
func (d *drawer) detail(s orchestrator.StepReport, tasks []orchestrator.RunningTask, word string) string {
	switch {
	case word == asking:
		return "for a decision, since " + durationText(d.now.Sub(tasks[0].Since))
	case len(s.WaitsFor) > 0:
		return "waits for " + strings.Join(s.WaitsFor, ", ")
	case s.State == orchestrator.TaskPending && s.Started.IsZero(), s.State == orchestrator.TaskSkipped, s.State == orchestrator.TaskBlocked:
		return ""
	case len(tasks) == 0:
		return d.result(s)
	case isFan(s, tasks):
		return d.fan(s, tasks)
	}
	return parts(durationText(d.now.Sub(s.Started)), d.task(tasks[0]))
}

// result tells of a step of which nothing runs.
func (d *drawer) result(s orchestrator.StepReport) string {
	took := ""
	if !s.Ended.IsZero() {
		took = durationText(seconds(s.Seconds))
	}
	count := ""
	if isFan(s, nil) {
		count = fmt.Sprintf("%d/%d", s.Verified, s.Tasks)
	}
	return parts(took, count, strings.TrimSpace(amountText(s.Done)), retriesText(s.Retries))
}

func retriesText(n int) string {
	switch n {
	case 0:
		return ""
	case 1:
		return "1 retry"
	}
	return fmt.Sprintf("%d retries", n)
}

// fan tells of a step whose items run.
func (d *drawer) fan(s orchestrator.StepReport, tasks []orchestrator.RunningTask) string {
	pace := d.Paces[s.ID]
	done := s.Done
	for _, t := range tasks {
		done.Bytes += t.Done.Bytes
		done.Items += t.Done.Items
	}
	amount := ""
	if done.Bytes > 0 {
		amount = bytesText(done.Bytes)
	}
	return parts(durationText(d.now.Sub(s.Started)), fmt.Sprintf("%d/%d", s.Verified, s.Tasks), shareText(pace.Share),
		amount, paceText(pace, done), leftText(pace), retriesText(s.Retries))
}

// task tells of one task.
func (d *drawer) task(t orchestrator.RunningTask) string {
	switch t.State {
	case orchestrator.TaskWaiting:
		return "tries again in " + durationText(max(0, t.Until.Sub(d.now))) + ": " + t.Error
	case orchestrator.TaskReceived:
		return "verifies"
	}
	attempt := ""
	if t.Attempt > 1 {
		attempt = fmt.Sprintf("attempt %d", t.Attempt)
	}
	return parts(progressText(t.Update), paceText(t.Pace, t.Done), leftText(t.Pace), attempt, t.Status)
}

func (d *drawer) items(tasks []orchestrator.RunningTask) []string {
	shown := tasks[:min(len(tasks), mostItems)]
	names := 0
	for _, t := range shown {
		names = min(max(names, runeLen(t.Item)), d.width/3)
	}
	var lines []string
	for i, t := range shown {
		branch := "├"
		if i == len(tasks)-1 {
			branch = "└"
		}
		lines = append(lines, clip(fmt.Sprintf("  %s %-*s  %s", branch, names, clip(t.Item, names), d.task(t)), d.width))
	}
	if more := len(tasks) - len(shown); more > 0 {
		lines = append(lines, clip(fmt.Sprintf("  └ and %d more", more), d.width))
	}
	return lines
}

// questions are what a person has to decide, and the commands to type. These can be copied as they
// stand, also where one takes several lines.
func (d *drawer) questions(tasks []orchestrator.RunningTask) (all, answers []string) {
	asked := map[string]bool{}
	for _, t := range tasks {
		if asked[t.Answer] { // one decision counts for all items
			continue
		}
		asked[t.Answer] = true
		answer := indented(continued(t.Answer, d.width-6), "└ ", "    ")
		answers = append(answers, answer...)
		all = append(all, bounded(wrapped("├ "+t.Question, d.width-2, "│ "), 4, "│ ")...)
		all = append(all, answer...)
	}
	return all, answers
}

// bounded keeps the first lines, indented by two.
func bounded(lines []string, most int, margin string) []string {
	if len(lines) > most {
		lines = append(lines[:most:most], margin+"…")
	}
	return indented(lines, "", "")
}

func indented(lines []string, first, rest string) []string {
	var out []string
	for i, line := range lines {
		margin := rest
		if i == 0 {
			margin = first
		}
		out = append(out, "  "+margin+line)
	}
	return out
}

// parts joins what is not empty.
func parts(texts ...string) string {
	var out []string
	for _, text := range texts {
		if text != "" {
			out = append(out, text)
		}
	}
	return strings.Join(out, "  ")
}

// clip cuts a text to a width, and takes what is no printable character out of it: texts come from
// machines, and a terminal obeys.
func clip(text string, width int) string {
	runes := []rune(strings.TrimRight(printable(text), " "))
	if len(runes) <= width {
		return string(runes)
	}
	return string(runes[:max(0, width-1)]) + "…"
}

// printable takes out what a terminal would obey: names can come from a recovery point that somebody made
// to do harm.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
}
