package steps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

const sealing = "seal recovery point"

// SealRecoveryPoint is the step seal-recovery-point: it gathers what the run's capture steps left,
// and makes of it one recovery point with a signed manifest. What is not sealed is no recovery point.
type SealRecoveryPoint struct{}

// sealReceipt is the receipt of seal-recovery-point.
type sealReceipt struct {
	Point   string    `json:"point"`
	Instant time.Time `json:"instant"`
	Skew    float64   `json:"skewSeconds"`
	Files   int       `json:"files"`
	Bytes   int64     `json:"bytes"`
}

// sealSource is where receipts come from. *orchestrator.Run is one.
type sealSource interface {
	ReceiptOf(kind string, into any) (bool, error)
	ItemReceipts(kind string) map[string]orchestrator.Receipt
}

// Check has nothing to look at: what there is to seal is known when the capture has ended.
func (s *SealRecoveryPoint) Check(_ context.Context, run *orchestrator.Run) error {
	if run.Cluster == nil {
		return fault.Newf(sealing, fault.Invalid, run.Step, "the plan names no cluster")
	}
	for _, kind := range []string{"snapshot-etcd", "capture-namespaces"} {
		if run.Ambiguous(kind) {
			return fault.Newf(sealing, fault.Invalid, run.Step, "a recovery point holds one %s: the plan has several, or fans it out", kind)
		}
	}
	return nil
}

// Do seals. A try that died after sealing left a point that carries the run's ID: it is found again.
func (s *SealRecoveryPoint) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	return s.seal(ctx, run, run)
}

func (s *SealRecoveryPoint) seal(ctx context.Context, run *orchestrator.Run, source sealSource) (orchestrator.Receipt, error) {
	manifest, subtrees, err := sealLayers(source)
	if err != nil {
		return nil, err
	}
	manifest.Version, manifest.Cluster = repository.ManifestVersion, run.Cluster.Metadata.Name
	manifest.Run, manifest.Plan, manifest.PlanDigest = run.ID, run.Plan, run.PlanDigest
	manifest.Created = run.Now().UTC()
	manifest.Instant, manifest.SkewSeconds = sealInstant(manifest)
	if manifest.ID, err = sealPointID(ctx, run, manifest); err != nil {
		return nil, err
	}
	point, err := run.Repository.Seal(ctx, manifest, subtrees)
	if err != nil {
		return nil, err
	}
	return json.Marshal(sealReceipt{
		Point: point.ID, Instant: manifest.Instant, Skew: manifest.SkewSeconds, Files: point.Files, Bytes: point.Bytes,
	})
}

// sealLayers reads the receipts of the capture steps.
func sealLayers(source sealSource) (repository.Manifest, []repository.Subtree, error) {
	var manifest repository.Manifest
	var subtrees []repository.Subtree
	for _, gather := range []func(sealSource, *repository.Manifest) ([]repository.Subtree, error){sealEtcd, sealMachines, sealNamespaces, sealVolumes, sealDatabases, sealLogs} {
		more, err := gather(source, &manifest)
		if err != nil {
			return manifest, nil, err
		}
		subtrees = append(subtrees, more...)
	}
	if len(subtrees) == 0 {
		return manifest, nil, fault.Newf(sealing, fault.Invalid, "", "no step of this plan has captured anything: give it capture steps and let this one need them")
	}
	if manifest.Etcd != nil && manifest.Namespaces != nil && manifest.Etcd.Revision != manifest.Namespaces.Revision {
		return manifest, nil, fault.Newf(sealing, fault.Corrupt, "", "the namespaces were listed at revision %d, the etcd snapshot has %d: they are not one instant; run the capture again",
			manifest.Namespaces.Revision, manifest.Etcd.Revision)
	}
	return manifest, subtrees, nil
}

func sealEtcd(source sealSource, into *repository.Manifest) ([]repository.Subtree, error) {
	var receipt snapshotEtcdReceipt
	found, err := source.ReceiptOf("snapshot-etcd", &receipt)
	if err != nil {
		return nil, fault.New(sealing, fault.Corrupt, "receipt of snapshot-etcd", err)
	}
	if !found {
		return nil, nil
	}
	into.Etcd = &receipt.Layer
	return []repository.Subtree{{Path: "etcd", Tree: receipt.Tree}}, nil
}

func sealMachines(source sealSource, into *repository.Manifest) ([]repository.Subtree, error) {
	var subtrees []repository.Subtree
	receipts := source.ItemReceipts("capture-machines")
	for _, name := range slices.Sorted(maps.Keys(receipts)) {
		var receipt struct {
			Layer repository.MachineLayer `json:"layer"`
			Tree  repository.Tree         `json:"tree"`
		}
		if err := json.Unmarshal(receipts[name], &receipt); err != nil {
			return nil, fault.New(sealing, fault.Corrupt, "receipt of capture-machines "+name, err)
		}
		into.Machines = append(into.Machines, receipt.Layer)
		subtrees = append(subtrees, repository.Subtree{Path: "machines/" + receipt.Layer.Name, Tree: receipt.Tree})
	}
	return subtrees, nil
}

func sealNamespaces(source sealSource, into *repository.Manifest) ([]repository.Subtree, error) {
	var receipt struct {
		Layer repository.NamespacesLayer `json:"layer"`
		Trees []struct {
			Path string          `json:"path"`
			Tree repository.Tree `json:"tree"`
		} `json:"trees"`
		Index repository.Object `json:"index"`
	}
	found, err := source.ReceiptOf("capture-namespaces", &receipt)
	if err != nil {
		return nil, fault.New(sealing, fault.Corrupt, "receipt of capture-namespaces", err)
	}
	if !found {
		return nil, nil
	}
	into.Namespaces = &receipt.Layer
	subtrees := []repository.Subtree{{Path: receipt.Layer.Index.Path, File: &receipt.Index}}
	for _, part := range receipt.Trees {
		subtrees = append(subtrees, repository.Subtree{Path: part.Path, Tree: part.Tree})
	}
	return subtrees, nil
}

// sealInstant is the moment the point stands for, and the seconds between its first and last layer.
func sealInstant(m repository.Manifest) (time.Time, float64) {
	var times []time.Time
	if m.Etcd != nil {
		times = append(times, m.Etcd.Taken)
	}
	if m.Namespaces != nil {
		times = append(times, m.Namespaces.Taken)
	}
	instants := len(times)
	for _, machine := range m.Machines {
		times = append(times, machine.Taken)
	}
	for _, volume := range m.Volumes {
		times = append(times, volume.Instant)
	}
	for _, database := range m.Databases {
		times = append(times, database.Taken)
	}
	for _, logs := range m.DatabaseLogs {
		times = append(times, logs.Taken)
	}
	first, last := slices.MinFunc(times, time.Time.Compare), slices.MaxFunc(times, time.Time.Compare)
	instant := times[0]
	if instants == 0 {
		instant = first // a point of machines and volumes alone is as old as the oldest of them
	}
	return instant.UTC(), last.Sub(first).Seconds()
}

// sealPointID names the point after its instant. Another run's point of the same second takes
// nothing away from this one: the run's ID tells them apart. It is the same at every try.
func sealPointID(ctx context.Context, run *orchestrator.Run, manifest repository.Manifest) (string, error) {
	points, err := run.Repository.Points(ctx)
	if err != nil {
		return "", err
	}
	id := manifest.Cluster + "-" + manifest.Instant.Format("20060102T150405Z")
	for _, point := range points {
		if point.ID != id {
			continue
		}
		sealed, err := run.Repository.Manifest(ctx, point)
		if err != nil {
			return "", err
		}
		if sealed.Run != run.ID {
			return id + "-" + run.ID, nil
		}
	}
	return id, nil
}

// Verify opens the sealed point: its signature, and every file the manifest names.
func (s *SealRecoveryPoint) Verify(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	var r sealReceipt
	if err := json.Unmarshal(receipt, &r); err != nil {
		return fault.New("verify recovery point", fault.Corrupt, "receipt", err)
	}
	point, err := run.Repository.Point(ctx, r.Point)
	if err != nil {
		return err
	}
	manifest, err := run.Repository.Manifest(ctx, point)
	if err != nil {
		return err
	}
	if manifest.Run != run.ID {
		return fault.Newf("verify recovery point", fault.Corrupt, point.ID, "run %s sealed it", manifest.Run)
	}
	for _, content := range sealedContents(manifest) {
		if err := verifySealed(ctx, run.Repository, point, content); err != nil {
			return err
		}
	}
	return nil
}

// sealedContents lists the files that a manifest names.
func sealedContents(m repository.Manifest) []repository.Content {
	var out []repository.Content
	if m.Etcd != nil {
		out = append(out, m.Etcd.Snapshot)
	}
	if m.Namespaces != nil {
		out = append(out, m.Namespaces.Index)
	}
	for _, machine := range m.Machines {
		out = append(out, machine.Rootfs)
		for _, device := range machine.Devices {
			out = append(out, device.Image)
		}
	}
	for _, volume := range m.Volumes {
		if volume.Image != nil {
			out = append(out, volume.Image.Image, volume.Image.Chunks)
		}
		if volume.Files != nil {
			out = append(out, volume.Files.Archive, volume.Files.Index)
		}
	}
	for _, database := range m.Databases {
		for _, part := range database.Parts {
			out = append(out, part.Content)
		}
		if database.Digests != nil {
			out = append(out, *database.Digests)
		}
	}
	for _, logs := range m.DatabaseLogs {
		for _, log := range logs.Logs {
			out = append(out, log.Content)
		}
	}
	return out
}

func verifySealed(ctx context.Context, from *repository.Repository, point repository.Point, want repository.Content) error {
	reader, err := from.OpenPath(ctx, point, want.Path)
	if err != nil {
		return err
	}
	defer reader.Close() // it was only read
	if reader.Size() != want.Size {
		return fault.Newf("verify recovery point", fault.Corrupt, want.Path, "it has %d bytes, the manifest says %d", reader.Size(), want.Size)
	}
	return nil
}

// Undo deletes the point; the content goes with the repository's next maintenance.
func (s *SealRecoveryPoint) Undo(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	var r sealReceipt
	if err := json.Unmarshal(receipt, &r); err != nil {
		return fault.New("undo recovery point", fault.Corrupt, "receipt", err)
	}
	points, err := run.Repository.Points(ctx)
	if err != nil {
		return err
	}
	for _, point := range points {
		if point.ID == r.Point {
			return run.Repository.Delete(ctx, point)
		}
	}
	return nil
}

// Abandon implements orchestrator.Abandoner: a point's manifest names the run that sealed it.
func (s *SealRecoveryPoint) Abandon(ctx context.Context, run *orchestrator.Run) error {
	points, err := run.Repository.Points(ctx)
	if err != nil {
		return err
	}
	var problems []error
	for _, point := range points {
		if !strings.HasPrefix(point.ID, run.Cluster.Metadata.Name+"-") {
			continue
		}
		manifest, err := run.Repository.Manifest(ctx, point)
		if err == nil && manifest.Run == run.ID {
			err = run.Repository.Delete(ctx, point)
		}
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// Summarize implements orchestrator.Summarizer.
func (s *SealRecoveryPoint) Summarize(receipt orchestrator.Receipt) (orchestrator.Summary, error) {
	var r sealReceipt
	if err := json.Unmarshal(receipt, &r); err != nil {
		return orchestrator.Summary{}, fault.New("summarize recovery point", fault.Corrupt, "receipt", err)
	}
	return orchestrator.Summary{
		Layer: "recovery point", Unit: "points", Expected: 1, Done: 1, Bytes: r.Bytes,
		Text: fmt.Sprintf("%s, skew %.1fs", r.Point, r.Skew),
	}, nil
}

// Sealed implements orchestrator.Sealer.
func (s *SealRecoveryPoint) Sealed(receipt orchestrator.Receipt) (orchestrator.Sealed, error) {
	var r sealReceipt
	if err := json.Unmarshal(receipt, &r); err != nil {
		return orchestrator.Sealed{}, fault.New("read recovery point", fault.Corrupt, "receipt", err)
	}
	return orchestrator.Sealed{Point: r.Point, Instant: r.Instant}, nil
}

// Left implements orchestrator.Leaver.
func (s *SealRecoveryPoint) Left(receipt orchestrator.Receipt) string {
	var r sealReceipt
	_ = json.Unmarshal(receipt, &r) // an unreadable receipt names nothing
	return fmt.Sprintf("recovery point %s; delete it with: muster points delete %[1]s --yes", r.Point)
}
