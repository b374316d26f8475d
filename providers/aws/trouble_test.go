package aws

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv/moto"
)

// prepared is a snapshot of a volume with blocks at random places, and its content.
func prepared(t *testing.T, front *moto.Front, p providers.Provider) (providers.Snapshot, []byte) {
	t.Helper()
	v := must(p.Create(t.Context(), providers.CreateRequest{Token: "v", Content: providers.ContentBlocks, Size: testUnit, Zone: zone, Tags: map[string]string{providers.TagRun: "r1"}}))
	for _, offset := range []int64{0, 1 << 20, 3 << 20, 4 << 20, 6<<20 + 512} {
		front.Content.WriteVolume(v.ID, offset, noise(700_000))
	}
	set := must(p.Snapshot(t.Context(), providers.SnapshotRequest{Token: "s", Volumes: []providers.Handle{v.Handle}, Tags: map[string]string{providers.TagRun: "r1"}}))
	return set.Snapshots[0], must(front.Content.ReadSnapshot(set.Snapshots[0].ID, 0, testUnit))
}

func readAll(t *testing.T, p providers.Provider, s providers.Snapshot) ([]byte, error) {
	t.Helper()
	content := make([]byte, testUnit)
	err := p.Read(t.Context(), providers.ReadRequest{Snapshot: s.Handle, Extents: []providers.Extent{{Length: testUnit}}}, func(b providers.Block) error {
		copy(content[b.Offset:], b.Data)
		return nil
	})
	return content, err
}

// TestPaging: moto pages nothing of this; the Front and the stand-in do as AWS's reference says, with pages of
// two and, for blocks, empty pages in between.
func TestPaging(t *testing.T) {
	front := needAWS(t)
	p := openProvider(t, front, nil)
	s, content := prepared(t, front, p)
	machine, ids := instance(t, front, 5)
	front.Pages(2, true)
	if n := len(discover(t, p, providers.Query{Machine: machine})); n != len(ids)+1 {
		t.Errorf("%d volumes in pages of two; expected %d", n, len(ids)+1)
	}
	before := front.Count("DescribeVolumes")
	if before < 3 {
		t.Errorf("%d calls for six volumes in pages of two", before)
	}
	read := make(image, testUnit)
	read.capture(t, p, s.Handle, providers.Handle{})
	if !bytes.Equal(read, content) {
		t.Error("what was read in pages of two differs")
	}
	fresh := openProvider(t, front, nil) // which has not listed the blocks before
	if got, err := readAll(t, fresh, s); err != nil || !bytes.Equal(got, content) {
		t.Errorf("a read that lists for itself differs: %v", err)
	}
	v := discover(t, p, providers.Query{IDs: []string{s.VolumeID}})[s.VolumeID]
	front.Content.WriteVolume(v.ID, 0, noise(testUnit))
	next := must(p.Snapshot(t.Context(), providers.SnapshotRequest{Token: "s2", Volumes: []providers.Handle{v.Handle}})).Snapshots[0]
	read.capture(t, p, next.Handle, s.Handle)
	if !bytes.Equal(read, front.Content.ReadVolume(v.ID, 0, testUnit)) {
		t.Error("changed blocks in pages of two differ")
	}
	count := 0
	err := p.ListSnapshots(t.Context(), providers.Query{}, func(providers.Snapshot) error {
		count++
		return nil
	})
	if err != nil || count != 2 {
		t.Errorf("%d snapshots, %v", count, err)
	}
}

func TestThrottling(t *testing.T) {
	front := needAWS(t)
	p := openProvider(t, front, nil)
	s, content := prepared(t, front, p)
	// Both names, and both statuses, are AWS's.
	front.Refuse("GetSnapshotBlock", 3, moto.Refusal{Code: "RequestThrottledException", Message: "slow down", Reason: "RESOURCE_LEVEL_THROTTLE", Status: http.StatusBadRequest})
	front.Refuse("GetSnapshotBlock", 2, moto.Refusal{Code: "ThrottlingException", Message: "Rate exceeded", Status: http.StatusTooManyRequests})
	front.Refuse("DescribeVolumes", 1, moto.Refusal{Code: "RequestLimitExceeded", Message: "Request limit exceeded.", Status: http.StatusServiceUnavailable})
	if got, err := readAll(t, p, s); err != nil || !bytes.Equal(got, content) {
		t.Errorf("a throttled read differs: %v", err)
	}
	if n := len(discover(t, p, providers.Query{})); n != 1 {
		t.Errorf("%d volumes", n)
	}
	front.Refuse("DescribeVolumes", 100, moto.Refusal{Code: "RequestLimitExceeded", Message: "Request limit exceeded.", Status: http.StatusServiceUnavailable})
	err := p.Discover(t.Context(), providers.Query{}, func(providers.Volume) error { return nil })
	wantKind(t, err, fault.Busy, "RequestLimitExceeded", "maxParallel")
}

func TestPace(t *testing.T) {
	p := newPace(8)
	for range 8 {
		if err := p.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	full, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.enter(full); err == nil {
		t.Fatal("a ninth went in")
	}
	p.throttled()
	p.throttled() // of the same round
	if p.limit != 4 {
		t.Errorf("the limit is %v after one round of throttling; expected 4", p.limit)
	}
	for range 4 {
		p.leave()
	}
	if err := p.enter(full); err == nil {
		t.Error("a fifth went in while the limit is 4")
	}
	for range 4 {
		p.leave()
	}
	for range 100 {
		must(0, p.enter(t.Context()))
		p.leave()
	}
	if p.limit != 8 {
		t.Errorf("the limit is %v after a hundred calls; expected 8", p.limit)
	}
}

// TestExpiredCredentials: in the middle of a read they end. The chain is asked again, and gives new ones; or
// does not, and the error says so.
func TestExpiredCredentials(t *testing.T) {
	front := needAWS(t)
	p := openProvider(t, front, nil)
	s, content := prepared(t, front, p)
	var once sync.Once
	front.After(func(c moto.Call) {
		if c.Action != "GetSnapshotBlock" {
			return
		}
		once.Do(func() {
			writeCredentials(t, os.Getenv("AWS_SHARED_CREDENTIALS_FILE"), "lab-renewed")
			front.Expire("lab-access")
		})
	})
	if read, err := readAll(t, p, s); err != nil || !bytes.Equal(read, content) {
		t.Fatalf("credentials that were renewed in the middle: %v", err)
	}
	front.After(nil)
	front.Expire("lab-renewed")
	_, err := readAll(t, p, s)
	wantKind(t, err, fault.Denied, "expired", "log in again")
	err = p.Discover(t.Context(), providers.Query{}, func(providers.Volume) error { return nil })
	wantKind(t, err, fault.Denied, "RequestExpired", "log in again")
}

// TestAssumedRole: a role's session ends in the middle, and the next one is fetched.
func TestAssumedRole(t *testing.T) {
	front := needAWS(t)
	p := openProvider(t, front, map[string]any{"assumeRole": map[string]string{"arn": "arn:aws:iam::210987654321:role/muster-backup", "externalID": "e1", "sessionName": "muster"}})
	health := must(p.Health(t.Context()))
	if health.Fingerprint != "210987654321/"+home {
		t.Errorf("the fingerprint is %q", health.Fingerprint)
	}
	calls := front.Calls()
	front.Expire(calls[len(calls)-1].Access)
	if _, err := p.Health(t.Context()); err != nil {
		t.Errorf("a role whose session has ended: %v", err)
	}
	if n := front.Count("AssumeRole"); n < 2 {
		t.Errorf("the role was assumed %d times", n)
	}
}

func TestNoCredentials(t *testing.T) {
	front := needAWS(t)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", t.TempDir()+"/none")
	err := New(testConfig()).Configure(t.Context(), settingsFor(front, nil))
	wantKind(t, err, fault.Denied)
}

// TestExpiredTokens: moto's tokens never expire; the stand-in's do, as AWS's after seven days.
func TestExpiredTokens(t *testing.T) {
	front := needAWS(t)
	p := openProvider(t, front, nil)
	s, content := prepared(t, front, p)
	read := make(image, testUnit)
	read.capture(t, p, s.Handle, providers.Handle{}) // the tokens are known now
	front.Content.ExpireTokens()
	if got, err := readAll(t, p, s); err != nil || !bytes.Equal(got, content) {
		t.Errorf("after the tokens expired: %v", err)
	}
	seen := 0
	front.After(func(c moto.Call) {
		if c.Action != "GetSnapshotBlock" {
			return
		}
		if seen++; seen == 4 {
			front.Content.ExpireTokens()
		}
	})
	if got, err := readAll(t, openProvider(t, front, map[string]any{"parallel": 2}), s); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the tokens expired in the middle: %v", err)
	}
}

// TestClockSkew: moto looks at no date; the Front refuses what is signed five minutes off.
func TestClockSkew(t *testing.T) {
	front := needAWS(t)
	front.Skew(20 * time.Minute)
	p := openProvider(t, front, nil) // the SDK signs again by AWS's clock
	health := must(p.Health(t.Context()))
	if len(health.Problems) != 1 || !strings.Contains(health.Problems[0], "20m0s behind") {
		t.Errorf("problems: %q", health.Problems)
	}
	front.Refuse("DescribeVolumes", 100, moto.Refusal{Code: "RequestExpired", Message: "Request has expired.", Status: http.StatusBadRequest})
	err := p.Discover(t.Context(), providers.Query{}, func(providers.Volume) error { return nil })
	wantKind(t, err, fault.Denied, "20m0s behind", "chrony")
}

// TestDeletedBySomebody: a snapshot goes while it is read, compared with, copied.
func TestDeletedBySomebody(t *testing.T) {
	front := needAWS(t)
	p := openProvider(t, front, nil)
	s, _ := prepared(t, front, p)
	v := discover(t, p, providers.Query{})[s.VolumeID]
	next := must(p.Snapshot(t.Context(), providers.SnapshotRequest{Token: "s2", Volumes: []providers.Handle{v.Handle}})).Snapshots[0]
	seen := 0
	front.After(func(c moto.Call) {
		if c.Action != "GetSnapshotBlock" {
			return
		}
		if seen++; seen == 3 {
			must(front.EC2(home).DeleteSnapshot(context.Background(), &ec2.DeleteSnapshotInput{SnapshotId: aws.String(s.ID)}))
			front.Content.DropSnapshot(s.ID)
		}
	})
	_, err := readAll(t, openProvider(t, front, map[string]any{"parallel": 1}), s)
	wantKind(t, err, fault.NotFound, "deleted")
	front.After(nil)
	_, err = p.SnapshotOf(t.Context(), s.Handle)
	wantKind(t, err, fault.NotFound)
	err = p.Extents(t.Context(), providers.ExtentsRequest{Snapshot: next.Handle, Base: s.Handle}, func([]providers.Extent) error { return nil })
	wantKind(t, err, fault.NotFound)
	_, err = p.CopySnapshot(t.Context(), providers.CopyRequest{Token: "c", Snapshot: s.Handle, Target: map[string]string{"region": away}})
	wantKind(t, err, fault.NotFound)
	if err := p.DeleteSnapshot(t.Context(), s.Handle); err != nil {
		t.Errorf("delete what is gone: %v", err)
	}
	foreign := must(front.EC2(home).CreateSnapshot(t.Context(), &ec2.CreateSnapshotInput{VolumeId: aws.String(v.ID)}))
	wantKind(t, p.DeleteSnapshot(t.Context(), p.(*provider).home.handle(aws.ToString(foreign.SnapshotId))), fault.Denied, providers.TagRun)
}

// TestAcrossAccounts: the copy is made by a role of the other account; the snapshot is shared meanwhile,
// and no longer. moto copies within an account alone: who may is the Front's.
func TestAcrossAccounts(t *testing.T) {
	front := needAWS(t)
	p := openProvider(t, front, nil)
	s, content := prepared(t, front, p)
	shared := false
	front.After(func(c moto.Call) {
		if c.Action == "CopySnapshot" {
			shared = len(front.Shared(s.ID)) == 1
		}
	})
	target := map[string]string{"region": away, "roleARN": "arn:aws:iam::210987654321:role/muster-copy", "kmsKey": "arn:aws:kms:" + away + ":210987654321:key/k1"}
	request := providers.CopyRequest{Token: "c", Snapshot: s.Handle, Target: target, Tags: map[string]string{providers.TagRun: "r1"}}
	copied := must(p.CopySnapshot(t.Context(), request))
	if !shared || len(front.Shared(s.ID)) != 0 {
		t.Errorf("shared while it is copied: %v; afterwards with %q", shared, front.Shared(s.ID))
	}
	if !bytes.Equal(must(front.Content.ReadSnapshot(copied.ID, 0, testUnit)), content) {
		t.Error("the copy differs")
	}
	if again := must(p.CopySnapshot(t.Context(), request)); again.ID != copied.ID {
		t.Errorf("the same token copied to %s and %s", copied.ID, again.ID)
	}
	// Another process, from the handle alone.
	other := openProvider(t, front, nil)
	if got, err := readAll(t, other, copied); err != nil || !bytes.Equal(got, content) {
		t.Errorf("read of the copy in the other account: %v", err)
	}
	if err := other.DeleteSnapshot(t.Context(), copied.Handle); err != nil {
		t.Error(err)
	}
}

func TestFastRestore(t *testing.T) {
	front := needAWS(t)
	p := openProvider(t, front, map[string]any{"fastRestore": []string{zone, away + "a"}})
	s, _ := prepared(t, front, p)
	if zones := front.Fast(s.ID); len(zones) != 1 || zones[0] != zone {
		t.Errorf("fast snapshot restore is on in %q", zones)
	}
}

// TestFailedWrite: AWS gave the begun snapshot up; the same token begins another.
func TestFailedWrite(t *testing.T) {
	front := needAWS(t)
	p := openProvider(t, front, nil)
	request := providers.WriteRequest{CreateRequest: providers.CreateRequest{Token: "w", Content: providers.ContentBlocks, Size: testUnit, Zone: zone, Tags: map[string]string{providers.TagRun: "r1"}}}
	content := noise(testUnit)
	broken := 0
	_, err := p.Write(t.Context(), request, func() (providers.Block, error) {
		if broken++; broken > 1 {
			return providers.Block{}, fault.Newf("read", fault.Transient, "repository", "gone")
		}
		return providers.NewBlock(0, content[:1<<20]), nil
	})
	wantKind(t, err, fault.Transient, "gone")
	left := front.Content.Snapshots(home)
	if len(left) != 1 {
		t.Fatalf("snapshots: %q", left)
	}
	front.Content.FailSnapshot(left[0])
	v := must(p.Write(t.Context(), request, blocksOf(content, 1<<20)))
	if !bytes.Equal(front.Content.ReadVolume(v.ID, 0, testUnit), content) {
		t.Error("the volume differs")
	}
	if left := front.Content.Snapshots(home); len(left) != 0 {
		t.Errorf("snapshots stayed behind: %q", left)
	}
}

func TestUnrelated(t *testing.T) {
	front := needAWS(t)
	p := openProvider(t, front, nil)
	s, _ := prepared(t, front, p)
	v := must(p.Create(t.Context(), providers.CreateRequest{Token: "v2", Content: providers.ContentBlocks, Size: testUnit, Zone: zone}))
	other := must(p.Snapshot(t.Context(), providers.SnapshotRequest{Token: "s2", Volumes: []providers.Handle{v.Handle}})).Snapshots[0]
	err := p.Extents(t.Context(), providers.ExtentsRequest{Snapshot: other.Handle, Base: s.Handle}, func([]providers.Extent) error { return nil })
	wantKind(t, err, fault.NotFound, "read everything")
}
