package aws

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/testenv/moto"
)

// job is a call that changes something, made with the same token each time.
type job struct {
	name string
	do   func(ctx context.Context, p providers.Provider, token string) (id string, err error)
}

// TestCutBehindEachCall cancels a job behind its first call of AWS: AWS has carried it out, and nobody
// learns of it. Another process repeats the job by its token: it ends right, and nothing is there twice.
// Then behind the second call, and so on, until the job is not cut any more.
func TestCutBehindEachCall(t *testing.T) {
	front := needAWS(t)
	p := openProvider(t, front, nil)
	s, content := prepared(t, front, p)
	_, ids := instance(t, front, 2)
	pair := handlesOf(discover(t, p, providers.Query{IDs: ids}), ids)
	tags := map[string]string{providers.TagRun: "cut"}
	for _, j := range []job{
		{"create", func(ctx context.Context, p providers.Provider, token string) (string, error) {
			v, err := p.Create(ctx, providers.CreateRequest{Token: token, Content: providers.ContentBlocks, Snapshot: s.Handle, Zone: zone, Tags: tags})
			return v.ID, err
		}},
		{"snapshot", func(ctx context.Context, p providers.Provider, token string) (string, error) {
			set, err := p.Snapshot(ctx, providers.SnapshotRequest{Token: token, Volumes: pair, Tags: tags, Atomic: true})
			if err != nil {
				return "", err
			}
			return set.Snapshots[0].ID + set.Snapshots[1].ID, nil
		}},
		{"copy", func(ctx context.Context, p providers.Provider, token string) (string, error) {
			c, err := p.CopySnapshot(ctx, providers.CopyRequest{Token: token, Snapshot: s.Handle, Target: map[string]string{"region": away}, Tags: tags})
			return c.ID, err
		}},
		{"write", func(ctx context.Context, p providers.Provider, token string) (string, error) {
			v, err := p.Write(ctx, providers.WriteRequest{CreateRequest: providers.CreateRequest{Token: token, Content: providers.ContentBlocks, Size: testUnit, Zone: zone, Tags: tags}}, blocksOf(content[:2<<20], 300_000))
			if err == nil && !bytes.Equal(front.Content.ReadVolume(v.ID, 0, 2<<20), content[:2<<20]) {
				err = fmt.Errorf("%s differs from what was written", v.ID)
			}
			return v.ID, err
		}},
		{"machine", func(ctx context.Context, p providers.Provider, token string) (string, error) {
			m, err := p.CreateMachine(ctx, providers.MachineRequest{Token: token, Name: "cut", Root: s.Handle, Zone: zone, Tags: tags, Parameters: map[string]string{"type": "m5.large"}})
			return m.ID, err
		}},
	} {
		t.Run(j.name, func(t *testing.T) { cutEverywhere(t, front, j) })
	}
}

func cutEverywhere(t *testing.T, front *moto.Front, j job) {
	for n := 1; ; n++ {
		token := fmt.Sprintf("%s-%d", j.name, n)
		ctx, cancel := context.WithCancel(t.Context())
		victim, calls := openProvider(t, front, map[string]any{"parallel": 2}), 0
		front.After(func(moto.Call) {
			if calls++; calls == n {
				cancel()
			}
		})
		_, err := j.do(ctx, victim, token)
		front.After(nil)
		cancel()
		if err == nil && calls < n {
			if n < 3 {
				t.Errorf("the job made %d calls", n-1)
			}
			return
		}
		heir := openProvider(t, front, nil)
		first, err := j.do(t.Context(), heir, token)
		if err != nil {
			t.Fatalf("cut behind call %d, repeated: %v", n, err)
		}
		if again, err := j.do(t.Context(), heir, token); err != nil || again != first {
			t.Errorf("cut behind call %d: %s, then %s: %v", n, first, again, err)
		}
		if made := carrying(t, front, token); len(made) != strings.Count(first, "-") {
			t.Errorf("cut behind call %d of %s: there are %q; expected %s", n, j.name, made, first)
		}
	}
}

// carrying is what carries a token, in both regions, past the provider. A machine's own volumes do not
// count, nor does its image.
func carrying(t *testing.T, front *moto.Front, token string) []string {
	t.Helper()
	var made []string
	for _, region := range []string{home, away} {
		client := front.EC2(region)
		for _, v := range must(client.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{})).Volumes {
			if fromEC2(v.Tags)[providers.TagToken] == token && len(v.Attachments) == 0 {
				made = append(made, aws.ToString(v.VolumeId))
			}
		}
		for _, s := range must(client.DescribeSnapshots(t.Context(), &ec2.DescribeSnapshotsInput{OwnerIds: []string{"self"}})).Snapshots {
			if fromEC2(s.Tags)[providers.TagToken] == token {
				made = append(made, aws.ToString(s.SnapshotId))
			}
		}
		for _, r := range must(client.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{})).Reservations {
			for _, i := range r.Instances {
				if fromEC2(i.Tags)[providers.TagToken] == token {
					made = append(made, aws.ToString(i.InstanceId))
				}
			}
		}
	}
	slices.Sort(made)
	return made
}
