package scenario

import (
	"fmt"
	"strings"
	"testing"

	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/gluster"
)

const glusterDriver = "org.gluster.glusterfs"

// glusterScript mounts volumes as Gluster's CSI driver did.
const glusterScript = `#!/bin/sh -eu
target=$3
if [ "$1" = unpublish ]; then
	if mountpoint -q "$target"; then umount "$target"; fi
	rm -rf "$target"
	exit
fi
mkdir -p "$target"
if mountpoint -q "$target"; then exit; fi
mount -t glusterfs "$ATTR_glusterserver:/$ATTR_glustervol" "$target"
`

// archive is a folder tree whose content, owners, modes, times and links a digest stands for.
const (
	makeTree = `cd "$0"; mkdir -p tree/a/b; for i in $(seq 50); do echo "page $i" >tree/a/page-$i; done
chown 1000:2000 tree/a/page-7; chmod 4750 tree/a/page-8; ln tree/a/page-1 tree/a/b/again; ln -s ../page-2 tree/a/b/other; touch -d '2001-02-03 04:05:06' tree/a/page-9`
	digestTree = `cd "$0/tree"; { find . -printf '%P %m %U %G %y %n %l\n' | sort; find . -type f -printf '%P %T@\n' | cut -d. -f1,2 | sort; find . -type f | sort | xargs sha256sum; } | sha256sum | cut -d' ' -f1`
)

// TestGlusterVolume loses a cluster and both peers that its volume is on, and brings them back: every file as it
// was, and the pod that goes on writing.
func TestGlusterVolume(t *testing.T) {
	t.Parallel()
	testenv.Need(t)
	must(t, testenv.Install(t.Context(), "glusterfs-client", "attr"))
	s := volumeScenario(t, testenv.Config{Name: "glust", ControlPlanes: 1, Workers: 1, Packages: []string{"glusterfs-client"}}, plugins(t, "gluster"))
	l, worker, peers := s.Lab, "glust-worker-0", []string{"glust-a", "glust-b"}
	pool, err := gluster.Up(t.Context(), l, 1<<30, peers...)
	must(t, err)
	_, err = pool.CLI(t.Context(), "volume", "create", "books", "replica", "2", pool.Peers[0].Address+":/bricks/books", pool.Peers[1].Address+":/bricks/books")
	must(t, err)
	_, err = pool.CLI(t.Context(), "volume", "start", "books")
	must(t, err)
	s.Storage = storageLine("files", "gluster", glusterSettings(t, l, pool))
	must(t, s.Init(t.Context()))
	must(t, s.Run(t.Context(), "pin", nil, "provider", "pin", "gluster", "--yes"))
	plugin := testenv.NodePlugin{Driver: glusterDriver, Script: glusterScript}
	must(t, l.StartNodePlugin(t.Context(), worker, plugin))
	writeLedger(t, l, worker, glusterDriver, fmt.Sprintf(`{driver: %s, volumeHandle: books, volumeAttributes: {glustervol: books, glusterserver: %s}}`, glusterDriver, pool.Peers[0].Address))
	where := mountOf(t, l, worker)
	_, err = onMount(t, l, worker, where, makeTree)
	must(t, err)
	want, err := onMount(t, l, worker, where, digestTree)
	must(t, err)

	must(t, s.Run(t.Context(), "capture", nil, "run", "capture"))
	volumes := capturedVolumes(t, s)
	if len(volumes) != 1 || volumes[0].Consistency != "live" {
		t.Fatalf("captured: %+v", volumes)
	}
	members := s.Members()
	must(t, s.Destroy(t.Context()))
	blankWith(t, l, []string{"glusterfs-client"}, members...)
	pool, err = gluster.Up(t.Context(), l, 1<<30, peers...)
	must(t, err)
	s.Storage = storageLine("files", "gluster", glusterSettings(t, l, pool))
	must(t, l.StartNodePlugin(t.Context(), worker, plugin))
	report, err := s.Rebuild(t.Context(), l, "", targetsOf(members)...)
	must(t, err)
	if report.Verdict != "complete" {
		t.Errorf("the verdict is %q", report.Verdict)
	}
	gapless(t, awaitLedger(t, l, 15))
	found, err := onMount(t, l, worker, mountOf(t, l, worker), digestTree)
	must(t, err)
	if found != want {
		t.Errorf("the digest of the files is %s, it was %s", found, want)
	}
}

func glusterSettings(t *testing.T, l *testenv.Lab, pool *gluster.Cluster) string {
	t.Helper()
	var peers, bricks []any
	for _, peer := range pool.Peers {
		peers = append(peers, map[string]any{"address": peer.Address})
		bricks = append(bricks, peer.Address+":/bricks")
	}
	return settings(t, map[string]any{
		"ssh":   map[string]any{"user": "root", "keyFile": l.KeyFile(), "knownHostsFile": l.KnownHostsFile()},
		"peers": peers, "bricks": bricks,
	})
}

// mountOf is where kubelet has the volume on the worker.
func mountOf(t *testing.T, l *testenv.Lab, worker string) string {
	t.Helper()
	out, err := l.Exec(t.Context(), worker, `awk '$3 == "fuse.glusterfs" { print $2; exit }' /proc/self/mounts`, nil)
	must(t, err)
	return strings.TrimSpace(out)
}

func onMount(t *testing.T, l *testenv.Lab, worker, mount, script string) (string, error) {
	t.Helper()
	return l.Exec(t.Context(), worker, "sh -euc '"+strings.ReplaceAll(script, "'", `'\''`)+"' "+mount, nil)
}
