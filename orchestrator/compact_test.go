package orchestrator

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/state/journal"
)

// compactDeaths is how many deaths in the middle of a compaction TestDeathWhileCompacting wants; `make
// crash` asks for more.
func compactDeaths(t *testing.T) int {
	text := os.Getenv("MUSTER_COMPACT_DEATHS")
	if text == "" {
		return 2
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// compactCase is a chain of steps that is long enough to be at work in every death.
func compactCase(dir string) (crashCase, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "steps"))
	if err != nil {
		return crashCase{}, err
	}
	n, err := strconv.Atoi(string(raw))
	c := crashCase{state: RunStateCompleted}
	for i := range n {
		step := fmt.Sprintf("id: s%04d, uses: touch", i)
		if i > 0 {
			step += fmt.Sprintf(", needs: [s%04d]", i-1)
		}
		c.steps = append(c.steps, step)
		c.effects = append(c.effects, fmt.Sprintf("run-1-s%04d", i))
	}
	return c, err
}

// announcer tells on standard output which events were acknowledged.
type announcer struct{ deaf }

func (announcer) Journaled(event journal.Event) { fmt.Println(announced(event)) }

func announced(event journal.Event) string {
	return fmt.Sprintf("EVENT %d %s %s", event.Sequence, event.Type, event.Step)
}

// compactChild hosts the journal, says so, and works on the run once it may.
func compactChild(dir string) int {
	ctx := context.Background()
	w := newWorld(filepath.Join(dir, "world"))
	c, err := compactCase(dir)
	if err == nil {
		err = hostAndRun(ctx, dir, w, c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func hostAndRun(ctx context.Context, dir string, w *world, c crashCase) error {
	r, store, err := openRunner(ctx, filepath.Join(dir, "journal"), w)
	if err != nil {
		return err
	}
	defer store.Close() // every answer was waited for
	r.Observer = announcer{}
	fmt.Println("READY")
	if _, err := io.ReadFull(os.Stdin, make([]byte, 1)); err != nil {
		return err
	}
	return crashRun(ctx, r, w, c)
}

// hosting is the process that is killed.
type hosting struct {
	*exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
	said  strings.Builder
	acked []string
}

func startHosting(t *testing.T, dir string) *hosting {
	t.Helper()
	h := &hosting{Cmd: exec.CommandContext(t.Context(), os.Args[0])}
	h.Env = append(os.Environ(), "MUSTER_TEST_COMPACT_DIR="+dir)
	h.Stderr = &h.said
	out, err := h.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if h.in, err = h.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	h.lines = bufio.NewScanner(out)
	if !h.lines.Scan() || h.lines.Text() != "READY" {
		t.Fatalf("it does not host the journal: %s", h.said.String())
	}
	return h
}

// work lets the process work on the run until so many events were acknowledged, or to its end.
func (h *hosting) work(t *testing.T, events int) {
	t.Helper()
	if _, err := io.WriteString(h.in, "!"); err != nil {
		t.Fatal(err, h.said.String())
	}
	for len(h.acked) != events && h.lines.Scan() {
		h.acked = append(h.acked, h.lines.Text())
	}
}

// kill ends the process as a power cut does, and reads what it had acknowledged by then.
func (h *hosting) kill(t *testing.T) {
	t.Helper()
	if err := h.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for h.lines.Scan() {
		h.acked = append(h.acked, h.lines.Text())
	}
	_ = h.Wait() // the error is the signal
}

// fillHistory makes what a compaction takes its time to remove: etcd removes 1,000 revisions at a time.
func fillHistory(t *testing.T, client *clientv3.Client) {
	t.Helper()
	writers, ctx := errgroup.WithContext(t.Context())
	for writer := range 8 {
		var puts []clientv3.Op
		for i := range 100 {
			puts = append(puts, clientv3.OpPut(fmt.Sprintf("/history/%d/%d", writer, i), "old"))
		}
		writers.Go(func() error {
			for range 30 {
				if _, err := client.Txn(ctx).Then(puts...).Commit(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := writers.Wait(); err != nil {
		t.Fatal(err)
	}
}

// compactionMarks are etcd's own: up to which revision it was to compact, and up to which it has.
func compactionMarks(t *testing.T, dir string) (scheduled, finished uint64) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(dir, "journal", "etcd", "member", "snap", "db"), 0o600, &bbolt.Options{ReadOnly: true, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() // it was only read
	err = db.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket([]byte("meta"))
		if meta == nil {
			return errors.New("etcd's database has no bucket meta")
		}
		scheduled, finished = mark(meta.Get([]byte("scheduledCompactRev"))), mark(meta.Get([]byte("finishedCompactRev")))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return scheduled, finished
}

// mark is the revision of a mark: its first 8 bytes.
func mark(raw []byte) uint64 {
	if len(raw) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(raw)
}

// TestDeathWhileCompacting kills the process that hosts the journal while its etcd compacts its own
// history. etcd's marks prove that deaths were in the middle of it. No acknowledged event is lost, and
// the run comes to its end.
func TestDeathWhileCompacting(t *testing.T) {
	wanted := compactDeaths(t)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "world"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "steps"), strconv.Itoa(60*wanted))
	var acked []string
	middle, tries := 0, 0
	for ; middle < wanted; tries++ {
		if tries > 5*wanted {
			t.Fatalf("%d of %d deaths were in the middle of a compaction, want %d", middle, tries, wanted)
		}
		acked = append(acked, dieCompacting(t, dir, tries)...)
		if scheduled, finished := compactionMarks(t, dir); scheduled > finished {
			middle++
		}
	}
	last := startHosting(t, dir)
	last.work(t, -1)
	if err := last.Wait(); err != nil {
		t.Fatal(err, last.said.String())
	}
	checkAcknowledged(t, dir, append(acked, last.acked...))
	t.Logf("%d deaths, %d of them in the middle of a compaction; %d acknowledged events", tries, middle, len(acked)+len(last.acked))
}

// dieCompacting returns the events that were acknowledged before the death.
func dieCompacting(t *testing.T, dir string, try int) []string {
	t.Helper()
	h := startHosting(t, dir)
	client := embedded(t, filepath.Join(dir, "journal"))
	fillHistory(t, client)
	h.work(t, 4)
	now, err := client.Get(t.Context(), "/history/")
	if err == nil {
		_, err = client.Compact(t.Context(), now.Header.Revision) // answered when it has begun
	}
	if err != nil {
		t.Fatal(err, h.said.String())
	}
	for range try % 4 { // at once, or some events later
		if h.lines.Scan() {
			h.acked = append(h.acked, h.lines.Text())
		}
	}
	h.kill(t)
	return h.acked
}

// checkAcknowledged wants the journal to hold all of these events, and every effect once.
func checkAcknowledged(t *testing.T, dir string, acked []string) {
	t.Helper()
	w := newWorld(filepath.Join(dir, "world"))
	r, store, err := openRunner(t.Context(), filepath.Join(dir, "journal"), w)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close() // every answer was waited for
	c, err := compactCase(dir)
	if err != nil {
		t.Fatal(err)
	}
	if effects := w.effects(t); !slices.Equal(effects, c.effects) {
		t.Errorf("the world holds %d effects, want %d", len(effects), len(c.effects))
	}
	events, verified := map[string]bool{}, map[string]int{}
	for i, event := range eventsOf(t, r) {
		if event.Sequence != int64(i+1) {
			t.Errorf("event %d has sequence %d", i+1, event.Sequence)
		}
		if event.Type == StepVerified {
			verified[event.Step]++
		}
		events[announced(event)] = true
	}
	for _, line := range acked {
		if !events[line] {
			t.Errorf("acknowledged, and lost: %s", line)
		}
	}
	for step, n := range verified {
		if n != 1 {
			t.Errorf("step %s was verified %d times", step, n)
		}
	}
}
