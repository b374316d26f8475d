package database

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator/secret"
	"github.com/musterdr/muster/orchestrator/shell"
	"github.com/musterdr/muster/plans"
)

// deaf is a place that signs of life don't reach.
type deaf struct{ shell.Place }

func (d deaf) Run(ctx context.Context, script shell.Script) (int, error) {
	if script.Text == beatScript {
		return 0, errors.New("the connection is broken")
	}
	return d.Place.Run(ctx, script)
}

// pulseServer is a server of an engine without scripts of its own. TMPDIR keeps folders of scripts apart.
func pulseServer(t *testing.T, place shell.Place, token string) *Server {
	t.Helper()
	s, err := NewServer(ServerConfig{Database: plans.Database{Name: "x"}, Place: place, Mask: secret.NewMask(), Token: token})
	if err != nil {
		t.Fatal(err)
	}
	s.pulse.every, s.pulse.deadAfter = 500*time.Millisecond, 2*time.Second
	return s
}

// folderOf waits for the folder of a running script that wrote its mark there.
func folderOf(t *testing.T, told io.Reader) string {
	t.Helper()
	line := make([]byte, 4096)
	n, err := told.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(line[:n]))
}

func TestScriptEndsWithoutASignOfLife(t *testing.T) {
	t.Parallel()
	s := pulseServer(t, deaf{shell.Runner{}}, rand.Text())
	began := time.Now()
	err := s.run(t.Context(), call{op: "wait", script: "sleep 600 & wait"})
	if err == nil || !strings.Contains(err.Error(), "143") && !strings.Contains(err.Error(), "137") {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
}

func TestScriptLivesWhileThereAreSigns(t *testing.T) {
	t.Parallel()
	s := pulseServer(t, shell.Runner{}, rand.Text())
	if err := s.run(t.Context(), call{op: "wait", script: "sleep 5"}); err != nil {
		t.Error(err)
	}
}

// TestNextTryEndsTheOneBefore has a script of one try go on while the next try of the same task begins: its
// connection broke unseen.
func TestNextTryEndsTheOneBefore(t *testing.T) {
	t.Parallel()
	token := rand.Text()
	first, next, other := pulseServer(t, shell.Runner{}, token), pulseServer(t, shell.Runner{}, token), pulseServer(t, shell.Runner{}, rand.Text())
	from, to := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- first.run(t.Context(), call{op: "wait", script: `echo "$MUSTER_DIR"; sleep 600`, stdout: to})
	}()
	folder := folderOf(t, from)
	for _, harmless := range []*Server{other, first} {
		if err := harmless.run(t.Context(), call{op: "nothing", script: ":"}); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(folder, "pid")); err != nil {
			t.Fatalf("a script of another task, or of the same try, ended it: %v", err)
		}
	}
	if err := next.run(t.Context(), call{op: "nothing", script: ":"}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("it ended well")
	}
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("its folder is there: %v", err)
	}
}
