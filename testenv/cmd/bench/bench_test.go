package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestMoreRatioIsBetter(t *testing.T) {
	for _, c := range []struct {
		less            bool
		ours, reference []float64
		want            float64
	}{
		{false, []float64{10, 90, 20}, []float64{10}, 2},
		{true, []float64{50}, []float64{90, 110}, 2},
		{true, []float64{1000}, []float64{100}, 0.1}, // ten machines that share nothing
	} {
		r := result{benchmark: benchmark{lessIsBetter: c.less}, ours: c.ours, reference: c.reference}
		if got := r.ratio(); got != c.want {
			t.Errorf("%+v: ratio %v, want %v", c, got, c.want)
		}
	}
}

func TestFigures(t *testing.T) {
	for x, want := range map[float64]string{0: "0", 0.0123456: "0.0123", 1.2345: "1.23", 98.76: "98.8", 12345.6: "12346"} {
		if got := figure(x); got != want {
			t.Errorf("figure(%v) is %s, want %s", x, got, want)
		}
	}
}

func TestChoose(t *testing.T) {
	all := benchmarks()
	if chosen, err := choose(all, "rebuild-rto,etcd-snapshot"); err != nil || len(chosen) != 2 || chosen[0].name != "rebuild-rto" {
		t.Errorf("%v, %v", chosen, err)
	}
	if _, err := choose(all, "etcd"); err == nil || !strings.Contains(err.Error(), "etcd-snapshot") {
		t.Errorf("an unknown name: %v", err)
	}
}

// TestReportNamesNoPath of the machine that it was made on.
func TestReportNamesNoPath(t *testing.T) {
	at, err := look(t.Context())
	if err != nil && os.Getenv("CI") != "true" {
		t.Skipf("left out, without git or /proc: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	r := report{platform: at, date: time.Unix(0, 0)}
	for _, b := range benchmarks() {
		r.results = append(r.results, result{benchmark: b, ours: []float64{1}, reference: []float64{2}})
	}
	text := markdown(r)
	for _, part := range []string{"/root", "/tmp", "/home", workDir, here, strings.TrimSuffix(here, "/testenv/cmd/bench")} {
		if strings.Contains(text, part) {
			t.Errorf("the report holds %s:\n%s", part, text)
		}
	}
	if lines := strings.Count(text, "\n| "); lines != len(r.results)+1 {
		t.Errorf("the table has %d lines:\n%s", lines, text)
	}
	if e := entries(r)[0]; e.Name != "etcd-snapshot" || e.Ratio != 0.5 || e.Versions["go"] == "" {
		t.Errorf("the first entry is %+v", e)
	}
}
