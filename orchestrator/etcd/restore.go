package etcd

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/musterdr/muster/orchestrator/etcd/pages"
	"github.com/musterdr/muster/providers/fault"
)

const restoring = "restore etcd snapshot"

// leastBump is what OpenShift's procedure bumps by when it knows no raft index: as many changes as
// a busy cluster makes in years.
const leastBump = 1_000_000_000

// Bump returns by how much to raise the revision of a snapshot. The lost cluster may have gone on
// after the snapshot, and no client may see a revision twice. Each change is at least one raft entry,
// so OpenShift's 1.2 × the highest raft index covers another fifth of the cluster's whole past; a
// young cluster can do more than that after its snapshot, which the least bump covers.
func Bump(raftIndex uint64) uint64 {
	const most = 1 << 60 // far from the end of int64, in which etcd counts
	raftIndex = min(raftIndex, most)
	return min(max(leastBump, raftIndex+raftIndex/5), most)
}

// Peer is one member of the new cluster.
type Peer struct {
	Name string
	URL  string // https://10.0.0.11:2380
}

// RestoreConfig says what becomes of a snapshot.
type RestoreConfig struct {
	Snapshot string // path of the file, with its hash at the end
	DataDir  string // must not exist or be empty: becomes the member's data directory
	Name     string // the member's, one of Peers
	Peers    []Peer // all members of the new cluster, this one too
	// Token must be the same for all members of the new cluster and differ from that of any cluster
	// before: member and cluster IDs derive from it, so that old members can never join.
	Token string
	// Bump raises the revision, and all before is marked compacted, so that watches from the old
	// cluster's time are told to list again. Zero is Invalid.
	Bump uint64
}

// Restore makes a member's data directory from a snapshot, as `etcdutl snapshot restore
// --bump-revision --mark-compacted` does, then reads it back. The snapshot's hash is checked first:
// Corrupt. A data directory that is not empty is refused: Exists. When it fails later, what it made
// is left for the caller to remove. It can't be interrupted.
func Restore(ctx context.Context, config RestoreConfig) error {
	if err := ctx.Err(); err != nil {
		return fault.New(restoring, fault.Transient, config.Name, err)
	}
	if config.Bump == 0 || config.Token == "" {
		return fault.Newf(restoring, fault.Invalid, config.Name, "a bump and a token of its own are needed")
	}
	if err := refuseContent(config.DataDir); err != nil {
		return err
	}
	old, err := readFile(config.Snapshot)
	if err != nil {
		return err
	}
	if err := runRestore(config); err != nil {
		return err
	}
	restored, err := readFile(filepath.Join(config.DataDir, "member", "snap", "db"))
	if err != nil {
		return err
	}
	if restored.Revision <= old.Revision || restored.Compacted != restored.Revision {
		return fault.Newf(restoring, fault.Internal, config.Name, "its revision is %d, compacted up to %d, after %d in the snapshot",
			restored.Revision, restored.Compacted, old.Revision)
	}
	return nil
}

func refuseContent(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fault.New(restoring, fault.Internal, dir, err)
	}
	if len(entries) > 0 {
		return fault.Newf(restoring, fault.Exists, dir, "the data directory is not empty: move its content away, if nobody needs it any more")
	}
	return nil
}

func readFile(path string) (pages.Contents, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return pages.Contents{}, fault.New(restoring, fault.NotFound, path, err)
	}
	if err != nil {
		return pages.Contents{}, fault.New(restoring, fault.Internal, path, err)
	}
	defer f.Close() // it was only read
	info, err := f.Stat()
	if err != nil {
		return pages.Contents{}, fault.New(restoring, fault.Internal, path, err)
	}
	return pages.Read(f, info.Size())
}

// runRestore calls etcdutl's library. It reports through its logger what it can't go on with, and
// then panics or exits: the logger given here panics in both cases, which becomes an error.
func runRestore(config RestoreConfig) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fault.Newf(restoring, fault.Corrupt, config.Snapshot, "etcd can't open the database in it: %v", r)
		}
	}()
	var own []string
	var all []string
	for _, peer := range config.Peers {
		all = append(all, peer.Name+"="+peer.URL)
		if peer.Name == config.Name {
			own = append(own, peer.URL)
		}
	}
	log := zap.New(zapcore.NewNopCore(), zap.WithFatalHook(zapcore.WriteThenPanic))
	err = snapshot.NewV3(log).Restore(snapshot.RestoreConfig{
		SnapshotPath:        config.Snapshot,
		Name:                config.Name,
		OutputDataDir:       config.DataDir,
		PeerURLs:            own,
		InitialCluster:      strings.Join(all, ","),
		InitialClusterToken: config.Token,
		RevisionBump:        config.Bump,
		MarkCompacted:       true,
	})
	if err == nil {
		return nil
	}
	return fault.New(restoring, kindOfRestore(err), config.Name, err)
}

// kindOfRestore tells what etcdutl's untyped errors mean.
func kindOfRestore(err error) fault.Kind {
	switch text := err.Error(); {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.NoSpace
	case strings.HasPrefix(text, "expected sha256"), strings.HasPrefix(text, "snapshot missing hash"):
		return fault.Corrupt
	case errors.As(err, new(*fs.PathError)):
		return fault.Internal
	}
	return fault.Invalid
}
