package steps

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/etcd"
	"github.com/musterdr/muster/orchestrator/machine"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

const (
	restoringEtcd = "restore etcd"
	etcdPeerPort  = "2380"
	// etcdOverhead is what a member needs beside its database: two preallocated segments of its log,
	// 64 MiB each.
	etcdOverhead = 128 << 20
)

// RestoreEtcd is the step restore-etcd: for each control-plane machine it makes the data directory of
// a new member from the recovery point's snapshot and puts it there. All members of a run have the
// same token, which no cluster had before, so that none of them can meet a member of the old one.
//
// Each item fetches the snapshot by itself, so that any of them can be tried again alone, in any
// process; it needs twice the snapshot's size in the temporary folder meanwhile.
type RestoreEtcd struct {
	dial etcdDial // nil: over SSH
	temp string   // empty: the system's temporary folder
}

// restoreEtcdReceipt is the receipt of one item of restore-etcd.
type restoreEtcdReceipt struct {
	Machine  string            `json:"machine"`
	Address  string            `json:"address"`
	DataDir  string            `json:"dataDir"`
	Token    string            `json:"token"`
	Snapshot string            `json:"snapshot"` // its SHA-256
	Revision int64             `json:"revision"` // the snapshot's
	Bump     uint64            `json:"bump"`     // added to it
	Bytes    int64             `json:"bytes"`
	Files    map[string]string `json:"files"` // path below the data directory → SHA-256
}

// etcdMember is one target machine, with its member to be.
type etcdMember struct {
	machine plans.Machine
	layer   repository.EtcdLayer
	point   repository.Point
	host    etcdHost
	place   etcdPlace
}

// Items are the control-plane machines of the Machines document.
func (s *RestoreEtcd) Items(_ context.Context, run *orchestrator.Run) ([]string, error) {
	var names []string
	for _, m := range etcdMachines(run.Machines.Spec.Machines) {
		names = append(names, m.Name)
	}
	if len(names) == 0 {
		return nil, fault.Newf(restoringEtcd, fault.Invalid, run.Machines.Metadata.Name, "no machine has the role control-plane: give it to one or three")
	}
	return names, nil
}

// Check looks for the snapshot in the recovery point and for room here, and that no target machine
// holds data of etcd.
func (s *RestoreEtcd) Check(ctx context.Context, run *orchestrator.Run) error {
	names, err := s.Items(ctx, run)
	if err != nil {
		return err
	}
	for _, name := range names {
		member, err := s.open(ctx, run, name)
		if err != nil {
			return err
		}
		err = cmp.Or(member.refuse(ctx), s.refuseSmallDisk(member.layer.Snapshot.Size))
		closeEtcdHost(run, member.host)
		if err != nil {
			return err
		}
	}
	return nil
}

// open reads the manifest, logs in to the machine and looks where the data directory is.
func (s *RestoreEtcd) open(ctx context.Context, run *orchestrator.Run, name string) (*etcdMember, error) {
	point, err := run.Repository.Point(ctx, run.Point)
	if err != nil {
		return nil, err
	}
	manifest, err := run.Repository.Manifest(ctx, point)
	if err != nil {
		return nil, err
	}
	if manifest.Etcd == nil {
		return nil, fault.Newf(restoringEtcd, fault.NotFound, point.ID, "the recovery point holds no etcd snapshot: choose another, or use replay-namespaces")
	}
	m, err := etcdMachine(run, name)
	if err != nil {
		return nil, err
	}
	dial := s.dial
	if dial == nil {
		dial = dialEtcdHost
	}
	host, err := dial(ctx, m, run.Machines.Spec.SSH)
	if err != nil {
		return nil, err
	}
	member := &etcdMember{machine: m, layer: *manifest.Etcd, point: point, host: host}
	if member.place, err = findEtcdPlace(ctx, host, run.ID, name); err != nil {
		closeEtcdHost(run, host)
		return nil, err
	}
	return member, nil
}

func etcdMachine(run *orchestrator.Run, name string) (plans.Machine, error) {
	for _, m := range etcdMachines(run.Machines.Spec.Machines) {
		if m.Name == name {
			return m, nil
		}
	}
	return plans.Machine{}, fault.Newf(restoringEtcd, fault.NotFound, name, "no control-plane machine of the Machines document has this name")
}

// refuse reports why nothing may be written to the machine; nil when this run may.
func (m *etcdMember) refuse(ctx context.Context) error {
	found, err := m.place.look(ctx, m.host)
	if err != nil {
		return err
	}
	return found.refuse(m.machine.Name, m.place.dataDir, m.layer.Snapshot.Size+etcdOverhead)
}

// Do restores one member, unless it is there already from an earlier try of this run.
func (s *RestoreEtcd) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	member, err := s.open(ctx, run, run.Item)
	if err != nil {
		return nil, err
	}
	defer closeEtcdHost(run, member.host)
	found, err := member.place.look(ctx, member.host)
	if err != nil {
		return nil, err
	}
	receipt := member.receipt(run)
	if found.state == etcdRestored {
		receipt.Files, err = member.place.files(ctx, member.host)
	} else {
		receipt.Files, err = s.restore(ctx, run, member, receipt)
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(receipt)
}

func (m *etcdMember) receipt(run *orchestrator.Run) restoreEtcdReceipt {
	return restoreEtcdReceipt{
		Machine: m.machine.Name, Address: m.machine.Address, DataDir: m.place.dataDir,
		Token: "muster-" + run.ID, Snapshot: m.layer.Snapshot.SHA256, Bytes: m.layer.Snapshot.Size,
		Revision: m.layer.Revision, Bump: etcd.Bump(m.layer.RaftIndex),
	}
}

// restore does what can be refused first, then what needs only this host, and touches the machine last.
func (s *RestoreEtcd) restore(ctx context.Context, run *orchestrator.Run, member *etcdMember, receipt restoreEtcdReceipt) (map[string]string, error) {
	if err := cmp.Or(member.refuse(ctx), s.refuseSmallDisk(member.layer.Snapshot.Size)); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp(s.temp, "muster-etcd-")
	if err != nil {
		return nil, fault.New(restoringEtcd, fault.Internal, s.temp, err)
	}
	defer os.RemoveAll(work) // a temporary folder; the system clears what is left
	snapshot := filepath.Join(work, etcdSnapshotFile)
	run.Progress.Status("fetching the snapshot")
	if err := fetchEtcdSnapshot(ctx, run, member, snapshot); err != nil {
		return nil, err
	}
	run.Progress.Status("restoring member " + member.machine.Name)
	dataDir := filepath.Join(work, "data")
	err = etcd.Restore(ctx, etcd.RestoreConfig{
		Snapshot: snapshot, DataDir: dataDir, Name: member.machine.Name, Peers: etcdPeers(run.Machines),
		Token: receipt.Token, Bump: receipt.Bump,
	})
	if err != nil {
		return nil, err
	}
	run.Progress.Status("sending it to " + member.machine.Name)
	return member.place.send(ctx, member.host, dataDir, run.Progress)
}

// etcdPeers are the members of the new cluster, at kubeadm's peer URLs.
func etcdPeers(machines *plans.Machines) []etcd.Peer {
	var peers []etcd.Peer
	for _, m := range etcdMachines(machines.Spec.Machines) {
		peers = append(peers, etcd.Peer{Name: m.Name, URL: "https://" + net.JoinHostPort(m.Address, etcdPeerPort)})
	}
	return peers
}

// fetchEtcdSnapshot copies the snapshot to a local file, and compares it with the signed manifest.
func fetchEtcdSnapshot(ctx context.Context, run *orchestrator.Run, member *etcdMember, path string) error {
	want := member.layer.Snapshot
	reader, err := run.Repository.OpenPath(ctx, member.point, want.Path)
	if err != nil {
		return err
	}
	defer reader.Close() // it was only read
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fault.New(restoringEtcd, fault.Internal, path, err)
	}
	run.Progress.Total(2*want.Size, 1) // once to here, once to the machine
	hashed := newEtcdHash(file)
	_, err = io.Copy(hashed, etcdCountedReader{ctx, reader, run.Progress})
	if err := cmp.Or(err, file.Close()); err != nil {
		return fault.New(restoringEtcd, etcdWriteKind(err), path, err)
	}
	if digest := hashed.digest(); digest != want.SHA256 {
		return fault.Newf(restoringEtcd, fault.Corrupt, want.Path,
			"its SHA-256 is %s, the manifest says %s: restore another recovery point; nothing was changed", digest, want.SHA256)
	}
	return nil
}

// refuseSmallDisk looks for room for the snapshot and the data directory made from it.
func (s *RestoreEtcd) refuseSmallDisk(size int64) error {
	dir := cmp.Or(s.temp, os.TempDir())
	free, err := etcdFreeBytes(dir)
	if err != nil {
		return err
	}
	if need := 2*size + etcdOverhead; free < need {
		return fault.Newf(restoringEtcd, fault.NoSpace, dir, "%d MiB are free, %d are needed: make room, or set TMPDIR", free>>20, need>>20)
	}
	return nil
}

// Verify compares every file on the machine with what was sent.
func (s *RestoreEtcd) Verify(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	var r restoreEtcdReceipt
	if err := json.Unmarshal(receipt, &r); err != nil {
		return fault.New("verify restored etcd", fault.Corrupt, "receipt", err)
	}
	member, err := s.open(ctx, run, r.Machine)
	if err != nil {
		return err
	}
	defer closeEtcdHost(run, member.host)
	found, err := member.place.look(ctx, member.host)
	if err != nil {
		return err
	}
	if found.state != etcdRestored {
		return fault.Newf("verify restored etcd", fault.NotFound, r.Machine, "%s holds no member of this run", r.DataDir)
	}
	files, err := member.place.files(ctx, member.host)
	if err != nil {
		return err
	}
	if !maps.Equal(files, r.Files) {
		return fault.Newf("verify restored etcd", fault.Corrupt, r.Machine, "%s does not hold what was sent: files %q, sent %q",
			r.DataDir, slices.Sorted(maps.Keys(files)), slices.Sorted(maps.Keys(r.Files)))
	}
	return nil
}

// Undo empties the data directory that this run filled. It refuses while kubelet could run etcd on it.
func (s *RestoreEtcd) Undo(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	var r restoreEtcdReceipt
	if err := json.Unmarshal(receipt, &r); err != nil {
		return fault.New("undo restore of etcd", fault.Corrupt, "receipt", err)
	}
	return s.empty(ctx, run, r.Machine)
}

// Abandon implements orchestrator.Abandoner: a data directory that was filled in part is marked as this
// run's, too.
func (s *RestoreEtcd) Abandon(ctx context.Context, run *orchestrator.Run) error {
	return s.empty(ctx, run, run.Item)
}

// empty removes the member of this run from a machine, if there is one.
func (s *RestoreEtcd) empty(ctx context.Context, run *orchestrator.Run, name string) error {
	member, err := s.open(ctx, run, name)
	if err != nil {
		return err
	}
	defer closeEtcdHost(run, member.host)
	found, err := member.place.look(ctx, member.host)
	if err != nil || !found.ours() {
		return err
	}
	if found.kubelet {
		return fault.Newf("undo restore of etcd", fault.Busy, name, "kubelet runs: stop it first (systemctl stop kubelet)")
	}
	return member.host.Run(ctx, machine.Command{Script: member.place.clearScript()})
}

// Summarize implements orchestrator.Summarizer.
func (s *RestoreEtcd) Summarize(receipt orchestrator.Receipt) (orchestrator.Summary, error) {
	var r restoreEtcdReceipt
	if err := json.Unmarshal(receipt, &r); err != nil {
		return orchestrator.Summary{}, fault.New("summarize restored etcd", fault.Corrupt, "receipt", err)
	}
	return orchestrator.Summary{
		Layer: "etcd", Unit: "members", Expected: 1, Done: 1, Bytes: r.Bytes, Digest: r.Snapshot,
		Text: fmt.Sprintf("revision %d, raised by %d", r.Revision, r.Bump),
	}, nil
}

// Left implements orchestrator.Leaver.
func (s *RestoreEtcd) Left(receipt orchestrator.Receipt) string {
	var r restoreEtcdReceipt
	_ = json.Unmarshal(receipt, &r) // an unreadable receipt names nothing
	return fmt.Sprintf("a new etcd member in %s on %s; there: systemctl stop kubelet, then empty that folder", r.DataDir, r.Machine)
}
