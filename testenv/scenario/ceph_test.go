package scenario

import (
	"fmt"
	"strings"
	"testing"

	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/ceph"
)

const rbdDriver = "rbd.csi.ceph.com"

// rbdScript mounts images as ceph-csi does, by rbd-fuse and a loop device in place of the kernel's client. It
// notes what it finds in an image before anything is mounted.
const rbdScript = `#!/bin/sh -eu
handle=$2 target=$3
images=/run/rbd-images
if [ "$1" = unpublish ]; then
	if mountpoint -q "$target"; then umount "$target"; fi
	rm -rf "$target"
	exit
fi
image=${ATTR_imageName:-$handle}
[ "${ATTR_staticVolume:-}" != true ] || image=$handle
if ! mountpoint -q "$images"; then mkdir -p "$images"; rbd-fuse -c /run/ceph-client/ceph.conf -p "$ATTR_pool" "$images"; fi
mkdir -p "$target"
if mountpoint -q "$target"; then exit; fi
device=$(losetup --noheadings --output NAME --associated "$images/$image")
if [ -z "$device" ]; then
	sha256sum "$images/$image" | cut -d' ' -f1 >>/run/rbd-found
	[ -e /dev/loop-control ] || mknod /dev/loop-control c 10 237
	for i in $(seq 0 99); do [ -e "/dev/loop$i" ] || mknod "/dev/loop$i" b 7 "$i"; done
	device=$(losetup --find --show "$images/$image")
fi
blkid "$device" >/dev/null || mkfs.ext4 -q -E nodiscard "$device"
mount "$device" "$target"
`

// TestCephVolume loses a cluster and the Ceph that its volumes are on, and brings both back: the image as it
// was in the snapshot, byte for byte, and the pod that goes on writing to it.
func TestCephVolume(t *testing.T) {
	t.Parallel()
	testenv.Need(t)
	must(t, ceph.Install(t.Context()))
	s := volumeScenario(t, testenv.Config{Name: "ceph", ControlPlanes: 1, Workers: 1, Packages: []string{"rbd-fuse"}}, plugins(t, "ceph"))
	l, worker := s.Lab, "ceph-worker-0"
	before := ceph.Need(t, ceph.Config{Address: l.Gateway()})
	_, err := before.RBD(t.Context(), "create", "rbd/ledger", "--size", "64M", "--image-feature", "layering,exclusive-lock,object-map,fast-diff")
	must(t, err)
	s.Storage = storageLine("fast", "ceph", settings(t, map[string]any{"configFile": before.ConfigFile, "pools": []string{ceph.Pool}}))
	must(t, s.Init(t.Context()))
	must(t, s.Run(t.Context(), "pin", nil, "provider", "pin", "ceph", "--yes"))
	must(t, l.StartNodePlugin(t.Context(), worker, rbdPlugin(t, before)))
	writeLedger(t, l, worker, rbdDriver, fmt.Sprintf(`{driver: %s, fsType: ext4, volumeHandle: ledger, volumeAttributes: {clusterID: %s, pool: rbd, imageName: ledger, staticVolume: "true"}}`,
		rbdDriver, before.FSID))

	must(t, s.Run(t.Context(), "capture", nil, "run", "capture"))
	must(t, s.Run(t.Context(), "capture", nil, "run", "capture")) // the second is incremental
	volumes := capturedVolumes(t, s)
	if len(volumes) != 1 || volumes[0].Consistency != "crash-consistent" {
		t.Fatalf("captured: %+v", volumes)
	}
	want := imageDigest(t, before, volumes[0].Snapshot.ID)
	atLoss, err := readLedger(t.Context(), l)
	must(t, err)

	members := s.Members()
	must(t, s.Destroy(t.Context()))
	must(t, before.Close())
	after := ceph.Need(t, ceph.Config{Address: l.Gateway()})
	s.Storage = storageLine("fast", "ceph", settings(t, map[string]any{"configFile": after.ConfigFile, "pools": []string{ceph.Pool}}))
	blankWith(t, l, []string{"rbd-fuse"}, members...)
	must(t, l.StartNodePlugin(t.Context(), worker, rbdPlugin(t, after)))
	report, err := s.Rebuild(t.Context(), l, "", targetsOf(members)...)
	must(t, err)
	if report.Verdict != "complete" {
		t.Errorf("the verdict is %q", report.Verdict)
	}
	found, err := l.Exec(t.Context(), worker, "cat /run/rbd-found", nil)
	must(t, err)
	if lines := strings.Fields(found); lines[len(lines)-1] != want {
		t.Errorf("the restored image's digest is %v, the snapshot's was %s", lines, want)
	}
	entries := awaitLedger(t, l, len(atLoss)+5)
	gapless(t, entries)
}

func rbdPlugin(t *testing.T, c *ceph.Cluster) testenv.NodePlugin {
	t.Helper()
	return testenv.NodePlugin{Driver: rbdDriver, Script: rbdScript, Files: c.ClientFiles()}
}

func imageDigest(t *testing.T, c *ceph.Cluster, image string) string {
	t.Helper()
	digest, err := c.Shell(t.Context(), "rbd export "+image+" - 2>/dev/null | sha256sum | cut -d' ' -f1")
	must(t, err)
	return strings.TrimSpace(digest)
}
