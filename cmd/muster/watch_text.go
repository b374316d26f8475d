package main

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/musterdr/muster/orchestrator"
)

// tail is what stands below the steps.
func (d *drawer) tail() []string {
	var lines []string
	r := d.Report
	add := func(text string, most int) {
		wrap := wrapped(text, d.width, "  ")
		if len(wrap) > most {
			wrap = append(wrap[:most:most], "  …")
		}
		lines = append(append(lines, ""), wrap...)
	}
	ended := r.Failure != nil && r.Failure.Error != "" && !r.Ended.IsZero()
	told := ended && d.Last != nil && strings.Contains(r.Failure.Error, d.Last.Error)
	if d.Last != nil && r.State != orchestrator.RunStateCompleted && !told {
		add(d.lastError(), 4)
	}
	if ended {
		add("Ended by: "+r.Failure.Error, 5)
	}
	if text := findingsText(d.Findings); text != "" {
		add("Findings: "+text+"; muster runs show "+r.Run+" lists them", 3)
	}
	if r.Verdict != "" {
		add(fmt.Sprintf("RPO %s  RTO %s  verdict: %s", secondsText(r.RPOSeconds), secondsText(r.RTOSeconds), r.Verdict), 2)
	}
	if r.Critical != nil {
		lines = append(append(lines, ""), criticalLines(r.Critical, d.width)...)
	}
	return lines
}

func (d *drawer) lastError() string {
	where := d.Last.Step
	if d.Last.Item != "" {
		where += "/" + d.Last.Item
	}
	if d.Last.Attempt > 0 {
		where += fmt.Sprintf(", attempt %d", d.Last.Attempt)
	}
	return fmt.Sprintf("Last error %s ago, %s (%s): %s", durationText(d.now.Sub(d.Last.Time)), where, d.Last.Kind, d.Last.Error)
}

func findingsText(findings map[orchestrator.Severity]int) string {
	var out []string
	for _, severity := range []orchestrator.Severity{orchestrator.Lost, orchestrator.Changed, orchestrator.Info} {
		if n := findings[severity]; n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n, severity))
		}
	}
	return strings.Join(out, ", ")
}

// criticalLines tells where the time of a run went.
func criticalLines(path *orchestrator.CriticalPath, width int) []string {
	title := "Critical path: " + durationText(seconds(path.Seconds))
	if path.Paused > 0 {
		title += " (nobody worked on it for " + durationText(seconds(path.Paused)) + " of them)"
	}
	lines := wrapped(title, width, "  ")
	names := len("STEP")
	for _, s := range path.Steps {
		names = min(max(names, runeLen(pathName(s))), max(8, width-40))
	}
	row := func(name, waited, worked string, share float64, end string) {
		line := fmt.Sprintf("  %-*s  %9s  %9s  %5s", names, clip(name, names), waited, worked, end)
		room := min(30, width-runeLen(line)-2)
		if bar := int(share*float64(room) + 0.5); bar > 0 {
			line += "  " + strings.Repeat("█", bar)
		}
		lines = append(lines, clip(line, width))
	}
	row("STEP", "WAITED", "WORKED", 0, "SHARE")
	for _, s := range path.Steps {
		row(pathName(s), durationText(seconds(s.Waited)), durationText(seconds(s.Worked)), s.Share, percent(s.Share))
	}
	if active := path.Seconds - path.Paused; path.After >= 1 && active > 0 {
		row("(after the last step)", durationText(seconds(path.After)), "", path.After/active, percent(path.After/active))
	}
	return lines
}

// pathName is a step of a critical path, with the item that its end waited for.
func pathName(s orchestrator.CriticalStep) string {
	name := s.ID
	if s.LastItem != "" {
		name += " (" + s.LastItem + ")"
	}
	if s.State != orchestrator.TaskVerified {
		name += " " + s.State
	}
	return name
}

func percent(share float64) string { return fmt.Sprintf("%.0f%%", 100*share) }

func seconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }

// durationText rounds to what a person reads: tenths of a second below ten seconds, seconds else.
func durationText(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	}
	text := d.Round(time.Second).String()
	if short, whole := strings.CutSuffix(text, "m0s"); whole {
		text = short + "m"
	}
	if short, whole := strings.CutSuffix(text, "h0m"); whole {
		text = short + "h"
	}
	return text
}

func shareText(share float64) string {
	if share <= 0 {
		return ""
	}
	return percent(min(share, 0.99))
}

func leftText(p orchestrator.Pace) string {
	if p.Left <= 0 {
		return ""
	}
	return durationText(seconds(p.Left).Round(time.Second)) + " left"
}

func paceText(p orchestrator.Pace, done orchestrator.Amount) string {
	switch {
	case done.Bytes > 0 && p.BytesPerSecond >= 1:
		return bytesText(int64(p.BytesPerSecond)) + "/s"
	case done.Bytes == 0 && p.ItemsPerSecond >= 0.1:
		return fmt.Sprintf("%.1f/s", p.ItemsPerSecond)
	}
	return ""
}

// progressText tells how far a task is.
func progressText(u orchestrator.Update) string {
	switch {
	case u.Total.Bytes > 0:
		return bytesText(u.Done.Bytes) + " of " + bytesText(u.Total.Bytes)
	case u.Done.Bytes > 0:
		return bytesText(u.Done.Bytes)
	case u.Total.Items > 0:
		return fmt.Sprintf("%d of %d", u.Done.Items, u.Total.Items)
	case u.Done.Items > 0:
		return fmt.Sprintf("%d items", u.Done.Items)
	}
	return ""
}

// wrapped breaks a text between words into lines that fit a width, the later ones behind a margin. A
// word that fits no line is broken.
func wrapped(text string, width int, margin string) []string {
	return wrapWords(strings.Fields(printable(text)), width, margin, "")
}

// continued is wrapped for a command: every line but the last ends with a backslash.
func continued(command string, width int) []string {
	var words []string
	for _, word := range strings.Fields(printable(command)) {
		if n := len(words); n > 0 && strings.HasPrefix(words[n-1], "--") && !strings.Contains(words[n-1], " ") {
			words[n-1] += " " + word // a flag and its value stay together
			continue
		}
		words = append(words, word)
	}
	return wrapWords(words, width, "", ` \`)
}

func wrapWords(words []string, width int, margin, end string) []string {
	var lines []string
	line := ""
	for _, word := range broken(words, max(1, width-runeLen(margin)-runeLen(end))) {
		switch {
		case line == "":
			line = word
		case runeLen(line)+1+runeLen(word)+runeLen(end) <= width:
			line += " " + word
		default:
			lines = append(lines, line+end)
			line = margin + word
		}
	}
	return append(lines, line)
}

// broken cuts words that are longer than a line.
func broken(words []string, width int) []string {
	var out []string
	for _, word := range words {
		runes := []rune(word)
		for ; len(runes) > width; runes = runes[width:] {
			out = append(out, string(runes[:width]))
		}
		out = append(out, string(runes))
	}
	return out
}

func runeLen(text string) int { return utf8.RuneCountInString(text) }
