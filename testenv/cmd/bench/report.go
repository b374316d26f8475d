package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// report is one run of a page's benchmarks.
type report struct {
	results []result
	platform
	date time.Time
	took time.Duration
}

// entry is one element of benchmarks.json.
type entry struct {
	Name      string            `json:"name"`
	Ours      float64           `json:"ours"`
	Reference float64           `json:"reference"`
	Unit      string            `json:"unit"`
	Against   string            `json:"against"`
	Ratio     float64           `json:"ratio"` // more is better, 1 is equal
	Machine   string            `json:"machine"`
	Versions  map[string]string `json:"versions"`
}

// write writes a page's two files into a folder.
func write(dir string, p page, r report) error {
	raw, err := json.MarshalIndent(entries(r), "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, p.name+".json"), append(raw, '\n'), 0o644),
		os.WriteFile(filepath.Join(dir, p.name+".md"), []byte(markdown(p.title, r)), 0o644),
	)
}

func entries(r report) []entry {
	var all []entry
	for _, b := range r.results {
		all = append(all, entry{
			Name: b.name, Ours: rounded(median(b.ours)), Reference: rounded(median(b.reference)), Unit: b.unit, Against: b.against,
			Ratio: rounded(b.ratio()), Machine: r.machine, Versions: r.versions,
		})
	}
	return all
}

func markdown(title string, r report) string {
	var out strings.Builder
	fmt.Fprintf(&out, "# %s\n\nMuster next to a peer that does the same work, or the bare minimum of it, in one run. A ratio of 1 is equal, more is better.\n\n", title)
	fmt.Fprintf(&out, "%s\n", table(r.results))
	fmt.Fprintf(&out, "- Machine: %s\n- Versions: Muster %s, Go %s, Kubernetes %s, etcd %s, kopia %s\n- Date: %s; the run took %s\n",
		r.machine, r.versions["muster"], strings.TrimPrefix(r.versions["go"], "go"), r.versions["kubernetes"], r.versions["etcd"], r.versions["kopia"],
		r.date.UTC().Format("2006-01-02 15:04 UTC"), r.took.Round(time.Second))
	fmt.Fprintf(&out, "- Load average when it began: %s; more than 1 says that others worked on the machine, and single runs then differ widely\n", r.load)
	out.WriteString("- Servers, machines, repositories and the bench itself share the machine's processors: figures are for comparing the two sides, not for planning.\n")
	out.WriteString("\n## What was measured\n")
	out.WriteString(details(r.results))
	out.WriteString(howToRepeat)
	return out.String()
}

// details says of each benchmark what was measured, and what else was seen.
func details(results []result) string {
	var out strings.Builder
	for _, r := range results {
		fmt.Fprintf(&out, "\n### %s\n\n%s\n", r.name, r.how)
		for _, note := range r.notes {
			fmt.Fprintf(&out, "\n%s\n", note)
		}
		if len(r.ours) > 1 {
			fmt.Fprintf(&out, "\nRuns in %s, ours: %s; reference: %s.\n", r.unit, list(r.ours), list(r.reference))
		}
	}
	return out.String()
}

const howToRepeat = `
## How to repeat

As root on Debian 12, in a checkout: ` + "`make bench`" + `. It builds the lab once, measures everything, and writes the pages of
benchmarks. One page: ` + "`go run ./testenv/cmd/bench -page benchmarks`" + `. One benchmark alone, shown and not written: ` + "`go run ./testenv/cmd/bench -only etcd-snapshot -runs 5`" + `.
`

// table is in Markdown.
func table(results []result) string {
	var out strings.Builder
	out.WriteString("| benchmark | Muster | reference | unit | against | ratio |\n|---|---:|---:|---|---|---:|\n")
	for _, r := range results {
		fmt.Fprintf(&out, "| %s | %s | %s | %s | %s | **%.2f** |\n", r.name, figure(median(r.ours)), figure(median(r.reference)), r.unit, r.against, r.ratio())
	}
	return out.String()
}

func list(values []float64) string {
	var shown []string
	for _, value := range values {
		shown = append(shown, figure(value))
	}
	return strings.Join(shown, ", ")
}
