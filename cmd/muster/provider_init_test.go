package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestSkeletonWorks writes a new provider, and builds, vets and tests it as its author would: the tests are
// the conformance suite.
func TestSkeletonWorks(t *testing.T) {
	checkout, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "new")
	a := &app{out: io.Discard, diagnostics: os.Stderr, now: time.Now}
	if err := a.writeSkeleton(outline{Name: "fresh", Module: "example.org/fresh", Replace: checkout}, folder); err != nil {
		t.Fatal(err)
	}
	sums, err := os.ReadFile(filepath.Join(checkout, "go.sum")) // so that nothing is looked up
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "go.sum"), sums, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, line := range [][]string{{"gofmt", "-l", "."}, {"go", "vet", "."}, {"go", "test", "."}, {"go", "build", "-o", "muster-provider-fresh", "."}} {
		command := exec.Command(line[0], line[1:]...)
		command.Dir = folder
		command.Env = append(os.Environ(), "GOFLAGS=-mod=mod")
		out, err := command.CombinedOutput()
		if err != nil || line[0] == "gofmt" && len(out) > 0 {
			t.Fatalf("%v: %v\n%s", line, err, out)
		}
	}
}
