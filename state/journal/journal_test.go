package journal

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/providers/fault"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{Directory: dir, Owner: "test/1", Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func create(t *testing.T, s *Store, id string) *Journal {
	t.Helper()
	if err := s.Create(t.Context(), Header{ID: id, Plan: "p", Created: time.Unix(1, 0), Frozen: json.RawMessage(`{"a":1}`)}); err != nil {
		t.Fatal(err)
	}
	j, err := s.Acquire(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestAppendAndRead(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), strings.Repeat("deep", 30)))
	j := create(t, s, "run-1")
	if err := s.Create(t.Context(), Header{ID: "run-1"}); !fault.Is(err, fault.Exists) {
		t.Fatalf("second create: %v", err)
	}
	for i, kind := range []string{"a", "b", "c"} {
		appended, err := j.Append(t.Context(), Event{Type: kind})
		if err != nil || len(appended) != 1 || appended[0].Sequence != int64(i+1) || appended[0].Version != Version {
			t.Fatalf("%+v, %v", appended, err)
		}
	}
	events, err := s.Events(t.Context(), "run-1", 1)
	if err != nil || len(events) != 2 || events[0].Type != "b" || events[1].Sequence != 3 {
		t.Fatalf("events after 1: %+v, %v", events, err)
	}
	header, err := s.Header(t.Context(), "run")
	if err != nil || string(header.Frozen) != `{"a":1}` || header.Plan != "p" {
		t.Fatalf("header: %+v, %v", header, err)
	}
	if _, err := s.Header(t.Context(), "other"); !fault.Is(err, fault.NotFound) {
		t.Fatalf("unknown run: %v", err)
	}
}

func TestLargeFrozenContent(t *testing.T) {
	s := open(t, t.TempDir())
	want := json.RawMessage(`"` + strings.Repeat("x", 5<<20) + `"`)
	if err := s.Create(t.Context(), Header{ID: "big", Frozen: want}); err != nil {
		t.Fatal(err)
	}
	header, err := s.Header(t.Context(), "big")
	if err != nil || string(header.Frozen) != string(want) {
		t.Fatalf("got %d bytes, %v", len(header.Frozen), err)
	}
}

func TestFence(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	first := create(t, s, "run-1")
	joined := open(t, dir) // a second connection, as another process has
	if _, err := joined.Acquire(t.Context(), "run-1"); !fault.Is(err, fault.Busy) {
		t.Fatalf("a living owner's run was taken: %v", err)
	}
	if _, err := s.client.Revoke(t.Context(), first.lease); err != nil { // as if the lease had run out
		t.Fatal(err)
	}
	second, err := joined.Acquire(t.Context(), "run-1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Append(t.Context(), Event{Type: "theirs"}); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Append(t.Context(), Event{Type: "ours"}); !fault.Is(err, fault.Denied) {
		t.Fatalf("an append without the lease: %v", err)
	}
	<-first.Lost()
	events, err := s.Events(t.Context(), "run-1", 0)
	if err != nil || len(events) != 1 || events[0].Type != "theirs" {
		t.Fatalf("events: %+v, %v", events, err)
	}
}

func TestWatchSeesHistoryAndWhatComes(t *testing.T) {
	s := open(t, t.TempDir())
	j := create(t, s, "run-1")
	if _, err := j.Append(t.Context(), Event{Type: "1"}, Event{Type: "2"}); err != nil {
		t.Fatal(err)
	}
	stop := errors.New("seen enough")
	var seen []int64
	result := make(chan error, 1)
	reached := make(chan struct{})
	go func() {
		result <- s.Watch(t.Context(), "run-1", 0, func(e Event) error {
			seen = append(seen, e.Sequence)
			if len(seen) == 2 {
				close(reached)
			}
			if len(seen) == 4 {
				return stop
			}
			return nil
		})
	}()
	<-reached
	for range 2 {
		if _, err := j.Append(t.Context(), Event{Type: "later"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-result; !errors.Is(err, stop) {
		t.Fatal(err)
	}
	for i, sequence := range seen {
		if sequence != int64(i+1) {
			t.Fatalf("sequences: %v", seen)
		}
	}
}

func TestStopRequest(t *testing.T) {
	s := open(t, t.TempDir())
	j := create(t, s, "run-1")
	if err := s.RequestStop(t.Context(), "run-1", "wrong cluster"); err != nil {
		t.Fatal(err)
	}
	if reason := <-j.StopRequested(); reason != "wrong cluster" {
		t.Fatal(reason)
	}
}

func TestRefusesNewerFormat(t *testing.T) {
	s := open(t, t.TempDir())
	if _, err := s.client.Put(t.Context(), runKey("new", "header"), `{"version":99,"id":"new"}`); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Header(t.Context(), "new"); !fault.Is(err, fault.Unsupported) {
		t.Fatal(err)
	}
}

func TestRefusesFolderNobodyMayWrite(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Directory: filepath.Join(file, "journal")}); err == nil {
		t.Fatal("a folder inside a file was opened")
	}
}

// TestKilledHost kills a process that hosts the journal and owns a run: this one, which had joined,
// hosts it from then on and takes the run without waiting for the lease to end.
func TestKilledHost(t *testing.T) {
	if dir := os.Getenv("JOURNAL_TEST_HOST"); dir != "" {
		s := open(t, dir)
		j := create(t, s, "run-1")
		if _, err := j.Append(t.Context(), Event{Type: "before"}); err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString("READY\n")
		_, _ = io.Copy(io.Discard, os.Stdin) // until the parent kills it
		return
	}
	dir := t.TempDir()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledHost$")
	child.Env = append(os.Environ(), "JOURNAL_TEST_HOST="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := child.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("READY\n"))); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	if _, err := s.Acquire(t.Context(), "run-1"); !fault.Is(err, fault.Busy) {
		t.Fatalf("a living process's run was taken: %v", err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	limited, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var j *Journal
	for { // the first calls may still meet the dead host
		if j, err = s.Acquire(limited, "run-1"); err == nil {
			break
		}
		if !fault.KindOf(err).Retryable() || limited.Err() != nil {
			t.Fatal(err)
		}
	}
	if _, err := j.Append(t.Context(), Event{Type: "after"}); err != nil {
		t.Fatal(err)
	}
	events, err := j.Events(t.Context())
	if err != nil || len(events) != 2 || events[1].Sequence != 2 {
		t.Fatalf("events: %+v, %v", events, err)
	}
}
