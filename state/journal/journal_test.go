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
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

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

func TestCommandsAreTakenOnce(t *testing.T) {
	s := open(t, t.TempDir())
	j := create(t, s, "run-1")
	if err := s.Request(t.Context(), "run-2", Command{ID: "x"}); !fault.Is(err, fault.NotFound) {
		t.Errorf("a command for no run: %v", err)
	}
	if err := s.Request(t.Context(), "run-1", Command{ID: "1", Verb: "pause", Reason: "wrong cluster"}); err != nil {
		t.Fatal(err)
	}
	command := <-j.Commands()
	if command.Verb != "pause" || command.Reason != "wrong cluster" {
		t.Fatal(command)
	}
	if err := j.Release(t.Context()); err != nil { // it was not obeyed yet: the next owner gets it, too
		t.Fatal(err)
	}
	second, err := s.Acquire(t.Context(), "run-1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Take(t.Context(), <-second.Commands(), Event{Type: "run.paused"}); err != nil {
		t.Fatal(err)
	}
	if err := second.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	third, err := s.Acquire(t.Context(), "run-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Request(t.Context(), "run-1", Command{ID: "2", Verb: "cancel"}); err != nil {
		t.Fatal(err)
	}
	if command := <-third.Commands(); command.ID != "2" {
		t.Errorf("%+v came again", command)
	}
}

func TestLocks(t *testing.T) {
	s := open(t, t.TempDir())
	first, second := create(t, s, "run-1"), create(t, s, "run-2")
	never := func(string, string) {}
	if err := first.Lock(t.Context(), []string{"b", "a", "b"}, false, never); err != nil {
		t.Fatal(err)
	}
	if err := first.Lock(t.Context(), []string{"a"}, false, never); err != nil {
		t.Errorf("its own lock: %v", err)
	}
	if err := second.Lock(t.Context(), []string{"c", "b"}, false, never); !fault.Is(err, fault.Busy) || !strings.Contains(err.Error(), "run-1") {
		t.Errorf("a lock that is held: %v", err)
	}
	blocked := make(chan string, 1)
	taken := make(chan error, 1)
	go func() {
		taken <- second.Lock(t.Context(), []string{"b"}, true, func(_, run string) { blocked <- run })
	}()
	if run := <-blocked; run != "run-1" {
		t.Errorf("it waits for %s", run)
	}
	if err := first.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-taken; err != nil {
		t.Fatal(err)
	}
	locks, err := s.Locks(t.Context())
	if err != nil || len(locks) != 1 || locks["b"] != "run-2" {
		t.Errorf("%v, %v", locks, err)
	}
}

func TestAppendsOfManyShareTransactions(t *testing.T) {
	s := open(t, t.TempDir())
	j := create(t, s, "run-1")
	const callers, each = 64, 20
	before := revision(t, s)
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			last := int64(0)
			for range each {
				appended, err := j.Append(t.Context(), Event{Type: "x"}, Event{Type: "y"})
				if err != nil {
					t.Error(err)
					return
				}
				if appended[0].Sequence <= last || appended[1].Sequence != appended[0].Sequence+1 {
					t.Errorf("sequences %d, %d after %d", appended[0].Sequence, appended[1].Sequence, last)
				}
				last = appended[1].Sequence
			}
		})
	}
	all.Wait()
	events, err := j.Events(t.Context())
	if err != nil || len(events) != 2*callers*each {
		t.Fatalf("%d events, %v", len(events), err)
	}
	for i, event := range events {
		if event.Sequence != int64(i+1) {
			t.Fatalf("event %d has sequence %d", i, event.Sequence)
		}
	}
	if transactions := revision(t, s) - before; transactions > callers*each/2 {
		t.Errorf("%d appends took %d transactions", callers*each, transactions)
	}
}

func revision(t *testing.T, s *Store) int64 {
	t.Helper()
	answer, err := s.client.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	return answer.Header.Revision
}

func TestArchive(t *testing.T) {
	s := open(t, t.TempDir())
	j := create(t, s, "run-1")
	for range 300 {
		if _, err := j.Append(t.Context(), Event{Type: "step.verified", Data: json.RawMessage(`{"a":1}`)}); err != nil {
			t.Fatal(err)
		}
	}
	before, err := j.Events(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Archive(t.Context(), "run-1"); !fault.Is(err, fault.Busy) {
		t.Errorf("a run that somebody works on: %v", err)
	}
	if err := j.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Archive(t.Context(), "run-1"); err != nil {
			t.Fatal(err)
		}
	}
	after, err := s.Events(t.Context(), "run-1", 0)
	if err != nil || !reflect.DeepEqual(before, after) {
		t.Errorf("%d events, %d before, %v", len(after), len(before), err)
	}
	if some, err := s.Events(t.Context(), "run-1", 290); err != nil || len(some) != 10 {
		t.Errorf("%d events after 290, %v", len(some), err)
	}
	if some, revision, err := s.eventsSincePacked(t.Context(), "run-1", 290, 7); err != nil || len(some) != 10 || revision != 0 {
		t.Errorf("packed while they were read: %d events, revision %d, %v", len(some), revision, err)
	}
	left, err := s.client.Get(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil || len(left.Kvs) > 6 {
		t.Errorf("%d keys are left, %v", len(left.Kvs), err)
	}
	watched := 0
	if err := s.Watch(t.Context(), "run-1", 0, func(Event) error { watched++; return nil }); err != nil || watched != 300 {
		t.Errorf("watched %d events, %v", watched, err)
	}
}

func TestEventThatIsTooLarge(t *testing.T) {
	s := open(t, t.TempDir())
	j := create(t, s, "run-1")
	large := json.RawMessage(`"` + strings.Repeat("x", 2<<20) + `"`)
	if _, err := j.Append(t.Context(), Event{Type: "x", Data: large}); !fault.Is(err, fault.Invalid) {
		t.Errorf("an event of 2 MiB: %v", err)
	}
	if appended, err := j.Append(t.Context(), Event{Type: "y"}); err != nil || appended[0].Sequence != 1 {
		t.Errorf("%+v, %v", appended, err)
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
