package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/steps"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/testenv"
)

func etcdSnapshot() benchmark {
	return benchmark{
		name: "etcd-snapshot", unit: "MB/s", against: "etcdctl snapshot save", runs: 3, warm: true,
		how: "One member whose database has about 200 MiB of values, half random, half text. Ours is the step snapshot-etcd, Do and Verify: inspect the members, hash their keys, " +
			"stream into an empty repository (encrypted, compressed), compare the hash at the end, read it all back. The reference streams into a file and checks nothing.",
		prepare: prepareEtcdSnapshot,
	}
}

const (
	etcdValues     = 34_048
	etcdValueBytes = 4 << 10
)

// etcdBench is a filled etcd with TLS.
type etcdBench struct {
	on       *stage
	etcdctl  string
	endpoint string
	cert     string // certificate and authority in one, made by etcd itself
	key      string

	did, verified time.Duration // of the last run
	bytes         int64
}

// startEtcd starts an empty etcd; programs is the folder of its own.
func startEtcd(ctx context.Context, on *stage) (e *etcdBench, programs string, err error) {
	if programs, err = testenv.Programs(ctx, say); err != nil {
		return nil, "", err
	}
	e = &etcdBench{on: on, etcdctl: filepath.Join(programs, "etcdctl")}
	return e, programs, e.start(filepath.Join(programs, "etcd"))
}

func prepareEtcdSnapshot(ctx context.Context, on *stage) (sides, error) {
	e, _, err := startEtcd(ctx, on)
	if err != nil {
		return sides{}, err
	}
	if err := e.fill(ctx); err != nil {
		return sides{}, fmt.Errorf("fill etcd: %w", err)
	}
	return sides{ours: e.ours, reference: e.reference, notes: e.notes}, nil
}

// start starts a member that makes its own certificate.
func (e *etcdBench) start(program string) error {
	ports, err := freePorts(2)
	if err != nil {
		return err
	}
	dir := e.on.fresh("etcd")
	e.endpoint = fmt.Sprintf("https://127.0.0.1:%d", ports[0])
	e.cert, e.key = filepath.Join(dir, "fixtures/client/cert.pem"), filepath.Join(dir, "fixtures/client/key.pem")
	peer := fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	return serve(e.on, program, "--name", "cp-0", "--data-dir", dir, "--auto-tls", "--unsafe-no-fsync",
		"--listen-client-urls", e.endpoint, "--advertise-client-urls", e.endpoint,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "cp-0="+peer)
}

func (e *etcdBench) client(ctx context.Context) (*clientv3.Client, error) {
	for { // the certificate is there when etcd has made it
		if _, err := os.Stat(e.key); err == nil {
			break
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return nil, err
		}
	}
	security, err := transport.TLSInfo{TrustedCAFile: e.cert}.ClientConfig()
	if err != nil {
		return nil, err
	}
	return clientv3.New(clientv3.Config{Endpoints: []string{e.endpoint}, TLS: security, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
}

// fill writes values under keys as the API server's are.
func (e *etcdBench) fill(ctx context.Context) error {
	client, err := e.client(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	const batch = 64
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for first := 0; first < etcdValues; first += batch {
		group.Go(func() error {
			from := newSource(uint64(first))
			var puts []clientv3.Op
			for i := first; i < first+batch; i++ {
				value := string(from.random(etcdValueBytes))
				if i%2 == 0 {
					value = from.text(etcdValueBytes)
				}
				puts = append(puts, clientv3.OpPut(fmt.Sprintf("/registry/widgets/ns-%02d/item-%06d", i%20, i), value))
			}
			_, err := client.Txn(working).Then(puts...).Commit()
			return err
		})
	}
	return group.Wait()
}

func (e *etcdBench) ours(ctx context.Context) (rate float64, err error) {
	v, err := newVault(ctx, e.on)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, v.remove(ctx)) }()
	inventory := &plans.Cluster{Metadata: plans.Metadata{Name: "bench"}, Spec: plans.ClusterSpec{
		Etcd: plans.Etcd{Endpoints: []string{e.endpoint}, CAFile: e.cert, CertFile: e.cert, KeyFile: e.key},
	}}
	at := &orchestrator.Run{ID: "bench", Step: "etcd", Cluster: inventory, Repository: v.Repository, Log: noLog(), Progress: silence{}, Now: time.Now}
	step := &steps.SnapshotEtcd{}
	began := time.Now()
	receipt, err := step.Do(ctx, at, nil)
	if err != nil {
		return 0, err
	}
	e.did = time.Since(began)
	if err := step.Verify(ctx, at, receipt); err != nil {
		return 0, err
	}
	e.verified = time.Since(began) - e.did
	var stored struct {
		Object struct {
			Size int64 `json:"size"`
		} `json:"object"`
	}
	if err := json.Unmarshal(receipt, &stored); err != nil {
		return 0, err
	}
	e.bytes = stored.Object.Size
	return perSecond(e.bytes, e.did+e.verified), nil
}

func (e *etcdBench) reference(ctx context.Context) (float64, error) {
	path := e.on.fresh("snapshot") + ".db"
	c := command(ctx, e.etcdctl, "--endpoints", e.endpoint, "--cacert", e.cert, "snapshot", "save", path)
	began := time.Now()
	if err := run(c); err != nil {
		return 0, err
	}
	took := time.Since(began)
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return perSecond(info.Size(), took), os.Remove(path)
}

func (e *etcdBench) notes() []string {
	return []string{fmt.Sprintf("The snapshot has %s MB. Of Muster's last run, Do took %s s and Verify %s s.",
		figure(float64(e.bytes)/1e6), figure(e.did.Seconds()), figure(e.verified.Seconds()))}
}
