// Command demo plays the worst day on one machine: it builds a cluster in the lab with a database that
// is written to all the time, fills it, captures it, destroys every machine, rebuilds it with one command
// and proves what came back.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/scenario"
)

const (
	labName    = "demo"
	resultFile = "build/demo.json"
	workDir    = "build/demo" // repository, key, logs; removed when the demo ends well
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := demo(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// result is build/demo.json.
type result struct {
	Verdict string  `json:"verdict"`
	RPO     float64 `json:"rpoSeconds"`
	RTO     float64 `json:"rtoSeconds"`
	Point   string  `json:"point"`
	Objects int     `json:"objects"`
	// Database tells what the loss cost by the books of the one who wrote into the database until it happened.
	Database scenario.BankLoss `json:"database"`
	Report   scenario.Report   `json:"report"`
	Proofs   []scenario.Proof  `json:"proofs"`
}

func demo(ctx context.Context) (err error) {
	if err := testenv.Remove(ctx, labName); err != nil { // what a crashed demo left
		return err
	}
	dir, err := filepath.Abs(workDir)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	defer func() {
		cleaned := testenv.Remove(context.WithoutCancel(ctx), labName)
		if err == nil {
			cleaned = errors.Join(cleaned, os.RemoveAll(dir))
		} else {
			fmt.Fprintln(os.Stderr, "demo: logs stay in", dir)
		}
		err = errors.Join(err, cleaned)
	}()
	muster, err := filepath.Abs("bin/muster")
	if err != nil {
		return err
	}
	s, err := scenario.New(ctx, scenario.Config{
		Cluster: testenv.Config{Name: labName, ControlPlanes: 1, Workers: 2, Disks: []testenv.Disk{{Name: scenario.Disk, Bytes: 256 << 20}}, Images: []string{testenv.PostgresImage}},
		Size:    scenario.Size(24, 40), Dir: dir, Muster: muster, Out: os.Stdout,
	})
	if err != nil {
		return err
	}
	r, err := play(ctx, s)
	if err != nil {
		return err
	}
	if err := write(r); err != nil {
		return err
	}
	print(r)
	if r.Verdict != "complete" {
		return fmt.Errorf("not everything came back: see %s", resultFile)
	}
	return nil
}

func play(ctx context.Context, s *scenario.Scenario) (result, error) {
	members := s.Members()
	machines := map[string]testenv.Machine{}
	for _, name := range members {
		machines[name] = *s.Lab.State.Machines[name]
	}
	for _, step := range []func(context.Context) error{s.Fill, s.OpenBank, s.Init, s.Capture, s.Destroy} {
		if err := step(ctx); err != nil {
			return result{}, err
		}
	}
	var targets []testenv.Target
	for _, name := range members {
		blank := testenv.Machine{Name: name, Role: testenv.RoleBlank, Disks: machines[name].Disks, Images: machines[name].Images}
		if err := s.Lab.NewMachine(ctx, blank); err != nil {
			return result{}, err
		}
		targets = append(targets, testenv.Target{Machine: name, Role: machines[name].Role})
	}
	report, err := s.Rebuild(ctx, s.Lab, "", targets...)
	if err != nil {
		return result{}, err
	}
	proofs, err := s.Prove(ctx, s.Same(members))
	if err != nil {
		return result{}, err
	}
	more, loss, err := s.ProveBank(ctx)
	if err != nil {
		return result{}, err
	}
	proofs = append(proofs, more...)
	r := result{Verdict: report.Verdict, RPO: report.RPO, RTO: report.RTO, Point: s.Point, Objects: len(s.Before), Database: loss, Report: report, Proofs: proofs}
	for _, p := range proofs {
		if !p.Holds {
			r.Verdict = "incomplete"
		}
	}
	return r, nil
}

func write(r result) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(resultFile), 0o755); err != nil {
		return err
	}
	return os.WriteFile(resultFile, append(raw, '\n'), 0o644)
}

func print(r result) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nSTEP\tSTATE\tTIME")
	for _, step := range r.Report.Steps {
		fmt.Fprintf(w, "%s\t%s\t%s\n", step.ID, step.State, seconds(step.Seconds))
	}
	fmt.Fprintln(w, "\nLAYER\tCAME BACK\tOF\tUNIT\tDIGEST\tNOTE")
	for _, layer := range r.Report.Layers {
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%.12s\t%s\n", layer.Layer, layer.Done, layer.Expected, layer.Unit, layer.Digest, layer.Text)
	}
	fmt.Fprintln(w, "\nPROOF\tEXPECTED\tFOUND\tHOLDS")
	for _, p := range r.Proofs {
		fmt.Fprintf(w, "%s\t%.36s\t%.36s\t%v\n", p.Name, p.Expected, p.Found, p.Holds)
	}
	_ = w.Flush()
	fmt.Printf("\nDatabase: RPO %s, %d of %d acknowledged transactions came back\n", seconds(r.Database.RPO), r.Database.Restored, r.Database.Acknowledged)
	fmt.Printf("RPO %s   RTO %s   verdict: %s\n", seconds(r.RPO), seconds(r.RTO), strings.ToUpper(r.Verdict))
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(100 * time.Millisecond).String()
}
