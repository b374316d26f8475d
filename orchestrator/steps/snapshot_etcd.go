package steps

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"time"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/orchestrator/etcd"
	"github.com/musterdr/muster/orchestrator/etcd/pages"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

const (
	etcdClientPort   = "2379"
	etcdSnapshotFile = "snapshot.db"
	etcdSnapshotPath = "etcd/" + etcdSnapshotFile

	etcdKubernetesTimeout = 10 * time.Second
)

// The files of kubeadm that give access to etcd, and those whose fingerprints go with a snapshot.
const (
	etcdCAPath           = "/etc/kubernetes/pki/etcd/ca.crt"
	etcdClientCertPath   = "/etc/kubernetes/pki/apiserver-etcd-client.crt"
	etcdClientKeyPath    = "/etc/kubernetes/pki/apiserver-etcd-client.key"
	etcdClusterCAPath    = "/etc/kubernetes/pki/ca.crt"
	etcdFrontProxyCAPath = "/etc/kubernetes/pki/front-proxy-ca.crt"
	etcdAccountKeyPath   = "/etc/kubernetes/pki/sa.pub"
)

// SnapshotEtcd is the step snapshot-etcd: it streams a snapshot of one healthy member into the
// repository, and records what a restore has to know about the cluster it was taken from.
type SnapshotEtcd struct {
	dial etcdDial // nil: over SSH
}

// snapshotEtcdReceipt is the receipt of snapshot-etcd.
type snapshotEtcdReceipt struct {
	Layer  repository.EtcdLayer `json:"layer"`
	Tree   repository.Tree      `json:"tree"` // holds snapshot.db
	Object repository.Object    `json:"object"`
}

// etcdIdentity is what stands beside etcd on a control-plane machine.
type etcdIdentity struct {
	fingerprint repository.Fingerprints
	encryption  bool
	kubernetes  string
}

// Check inspects the members.
func (s *SnapshotEtcd) Check(ctx context.Context, run *orchestrator.Run) error {
	host, err := s.connect(ctx, run)
	if err != nil {
		return err
	}
	defer closeEtcdHost(run, host)
	access, err := etcdAccess(ctx, run.Cluster, host)
	if err != nil {
		return err
	}
	_, err = etcd.Inspect(ctx, access)
	return err
}

// Do takes the snapshot, unless an earlier try left a good one.
func (s *SnapshotEtcd) Do(ctx context.Context, run *orchestrator.Run, prior orchestrator.Receipt) (orchestrator.Receipt, error) {
	if prior != nil && s.Verify(ctx, run, prior) == nil {
		return prior, nil
	}
	host, err := s.connect(ctx, run)
	if err != nil {
		return nil, err
	}
	defer closeEtcdHost(run, host)
	access, err := etcdAccess(ctx, run.Cluster, host)
	if err != nil {
		return nil, err
	}
	run.Progress.Status("comparing the members")
	state, err := etcd.Inspect(ctx, access)
	if err != nil {
		return nil, err
	}
	identity, err := identifyEtcd(ctx, run, host)
	if err != nil {
		return nil, err
	}
	receipt, err := takeEtcdSnapshot(ctx, run, access, state)
	if err != nil {
		return nil, err
	}
	receipt.Layer.Kubernetes = identity.kubernetes
	receipt.Layer.Fingerprint = identity.fingerprint
	receipt.Layer.Encryption = receipt.Layer.Encryption || identity.encryption
	return json.Marshal(receipt)
}

// connect logs in to the first control-plane machine that lets it; nil when the inventory has none.
func (s *SnapshotEtcd) connect(ctx context.Context, run *orchestrator.Run) (etcdHost, error) {
	dial := s.dial
	if dial == nil {
		dial = dialEtcdHost
	}
	var failed error
	for _, m := range etcdMachines(run.Cluster.Spec.Machines) {
		host, err := dial(ctx, m, run.Cluster.Spec.SSH)
		if err == nil {
			return host, nil
		}
		failed = cmp.Or(failed, err)
		run.Log.WarnContext(ctx, "control-plane machine does not answer, trying the next", "machine", m.Name, "error", err)
	}
	return nil, failed
}

func closeEtcdHost(run *orchestrator.Run, host etcdHost) {
	if host == nil {
		return
	}
	if err := host.Close(); err != nil {
		run.Log.Warn("the connection to a control-plane machine did not end well", "error", err)
	}
}

// etcdAccess tells how to reach the members: by the Cluster document, or by what a control-plane
// machine has. Keys that come from there stay in memory.
func etcdAccess(ctx context.Context, document *plans.Cluster, host etcdHost) (etcd.Access, error) {
	const op = "reach etcd"
	settings := document.Spec.Etcd
	read := func(path string) ([]byte, error) { return readEtcdFile(op, path) }
	paths := []string{settings.CAFile, settings.CertFile, settings.KeyFile}
	if !slices.ContainsFunc(paths, func(path string) bool { return path != "" }) {
		if host == nil {
			return etcd.Access{}, fault.Newf(op, fault.Invalid, document.Metadata.Name,
				"the Cluster document names neither etcd's certificate files (spec.etcd.caFile, certFile, keyFile) nor a control-plane machine to fetch them from")
		}
		paths = []string{etcdCAPath, etcdClientCertPath, etcdClientKeyPath}
		read = func(path string) ([]byte, error) { return host.ReadFile(ctx, path) }
	}
	config, err := etcdTLS(paths, read)
	if err != nil {
		return etcd.Access{}, err
	}
	endpoints := slices.Clone(settings.Endpoints)
	if len(endpoints) == 0 {
		for _, m := range etcdMachines(document.Spec.Machines) {
			endpoints = append(endpoints, "https://"+net.JoinHostPort(m.Address, etcdClientPort))
		}
	}
	return etcd.Access{Endpoints: endpoints, TLS: config}, nil
}

func readEtcdFile(op, path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(op, fault.NotFound, path, err)
	}
	if err != nil {
		return nil, fault.New(op, fault.Denied, path, err)
	}
	return raw, nil
}

// etcdTLS builds the client's side of TLS from authority, certificate and key, in this order. Errors
// name files only: what stands in them is secret.
func etcdTLS(paths []string, read func(path string) ([]byte, error)) (*tls.Config, error) {
	const op = "reach etcd"
	var content [3][]byte
	for i, path := range paths {
		if path == "" {
			return nil, fault.Newf(op, fault.Invalid, "", "spec.etcd needs caFile, certFile and keyFile together, or none of them")
		}
		raw, err := read(path)
		if err != nil {
			return nil, err
		}
		content[i] = raw
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content[0]) {
		return nil, fault.Newf(op, fault.Invalid, paths[0], "it holds no certificate in PEM form")
	}
	pair, err := tls.X509KeyPair(content[1], content[2])
	if err != nil {
		return nil, fault.Newf(op, fault.Invalid, paths[1], "it is no certificate that belongs to the key %s", paths[2])
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, Certificates: []tls.Certificate{pair}}, nil
}

// identifyEtcd reads what stands beside etcd. Without a control-plane machine in the inventory it is
// not to be had, which the report says.
func identifyEtcd(ctx context.Context, run *orchestrator.Run, host etcdHost) (etcdIdentity, error) {
	var out etcdIdentity
	if host == nil {
		run.Progress.Report(orchestrator.Finding{
			Severity: orchestrator.Info, Layer: "etcd", Subject: "cluster " + run.Cluster.Metadata.Name,
			Text: "its document lists no control-plane machine: fingerprints of the PKI are not recorded, and encryption at rest is known from stored Secrets alone",
		})
		out.kubernetes = askEtcdKubernetesVersion(ctx, run)
		return out, nil
	}
	raw, err := host.ReadFile(ctx, etcdAPIServerManifestPath)
	if err != nil {
		return out, err
	}
	pod, err := parseEtcdStaticPod(etcdAPIServerManifestPath, raw)
	if err != nil {
		return out, err
	}
	_, out.encryption = pod.flags["encryption-provider-config"]
	out.kubernetes = cmp.Or(askEtcdKubernetesVersion(ctx, run), pod.tag())
	out.fingerprint, err = fingerprintPKI(ctx, host)
	return out, err
}

func fingerprintPKI(ctx context.Context, host etcdHost) (out repository.Fingerprints, err error) {
	for path, into := range map[string]*string{
		etcdClusterCAPath: &out.ClusterCA, etcdCAPath: &out.EtcdCA,
		etcdFrontProxyCAPath: &out.FrontProxyCA, etcdAccountKeyPath: &out.ServiceAccount,
	} {
		raw, err := host.ReadFile(ctx, path)
		if fault.Is(err, fault.NotFound) {
			continue // an authority that stands elsewhere leaves no file
		}
		if err != nil {
			return out, err
		}
		if *into, err = etcdFingerprint(path, raw); err != nil {
			return out, err
		}
	}
	return out, nil
}

// askEtcdKubernetesVersion asks the API server. It returns nothing when that does not answer: etcd can
// be backed up without, and the manifest of the API server tells the version too.
func askEtcdKubernetesVersion(ctx context.Context, run *orchestrator.Run) string {
	version, err := etcdKubernetesVersion(ctx, run.Cluster.Spec)
	if err != nil {
		run.Log.WarnContext(ctx, "the API server does not tell its version", "error", err)
	}
	return version
}

func etcdKubernetesVersion(ctx context.Context, spec plans.ClusterSpec) (string, error) {
	client, err := cluster.Connect(cluster.Access{KubeconfigFile: spec.KubeconfigFile, Context: spec.Context})
	if err != nil {
		return "", err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, etcdKubernetesTimeout)
	defer cancel()
	raw, err := client.Kubernetes().Discovery().RESTClient().Get().AbsPath("/version").Do(ctx).Raw()
	if err != nil {
		return "", err
	}
	var answer struct {
		GitVersion string `json:"gitVersion"`
	}
	err = json.Unmarshal(raw, &answer)
	return answer.GitVersion, err
}

// takeEtcdSnapshot asks one member after the other until a snapshot is intact and not older than
// what a linearizable read saw before.
func takeEtcdSnapshot(ctx context.Context, run *orchestrator.Run, access etcd.Access, state etcd.State) (snapshotEtcdReceipt, error) {
	var failed error
	for _, member := range state.Sources() {
		run.Progress.Status("streaming from " + member.Name)
		run.Progress.Total(member.DBSize, 1)
		receipt, err := streamEtcdSnapshot(ctx, run, access, state, member)
		if err == nil {
			return receipt, nil
		}
		if kind := fault.KindOf(err); ctx.Err() != nil || kind != fault.Transient && kind != fault.Busy && kind != fault.Corrupt {
			return receipt, err
		}
		failed = cmp.Or(failed, err)
		run.Log.WarnContext(ctx, "no snapshot from this member, trying the next", "member", member.Name, "error", err)
	}
	return snapshotEtcdReceipt{}, failed
}

func streamEtcdSnapshot(ctx context.Context, run *orchestrator.Run, access etcd.Access, state etcd.State, member etcd.Member) (snapshotEtcdReceipt, error) {
	var receipt snapshotEtcdReceipt
	taken := run.Now().UTC() // not later than the instant of the revision: RPO is counted from here
	info, object, err := pipeEtcdSnapshot(ctx, run, access, member.Endpoint)
	if err != nil {
		return receipt, err
	}
	tree, err := run.Repository.PutTree(ctx, []repository.File{{Path: etcdSnapshotFile, Object: object, Mode: 0o600, ModTime: taken}})
	if err != nil {
		return receipt, err
	}
	if err := run.Repository.Flush(ctx); err != nil { // before the receipt, which promises that it is there
		return receipt, err
	}
	contents, err := readEtcdObject(ctx, run.Repository, object)
	if err != nil {
		return receipt, err
	}
	if err := compareEtcdContents(contents, state, member); err != nil {
		return receipt, err
	}
	run.Progress.Add(0, 1)
	receipt = snapshotEtcdReceipt{Layer: etcdLayer(state, member), Tree: tree, Object: object}
	receipt.Layer.Snapshot = repository.Content{Path: etcdSnapshotPath, Size: object.Size, SHA256: object.SHA256}
	receipt.Layer.Taken, receipt.Layer.Revision = taken, contents.Revision
	receipt.Layer.Encryption = info.Encrypted
	return receipt, nil
}

// pipeEtcdSnapshot streams from a member into the repository; nothing of it touches a disk here.
func pipeEtcdSnapshot(ctx context.Context, run *orchestrator.Run, access etcd.Access, endpoint string) (etcd.SnapshotInfo, repository.Object, error) {
	type streamed struct {
		info etcd.SnapshotInfo
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reader, writer := io.Pipe()
	done := make(chan streamed, 1)
	go func() {
		info, err := etcd.Snapshot(ctx, access, endpoint, countedEtcd{writer, run.Progress})
		_ = writer.CloseWithError(err) // never fails; a broken stream must not look like a short one
		done <- streamed{info, err}
	}()
	object, err := run.Repository.Put(ctx, etcdSnapshotPath, reader)
	_ = reader.CloseWithError(cmp.Or(err, io.ErrClosedPipe)) // never fails; lets the stream end when Put gave up
	result := <-done
	if err != nil {
		return result.info, object, err
	}
	if result.err != nil {
		return result.info, object, result.err
	}
	if object.Size != result.info.Size {
		return result.info, object, fault.Newf("store etcd snapshot", fault.Corrupt, endpoint,
			"the repository holds %d bytes of %d", object.Size, result.info.Size)
	}
	return result.info, object, nil
}

// countedEtcd tells progress what passes.
type countedEtcd struct {
	io.Writer
	progress orchestrator.Progress
}

// Write implements io.Writer.
func (c countedEtcd) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.progress.Add(int64(n), 0)
	return n, err
}

func readEtcdObject(ctx context.Context, from *repository.Repository, object repository.Object) (pages.Contents, error) {
	reader, err := from.Open(ctx, object.ID)
	if err != nil {
		return pages.Contents{}, err
	}
	defer reader.Close() // it was only read
	return pages.Read(reader, object.Size)
}

// compareEtcdContents refuses a snapshot that misses what clients were told is durable, or that is
// of another membership than the one inspected.
func compareEtcdContents(contents pages.Contents, state etcd.State, member etcd.Member) error {
	const op = "check etcd snapshot"
	if contents.Revision < state.Revision {
		return fault.Newf(op, fault.Transient, "member "+member.Name,
			"its snapshot has revision %d, older than %d that was read before: the member lags", contents.Revision, state.Revision)
	}
	var names []string
	for _, m := range state.Members {
		names = append(names, m.Name)
	}
	slices.Sort(names)
	if !slices.Equal(names, contents.Members) {
		return fault.Newf(op, fault.Busy, "member "+member.Name,
			"its snapshot knows the members %q, the cluster has %q: the membership was changed meanwhile", contents.Members, names)
	}
	return nil
}

func etcdLayer(state etcd.State, source etcd.Member) repository.EtcdLayer {
	layer := repository.EtcdLayer{
		RaftIndex: state.RaftIndex, Version: source.Version, ClusterID: fmt.Sprintf("%x", state.ClusterID),
		HashKV: state.HashKV, HashRev: state.HashRevision,
	}
	for _, m := range state.Members {
		layer.Members = append(layer.Members, repository.EtcdMember{
			ID: fmt.Sprintf("%x", m.ID), Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs,
			Version: m.Version, DBSize: m.DBSize, Healthy: true, // Inspect refuses any other
		})
	}
	return layer
}

// Verify reads the whole snapshot back out of the repository.
func (s *SnapshotEtcd) Verify(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	const op = "verify etcd snapshot"
	var r snapshotEtcdReceipt
	if err := json.Unmarshal(receipt, &r); err != nil {
		return fault.New(op, fault.Corrupt, "receipt", err)
	}
	reader, err := run.Repository.Open(ctx, r.Object.ID)
	if err != nil {
		return err
	}
	defer reader.Close() // it was only read
	if _, size, err := etcd.Check(reader); err != nil || size != r.Layer.Snapshot.Size {
		return cmp.Or(err, fault.Newf(op, fault.Corrupt, etcdSnapshotPath, "it has %d bytes and not %d", size, r.Layer.Snapshot.Size))
	}
	contents, err := pages.Read(reader, r.Object.Size)
	if err != nil {
		return err
	}
	if contents.Revision != r.Layer.Revision {
		return fault.Newf(op, fault.Corrupt, etcdSnapshotPath, "its revision is %d and not %d", contents.Revision, r.Layer.Revision)
	}
	return nil
}

// Undo has nothing to remove: what no recovery point names is removed by the repository's maintenance.
func (s *SnapshotEtcd) Undo(context.Context, *orchestrator.Run, orchestrator.Receipt) error {
	return nil
}

// Summarize implements orchestrator.Summarizer.
func (s *SnapshotEtcd) Summarize(receipt orchestrator.Receipt) (orchestrator.Summary, error) {
	var r snapshotEtcdReceipt
	if err := json.Unmarshal(receipt, &r); err != nil {
		return orchestrator.Summary{}, fault.New("summarize etcd snapshot", fault.Corrupt, "receipt", err)
	}
	members := int64(len(r.Layer.Members))
	return orchestrator.Summary{
		Layer: "etcd", Unit: "members", Expected: members, Done: members,
		Bytes: r.Layer.Snapshot.Size, Digest: r.Layer.Snapshot.SHA256,
		Text: fmt.Sprintf("revision %d at %s", r.Layer.Revision, r.Layer.Taken.Format(time.RFC3339)),
	}, nil
}
