package steps

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

// VerifyCluster compares the living cluster with the recovery point, object by object.
type VerifyCluster struct {
	// Mode is rebuild (UIDs are equal; the default) or replay.
	Mode cluster.Mode `yaml:"mode,omitempty"`
	// Wait bounds the wait for controllers to settle; 0 means two minutes.
	Wait plans.Duration `yaml:"wait,omitempty"`
}

const (
	verifyWait   = 2 * time.Minute
	verifyPeriod = 2 * time.Second
)

// Check refuses an unknown mode.
func (s *VerifyCluster) Check(context.Context, *orchestrator.Run) error {
	if s.Mode != "" && s.Mode != cluster.ModeRebuild && s.Mode != cluster.ModeReplay {
		return fault.Newf("check mode", fault.Invalid, string(s.Mode), "want rebuild or replay")
	}
	return nil
}

// Do compares until both sides are equal, or the wait is over: then every difference is reported as
// lost, and the run does not count as complete.
func (s *VerifyCluster) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	wait := time.Duration(s.Wait)
	if wait == 0 {
		wait = verifyWait
	}
	until, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	ticker := time.NewTicker(verifyPeriod)
	defer ticker.Stop()
	for {
		found, err := s.compare(ctx, run)
		if err != nil {
			return nil, err
		}
		if found.Same() {
			return json.Marshal(found)
		}
		run.Progress.Status(fmt.Sprintf("%d of %d objects are as they were", found.Equal+found.Excused, found.Expected))
		select {
		case <-ticker.C:
		case <-until.Done():
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			reportDifferences(run, found)
			return json.Marshal(found)
		}
	}
}

func (s *VerifyCluster) compare(ctx context.Context, run *orchestrator.Run) (cluster.Comparison, error) {
	client, err := clusterClient(ctx, run)
	if err != nil {
		return cluster.Comparison{}, err
	}
	defer client.Close()
	mode := s.Mode
	if mode == "" {
		mode = cluster.ModeRebuild
	}
	var replay replayReceipt // compare what was replayed, and no more
	if _, err := run.ReceiptOf("replay-namespaces", &replay); err != nil {
		return cluster.Comparison{}, fault.New("read receipt", fault.Corrupt, "replay-namespaces", err)
	}
	recorded, done, err := recordedIn(ctx, run, replay.EtcdSnapshot, client)
	if err != nil {
		return cluster.Comparison{}, err
	}
	defer done()
	var bound boundVolumes
	if _, err := run.ReceiptOf("bind-volumes", &bound); err != nil {
		return cluster.Comparison{}, fault.New("read receipt", fault.Corrupt, "bind-volumes", err)
	}
	config := cluster.CompareConfig{Client: client, Recorded: recorded, Mode: mode, Rebound: bound.names(), Reclassed: bound.Claims,
		Selection: replay.Selection, Transform: replay.Transform}
	if replay.Outcomes.ID != "" {
		if config.Outcomes, err = readOutcomes(ctx, run.Repository, replay.Outcomes.ID); err != nil {
			return cluster.Comparison{}, err
		}
	}
	return cluster.Compare(ctx, config)
}

func reportDifferences(run *orchestrator.Run, found cluster.Comparison) {
	for _, d := range found.Differences {
		text := d.What
		if len(d.Fields) > 0 {
			text += ": " + strings.Join(d.Fields, ", ")
		}
		severity := orchestrator.Lost
		if d.What == "extra" {
			severity = orchestrator.Changed
		}
		run.Progress.Report(orchestrator.Finding{Severity: severity, Layer: "namespaces", Subject: d.Key, Text: text})
	}
}

// Verify has nothing to add: Do looked at the world.
func (s *VerifyCluster) Verify(context.Context, *orchestrator.Run, orchestrator.Receipt) error {
	return nil
}

// Undo does nothing: Do changed nothing.
func (s *VerifyCluster) Undo(context.Context, *orchestrator.Run, orchestrator.Receipt) error {
	return nil
}

// Summarize counts the objects that are as they were.
func (s *VerifyCluster) Summarize(receipt orchestrator.Receipt) (orchestrator.Summary, error) {
	var r cluster.Comparison
	err := json.Unmarshal(receipt, &r)
	return orchestrator.Summary{
		Layer: "namespaces", Unit: "objects", Expected: int64(r.Expected), Done: int64(r.Equal + r.Excused), Digest: r.Living,
		Text: fmt.Sprintf("%d equal, %d excused by rule, %d missing, %d different, %d extra", r.Equal, r.Excused, r.Missing, r.Different, r.Extra),
	}, err
}
