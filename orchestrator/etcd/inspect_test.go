package etcd

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterdr/muster/orchestrator/etcd/etcdtest"
	"github.com/musterdr/muster/providers/fault"
)

func TestInspectDescribesHealthyCluster(t *testing.T) {
	c := etcdtest.New(t, 3).Start(t)
	client := c.Client(t)
	revision := etcdtest.Fill(t, client, "/registry/a/", 50, 100)
	if _, err := client.Compact(t.Context(), revision-10); err != nil {
		t.Fatal(err)
	}
	state, err := Inspect(t.Context(), accessTo(c))
	if err != nil {
		t.Fatal(err)
	}
	if state.Revision != revision || state.HashRevision != revision || state.CompactRevision != revision-10 {
		t.Errorf("revision %d, hash revision %d, compact revision %d; want %d, %d, %d",
			state.Revision, state.HashRevision, state.CompactRevision, revision, revision, revision-10)
	}
	if state.HashKV == 0 || state.RaftIndex < uint64(revision) || state.ClusterID == 0 {
		t.Errorf("hash %x, raft index %d, cluster %x", state.HashKV, state.RaftIndex, state.ClusterID)
	}
	leaders := 0
	for i, m := range state.Members {
		if m.Leader {
			leaders++
		}
		if m.Name != c.Configs[i].Name || m.Endpoint != c.Endpoint(i) || m.PeerURLs[0] != peersOf(c)[i].URL || m.Version == "" || m.DBSize == 0 {
			t.Errorf("member %d: %+v", i, m)
		}
	}
	if leaders != 1 || len(state.Members) != 3 {
		t.Errorf("%d members, %d leaders", len(state.Members), leaders)
	}
	if sources := state.Sources(); sources[0].Leader || sources[1].Leader || !sources[2].Leader {
		t.Errorf("the leader is not the last source: %+v", sources)
	}
}

func TestInspectFindsMembersThatNoEndpointNames(t *testing.T) {
	c := etcdtest.New(t, 3).Start(t)
	access := accessTo(c)
	var dialed atomic.Int64
	access.Endpoints = access.Endpoints[1:2]
	access.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialed.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	state, err := Inspect(t.Context(), access)
	if err != nil {
		t.Fatal(err)
	}
	if len(state.Members) != 3 || dialed.Load() < 3 {
		t.Errorf("%d members reached over %d own connections", len(state.Members), dialed.Load())
	}
}

func TestInspectRefusesMemberThatIsDown(t *testing.T) {
	c := etcdtest.New(t, 3).Start(t)
	c.Stop(2)
	_, err := Inspect(t.Context(), accessTo(c))
	wantFault(t, err, fault.Transient, "member cp-2 does not answer")
	c.Stop(1)
	_, err = Inspect(t.Context(), accessTo(c))
	wantFault(t, err, fault.Transient, "there is no quorum")
}

func TestInspectRefusesForeignCertificates(t *testing.T) {
	c, foreign := etcdtest.New(t, 1).Start(t), etcdtest.NewPKI(t)
	access := accessTo(c)
	access.TLS = foreign.Client
	_, err := Inspect(t.Context(), access)
	wantFault(t, err, fault.Denied, "use the authority that signed the members' certificates")

	access.TLS = c.PKI.Client.Clone()
	access.TLS.Certificates = foreign.Client.Certificates
	_, err = Inspect(t.Context(), access)
	wantFault(t, err, fault.Denied, "use a certificate that the etcd authority signed")
}

func TestInspectRefusesEndpointsOfTwoClusters(t *testing.T) {
	c, other := etcdtest.New(t, 1), etcdtest.New(t, 1)
	other.Configs[0].ClientTLSInfo = c.Configs[0].ClientTLSInfo
	c.Start(t)
	other.Start(t)
	access := accessTo(c)
	access.Endpoints = append(access.Endpoints, other.Endpoint(0))
	_, err := Inspect(t.Context(), access)
	wantFault(t, err, fault.Invalid, "list the members of one cluster alone")
}

func TestInspectRefusesEndpointThatIsNoURL(t *testing.T) {
	for _, endpoint := range []string{"10.0.0.11:2379", "https://10.0.0.11", "::"} {
		_, err := Inspect(t.Context(), Access{Endpoints: []string{endpoint}})
		wantFault(t, err, fault.Invalid, "it is no URL with a host and a port")
	}
}

func TestInspectRefusesLearner(t *testing.T) {
	c := etcdtest.New(t, 1).Start(t)
	learner := etcdtest.FreeURL(t)
	if _, err := c.Client(t).MemberAddAsLearner(t.Context(), []string{learner.String()}); err != nil {
		t.Fatal(err)
	}
	_, err := Inspect(t.Context(), accessTo(c))
	wantFault(t, err, fault.Busy, "is a learner: promote it")
}

func TestInspectRefusesAlarms(t *testing.T) {
	tests := []struct {
		alarm etcdserverpb.AlarmType
		kind  fault.Kind
		text  string
	}{
		{etcdserverpb.AlarmType_NOSPACE, fault.NoSpace, "member cp-0 raised NOSPACE: compact, defragment"},
		{etcdserverpb.AlarmType_CORRUPT, fault.Corrupt, "member cp-0 raised CORRUPT: do not back up from it"},
	}
	for _, tt := range tests {
		t.Run(tt.alarm.String(), func(t *testing.T) {
			c := etcdtest.New(t, 1).Start(t)
			client := c.Client(t)
			request := &etcdserverpb.AlarmRequest{
				Action:   etcdserverpb.AlarmRequest_ACTIVATE,
				MemberID: uint64(c.Members[0].Server.MemberID()),
				Alarm:    tt.alarm,
			}
			if _, err := etcdserverpb.NewMaintenanceClient(client.ActiveConnection()).Alarm(t.Context(), request); err != nil {
				t.Fatal(err)
			}
			_, err := Inspect(t.Context(), accessTo(c))
			wantFault(t, err, tt.kind, tt.text)
		})
	}
}

func TestInspectFindsMemberWithOtherData(t *testing.T) {
	c := etcdtest.New(t, 3).Start(t)
	etcdtest.Fill(t, c.Client(t), "/registry/a/", 20, 100)
	if _, err := Inspect(t.Context(), accessTo(c)); err != nil {
		t.Fatal(err)
	}
	c.Stop(1)
	forge(t, filepath.Join(c.Configs[1].Dir, "member", "snap", "db"))
	c.Begin(t, 1)
	c.Await(t, 1)
	_, err := Inspect(t.Context(), accessTo(c))
	wantFault(t, err, fault.Corrupt, "do not back up from cp-1:")
}

// forge changes one value in a stopped member's database: what a flipped bit or a bug leaves.
func forge(t *testing.T, path string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte("key"))
		key, value := bucket.Cursor().First()
		forged := append([]byte(nil), value...)
		forged[len(forged)-1] ^= 1
		return bucket.Put(append([]byte(nil), key...), forged)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func wantFault(t *testing.T, err error, kind fault.Kind, text string) {
	t.Helper()
	if !fault.Is(err, kind) || !strings.Contains(err.Error(), text) {
		t.Fatalf("got %v error %v, want %v with %q", fault.KindOf(err), err, kind, text)
	}
}

func accessTo(c *etcdtest.Cluster) Access {
	return Access{Endpoints: c.Endpoints(), TLS: c.PKI.Client}
}

func peersOf(c *etcdtest.Cluster) []Peer {
	var peers []Peer
	for _, config := range c.Configs {
		peers = append(peers, Peer{Name: config.Name, URL: config.AdvertisePeerUrls[0].String()})
	}
	return peers
}
