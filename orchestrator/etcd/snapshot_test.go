package etcd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"

	"github.com/musterdr/muster/orchestrator/etcd/etcdtest"
	"github.com/musterdr/muster/orchestrator/etcd/pages"
	"github.com/musterdr/muster/providers/fault"
)

func TestSnapshotUnderWritesIsWhatEtcdutlReads(t *testing.T) {
	c := etcdtest.New(t, 3).Start(t)
	client := c.Client(t)
	etcdtest.Fill(t, client, "/registry/a/", 500, 1000)
	if _, err := client.Compact(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	written := make(chan error, 1)
	go func() {
		defer close(written)
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := client.Put(ctx, "/registry/busy", fmt.Sprint(i)); err != nil && ctx.Err() == nil {
				written <- err
			}
		}
	}()
	state, err := Inspect(t.Context(), accessTo(c))
	if err != nil {
		t.Fatal(err)
	}
	var raw bytes.Buffer
	info, err := Snapshot(t.Context(), accessTo(c), state.Sources()[0].Endpoint, &raw)
	stop()
	if err := errors.Join(err, <-written); err != nil {
		t.Fatal(err)
	}
	contents, err := pages.Read(bytes.NewReader(raw.Bytes()), info.Size)
	if err != nil {
		t.Fatal(err)
	}
	if contents.Revision < state.Revision {
		t.Errorf("the snapshot's revision %d is older than the read %d before it", contents.Revision, state.Revision)
	}
	if info.Size != int64(raw.Len()) || info.Digest != fmt.Sprintf("%x", sha256.Sum256(raw.Bytes()[:raw.Len()-32])) {
		t.Errorf("size %d digest %s of %d bytes", info.Size, info.Digest, raw.Len())
	}
	if fmt.Sprint(contents.Members) != "[cp-0 cp-1 cp-2]" || contents.Compacted != 100 {
		t.Errorf("contents %+v", contents)
	}
	path := filepath.Join(t.TempDir(), "snapshot.db")
	if err := os.WriteFile(path, raw.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	status, err := snapshot.NewV3(zap.NewNop()).Status(path)
	if err != nil {
		t.Fatal(err)
	}
	if status.Revision != contents.Revision {
		t.Errorf("etcdutl reads revision %d, Read %d", status.Revision, contents.Revision)
	}
}

func TestSnapshotPassesOnWriteError(t *testing.T) {
	c := etcdtest.New(t, 1).Start(t)
	full := fault.Newf("write", fault.NoSpace, "disk", "it is full")
	_, err := Snapshot(t.Context(), accessTo(c), c.Endpoint(0), writerFunc(func([]byte) (int, error) { return 0, full }))
	wantFault(t, err, fault.NoSpace, "it is full")
}

func TestSnapshotOfMemberThatIsDown(t *testing.T) {
	c := etcdtest.New(t, 1).Start(t)
	c.Stop(0)
	_, err := Snapshot(t.Context(), accessTo(c), c.Endpoint(0), &bytes.Buffer{})
	wantFault(t, err, fault.Transient, "stream etcd snapshot")
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func sealed(database []byte) []byte {
	sum := sha256.Sum256(database)
	return append(bytes.Clone(database), sum[:]...)
}

func TestCheckComparesHashAtEnd(t *testing.T) {
	whole := sealed(bytes.Repeat([]byte("0123456789abcdef"), 64))
	flipped := bytes.Clone(whole)
	flipped[100] ^= 1
	tests := []struct {
		name string
		raw  []byte
		ok   bool
	}{
		{"whole", whole, true},
		{"flipped bit", flipped, false},
		{"no hash", whole[:len(whole)-32], false},
		{"cut off", whole[:512+32], false},
		{"empty", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			digest, size, err := Check(bytes.NewReader(tt.raw))
			if !tt.ok {
				wantFault(t, err, fault.Corrupt, "check etcd snapshot")
				return
			}
			if err != nil || size != int64(len(tt.raw)) || digest != fmt.Sprintf("%x", tt.raw[len(tt.raw)-32:]) {
				t.Errorf("digest %s, size %d, error %v", digest, size, err)
			}
		})
	}
}

// TestCheckerDoesNotDependOnChunks writes the same snapshot in random pieces: hash and search must
// not miss what falls on a seam.
func TestCheckerDoesNotDependOnChunks(t *testing.T) {
	secret := append([]byte("\x0a\x25/registry/secrets/kube-system/token\x10\x07\x18\x07\x20\x01\x2a\x10"), "k8s:enc:aescbc:v1:key1:"...)
	plain := append([]byte("\x0a\x25/registry/secrets/kube-system/token\x10\x07\x18\x07\x20\x01\x2a\x10"), "k8s\x00\x0a"...)
	other := append([]byte("\x0a\x25/registry/configmaps/default/doc\x10\x07\x18\x07\x20\x01\x2a\x10"), "k8s:enc:aescbc:v1:key1:"...)
	for _, tt := range []struct {
		name  string
		value []byte
		want  bool
	}{{"encrypted", secret, true}, {"plain", plain, false}, {"not a secret", other, false}} {
		t.Run(tt.name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2))
			for range 200 {
				database := make([]byte, 8*512)
				copy(database[random.IntN(len(database)-len(tt.value)):], tt.value)
				raw := sealed(database)
				c := newChecker(&bytes.Buffer{})
				for rest := raw; len(rest) > 0; {
					n := min(len(rest), 1+random.IntN(1+random.IntN(1500)))
					if _, err := c.Write(rest[:n]); err != nil {
						t.Fatal(err)
					}
					rest = rest[n:]
				}
				if _, err := c.sum(); err != nil {
					t.Fatal(err)
				}
				if c.encrypted != tt.want {
					t.Fatalf("encrypted: %v", c.encrypted)
				}
			}
		})
	}
}
