package aws

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/testenv/moto"
)

// image is a volume's content as a test keeps it: the stand-in for the repository.
type image []byte

func (i image) capture(t *testing.T, p providers.Provider, snapshot, base providers.Handle) (read int64) {
	t.Helper()
	var extents []providers.Extent
	err := p.Extents(t.Context(), providers.ExtentsRequest{Snapshot: snapshot, Base: base}, func(some []providers.Extent) error {
		extents = append(extents, some...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = p.Read(t.Context(), providers.ReadRequest{Snapshot: snapshot, Extents: extents}, func(b providers.Block) error {
		clear(i[b.Offset:b.End()])
		copy(i[b.Offset:], b.Data)
		read += int64(len(b.Data))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return read
}

// TestStory is what AWS is there for: three volumes of one instance, chosen by tag, at one instant; only
// changed blocks are read; copied to a second region; the instance made again there. Departures from AWS:
// package moto's doc lists them; content, paging and checksums are those of the stand-in for EBS direct.
func TestStory(t *testing.T) {
	front := needAWS(t)
	front.Content.Settle(2)
	machine, ids := instance(t, front, 3)
	_, strangers := instance(t, front, 1) // its volume has the tag, too, and its own instance
	p := openProvider(t, front, nil)

	found := discover(t, p, providers.Query{Tags: map[string]string{"app": "shop"}, Machine: machine})
	if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, slices.Sorted(slices.Values(ids))) || found[strangers[0]].ID != "" {
		t.Fatalf("by tag and machine there are %q; expected %q", got, ids)
	}
	images := map[string]image{}
	for _, id := range ids {
		front.Content.WriteVolume(id, 0, noise(3<<20))
		images[id] = make(image, testUnit)
	}

	first := snapshotAll(t, p, "full", handlesOf(found, ids))
	for n, id := range ids {
		images[id].capture(t, p, first.Snapshots[n].Handle, providers.Handle{})
	}
	for _, id := range ids { // 4 KiB of one block each
		front.Content.WriteVolume(id, 1<<20+4096, noise(4096))
	}
	truth := map[string][]byte{}
	for _, id := range ids {
		truth[id] = front.Content.ReadVolume(id, 0, testUnit)
	}
	root := rootOf(t, p, machine, ids)
	front.Content.WriteVolume(root.ID, 0, noise(1<<20))
	second := snapshotAll(t, p, "changed", append(handlesOf(found, ids), root.Handle))
	rootTruth := front.Content.ReadVolume(root.ID, 0, testUnit)
	for _, id := range ids {
		front.Content.WriteVolume(id, 0, noise(2<<20)) // after the instant
	}
	read := int64(0)
	for n, id := range ids {
		read += images[id].capture(t, p, second.Snapshots[n].Handle, first.Snapshots[n].Handle)
		if !bytes.Equal(images[id], truth[id]) {
			t.Errorf("%s: the incremental capture is not the volume at the instant", id)
		}
	}
	if read != 3*blockSize {
		t.Errorf("the incremental captures read %d bytes; expected one block a volume: %d", read, 3*blockSize)
	}

	there := openProvider(t, front, map[string]any{"region": away, "zoneMap": map[string]string{zone: away + "a"}})
	restoreThere(t, front, p, there, second.Snapshots[0], images[ids[0]])
	machineThere(t, front, p, there, machine, second.Snapshots[3], rootTruth)
}

func snapshotAll(t *testing.T, p providers.Provider, token string, volumes []providers.Handle) providers.SnapshotSet {
	t.Helper()
	set, err := p.Snapshot(t.Context(), providers.SnapshotRequest{Token: token, Volumes: volumes, Atomic: true, Tags: map[string]string{providers.TagRun: "r1"}})
	if err != nil {
		t.Fatal(err)
	}
	if !set.Atomic || set.Skew != 0 || len(set.Snapshots) != len(volumes) {
		t.Fatalf("the set is %+v", set)
	}
	return set
}

func rootOf(t *testing.T, p providers.Provider, machine string, others []string) providers.Volume {
	t.Helper()
	for id, v := range discover(t, p, providers.Query{Machine: machine}) {
		if !slices.Contains(others, id) {
			return v
		}
	}
	t.Fatal("the instance has no root")
	return providers.Volume{}
}

// restoreThere brings a volume back twice: from a copy of its snapshot, and from the image.
func restoreThere(t *testing.T, front *moto.Front, p, there providers.Provider, s providers.Snapshot, content image) {
	t.Helper()
	ctx, tags := t.Context(), map[string]string{providers.TagRun: "r1"}
	copied := must(p.CopySnapshot(ctx, providers.CopyRequest{Token: "copy", Snapshot: s.Handle, Tags: tags, Target: map[string]string{"region": away, "kmsKey": "arn:aws:kms:" + away + ":123456789012:key/k1"}}))
	if copied.Region != away || copied.VolumeID != s.VolumeID || copied.Parameters["iops"] != "4000" || copied.Parameters["kmsKey"] == "" {
		t.Errorf("the copy is %+v", copied)
	}
	v := must(there.Create(ctx, providers.CreateRequest{Token: "clone", Snapshot: copied.Handle, Content: providers.ContentBlocks, Zone: zone, Tags: tags, Parameters: copied.Parameters}))
	if !bytes.Equal(front.Content.ReadVolume(v.ID, 0, testUnit), content) || v.Zone != away+"a" {
		t.Errorf("the volume of the copy, in %s, differs from the original", v.Zone)
	}
	w := must(there.Write(ctx, providers.WriteRequest{CreateRequest: providers.CreateRequest{
		Token: "write", Content: providers.ContentBlocks, Size: testUnit, Zone: zone, Tags: tags, Parameters: map[string]string{"type": "gp3", "iops": "4000", "throughput": "200"},
	}}, blocksOf(content, 100_000)))
	if !bytes.Equal(front.Content.ReadVolume(w.ID, 0, testUnit), content) {
		t.Error("the volume that was written from the image differs from the original")
	}
	if w.Parameters["iops"] != "4000" || w.Parameters["throughput"] != "200" || w.Parameters["type"] != "gp3" {
		t.Errorf("the written volume has the parameters %v", w.Parameters)
	}
}

// machineThere makes the instance again in the other region.
func machineThere(t *testing.T, front *moto.Front, p, there providers.Provider, machine string, root providers.Snapshot, content []byte) {
	t.Helper()
	ctx, tags := t.Context(), map[string]string{providers.TagRun: "r1"}
	var original providers.Machine
	err := p.DiscoverMachines(ctx, providers.Query{IDs: []string{machine}}, func(m providers.Machine) error {
		original = m
		return nil
	})
	if err != nil || original.Name != "worker-1" || len(original.VolumeIDs) != 4 || original.Parameters["userData"] == "" || original.Parameters["metadataTokens"] != "required" {
		t.Fatalf("the machine is described as %+v: %v", original, err)
	}
	copied := must(p.CopySnapshot(ctx, providers.CopyRequest{Token: "copy-root", Snapshot: root.Handle, Tags: tags, Target: map[string]string{"region": away}}))
	request := providers.MachineRequest{Token: "machine", Name: "worker-1", Root: copied.Handle, Zone: zone, Tags: tags, Parameters: maps.Clone(original.Parameters)}
	delete(request.Parameters, "subnet") // of the lost region
	delete(request.Parameters, "privateIP")
	delete(request.Parameters, "securityGroups")
	made := must(there.CreateMachine(ctx, request))
	if made.State != "running" || made.Zone != away+"a" || made.Parameters["userData"] != original.Parameters["userData"] || made.Parameters["metadataTokens"] != "required" || made.Parameters["type"] != "m5.large" {
		t.Errorf("the machine was made again as %+v", made)
	}
	disk := discover(t, there, providers.Query{Machine: made.ID})
	if len(disk) != 1 || !bytes.Equal(front.Content.ReadVolume(made.VolumeIDs[0], 0, testUnit), content) {
		t.Errorf("its root, of %d volumes, differs from the original's", len(disk))
	}
	if err := there.DeleteSnapshot(ctx, copied.Handle); err == nil || !strings.Contains(err.Error(), "ami-") {
		t.Errorf("the root snapshot of an image was deleted: %v", err)
	}
	if err := there.DeleteMachine(ctx, made.Handle); err != nil {
		t.Fatal(err)
	}
	images := must(front.EC2(away).DescribeImages(ctx, &ec2.DescribeImagesInput{Owners: []string{"self"}, Filters: nil}))
	for _, i := range images.Images {
		if strings.HasPrefix(aws.ToString(i.Name), "muster-") {
			t.Errorf("the image %s stayed behind its machine", aws.ToString(i.Name))
		}
	}
	if err := there.DeleteSnapshot(ctx, copied.Handle); err != nil {
		t.Errorf("the root snapshot of no image any more: %v", err)
	}
}
