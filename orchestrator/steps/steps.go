// Package steps holds the steps that plans can use, one file each: file, type and ID have the same
// name. All is the list of them; a step exists for plans when it stands there.
package steps

import (
	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/plans"
)

// All lists every step.
func All() []orchestrator.Definition {
	capture := []plans.Purpose{plans.Capture}
	recovery := []plans.Purpose{plans.Recover, plans.Drill}
	all := []plans.Purpose{plans.Capture, plans.Recover, plans.Drill, plans.Migrate}
	return []orchestrator.Definition{
		{ID: "snapshot-etcd", Summary: "store a verified snapshot of etcd", Purposes: capture,
			Layer: "etcd", New: func() orchestrator.Step { return &SnapshotEtcd{} }},
		{ID: "capture-machines", Summary: "store root filesystems and attached devices", Purposes: capture,
			Layer: "machines", New: func() orchestrator.Step { return &CaptureMachines{} }},
		{ID: "capture-volumes", Summary: "snapshot volumes and store what has changed in them", Purposes: capture,
			Layer: "volumes", New: func() orchestrator.Step { return &CaptureVolumes{} }},
		{ID: "copy-snapshots", Summary: "copy kept snapshots to another region, account or cluster", Purposes: capture,
			Layer: "volumes", New: func() orchestrator.Step { return &CopySnapshots{} }},
		{ID: "capture-namespaces", Summary: "store every API object at one exact revision", Purposes: capture,
			Layer: "namespaces", New: func() orchestrator.Step { return &CaptureNamespaces{} }},
		{ID: "backup-databases", Summary: "capture databases with their engines' own tools", Purposes: capture,
			Layer: "databases", New: func() orchestrator.Step { return &BackupDatabases{} }},
		{ID: "archive-logs", Summary: "store what has come to databases' logs of changes", Purposes: capture,
			Layer: "database logs", New: func() orchestrator.Step { return &ArchiveLogs{} }},
		{ID: "seal-recovery-point", Summary: "make one signed recovery point of what was stored", Purposes: capture,
			New: func() orchestrator.Step { return &SealRecoveryPoint{} }},
		{ID: "verify-recovery-point", Summary: "read every content of the recovery point before anything is restored", Purposes: []plans.Purpose{plans.Recover, plans.Drill, plans.Migrate},
			New: func() orchestrator.Step { return &VerifyRecoveryPoint{} }},
		{ID: "provision-machines", Summary: "check that the target machines are reachable and blank", Purposes: recovery,
			Layer: "machines", New: func() orchestrator.Step { return &ProvisionMachines{} }},
		{ID: "restore-machines", Summary: "fill machines with captured root filesystems and devices", Purposes: recovery,
			Layer: "machines", New: func() orchestrator.Step { return &RestoreMachines{} }},
		{ID: "restore-volumes", Summary: "make new volumes from snapshots or from the repository", Purposes: []plans.Purpose{plans.Recover, plans.Drill, plans.Migrate},
			Layer: "volumes", New: func() orchestrator.Step { return &RestoreVolumes{} }},
		{ID: "create-machines", Summary: "make a cloud's machines again, with the volumes that were captured of them", Purposes: []plans.Purpose{plans.Recover, plans.Drill, plans.Migrate},
			Layer: "machines", New: func() orchestrator.Step { return &CreateMachines{} }},
		{ID: "bind-volumes", Summary: "let PersistentVolumes name the restored volumes", Purposes: []plans.Purpose{plans.Recover, plans.Drill, plans.Migrate},
			Layer: "volumes", New: func() orchestrator.Step { return &BindVolumes{} }},
		{ID: "renew-identities", Summary: "give machines their present names, addresses and certificates", Purposes: recovery,
			Layer: "machines", New: func() orchestrator.Step { return &RenewIdentities{} }},
		{ID: "restore-etcd", Summary: "make new etcd members from the snapshot", Purposes: recovery,
			Layer: "etcd", New: func() orchestrator.Step { return &RestoreEtcd{} }},
		{ID: "start-control-plane", Summary: "start control planes and wait for the API servers", Purposes: recovery,
			Layer: "machines", New: func() orchestrator.Step { return &StartControlPlane{} }},
		{ID: "settle-cluster", Summary: "clear what is stale, start workers, wait for nodes and pods", Purposes: recovery,
			Layer: "namespaces", New: func() orchestrator.Step { return &SettleCluster{} }},
		{ID: "replay-namespaces", Summary: "create the API objects in another cluster that already runs", Purposes: []plans.Purpose{plans.Migrate, plans.Drill},
			Layer: "namespaces", New: func() orchestrator.Step { return &ReplayNamespaces{} }},
		{ID: "restore-databases", Summary: "bring databases back with their engines' own tools", Purposes: []plans.Purpose{plans.Recover, plans.Drill, plans.Migrate},
			Layer: "databases", New: func() orchestrator.Step { return &RestoreDatabases{} }},
		{ID: "verify-databases", Summary: "compare every table with the recovery point, and ask the plan's own queries", Purposes: []plans.Purpose{plans.Recover, plans.Drill, plans.Migrate},
			New: func() orchestrator.Step { return &VerifyDatabases{} }},
		{ID: "test-databases", Summary: "restore databases into scratch copies of their servers, and prove what came back", Purposes: all,
			New: func() orchestrator.Step { return &TestDatabases{} }},
		{ID: "verify-cluster", Summary: "compare the living cluster with the recovery point", Purposes: []plans.Purpose{plans.Recover, plans.Drill, plans.Migrate},
			New: func() orchestrator.Step { return &VerifyCluster{} }},
		{ID: "approve", Summary: "wait until somebody decides, or has done something by hand", Purposes: all,
			Waits: true, New: func() orchestrator.Step { return &Approve{} }},
		{ID: "run-command", Summary: "run a program on the runner, on a machine or in a pod", Purposes: all,
			New: func() orchestrator.Step { return &RunCommand{} }},
		{ID: "call-http", Summary: "make an HTTP request and look at the answer", Purposes: all,
			New: func() orchestrator.Step { return &CallHTTP{} }},
		{ID: "wait-for", Summary: "wait until objects, an HTTP answer or a TCP port are as they shall be", Purposes: all,
			Waits: true, New: func() orchestrator.Step { return &WaitFor{} }},
		{ID: "notify", Summary: "send a message to a webhook", Purposes: all,
			New: func() orchestrator.Step { return &Notify{} }},
	}
}
