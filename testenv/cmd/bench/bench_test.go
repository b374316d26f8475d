package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/testenv/apiserver"
)

func TestMain(m *testing.M) {
	if what := os.Getenv(halfEnv); what != "" {
		if err := ownHalf(context.Background(), what); err != nil {
			fmt.Fprintln(os.Stderr, what+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestRoundTrip captures 10,000 objects and replays them into a fresh API server; capture-100k does so with
// ten times as many.
func TestRoundTrip(t *testing.T) {
	apiserver.NeedBinaries(t)
	on := &stage{dir: t.TempDir()}
	defer func() {
		if err := on.close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	c, err := newCaptureBench(t.Context(), on, size{namespaces: 50, deployments: 1_000, secrets: 4_000, configMaps: 3_000, widgets: 2_000})
	if err != nil {
		t.Fatal(err)
	}
	trip, err := c.roundTrip(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(trip)
	if trip.captured.Peak > mostMemory || trip.replayed.Peak > mostMemory {
		t.Errorf("more than %s MiB", mib(mostMemory))
	}
}

// mostMemory bounds what a process may hold with 10,000 objects, bytes. Most of it goes to the key of the
// repository, and grows with nothing.
const mostMemory = 300 << 20

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
	if chosen, err := choose("rebuild-rto,etcd-snapshot"); err != nil || len(chosen) != 2 || chosen[0].name != "rebuild-rto" {
		t.Errorf("%v, %v", chosen, err)
	}
	if _, err := choose("etcd"); err == nil || !strings.Contains(err.Error(), "etcd-snapshot") {
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
	for _, p := range pages() {
		for _, b := range p.benchmarks {
			r.results = append(r.results, result{benchmark: b, ours: []float64{1}, reference: []float64{2}})
		}
	}
	text := markdown("Benchmarks", r)
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
