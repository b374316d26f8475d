package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/ceph"
)

// plugins is a folder with providers' programs.
func plugins(t *testing.T, names ...string) string {
	t.Helper()
	folder := t.TempDir()
	for _, name := range names {
		source, program := "./cmd/muster-provider-"+name, filepath.Join(folder, "muster-provider-"+name)
		if name == "ceph" {
			must(t, testenv.GoBuildCgo(t.Context(), source, program, ceph.Tags()...))
		} else {
			must(t, testenv.GoBuild(t.Context(), source, program))
		}
		must(t, os.Chmod(program, 0o755))
	}
	return folder
}

// ledger is a StatefulSet whose pod writes numbers, one after the other, into a volume.
const ledger = `
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: DRIVER}
spec: {attachRequired: false, podInfoOnMount: false, volumeLifecycleModes: [Persistent]}
---
apiVersion: v1
kind: Namespace
metadata: {name: books}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: ledger}
spec:
  capacity: {storage: 64Mi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ""
  claimRef: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: books, name: data-ledger-0}
  csi: SOURCE
---
apiVersion: v1
kind: Service
metadata: {name: ledger, namespace: books}
spec: {clusterIP: None, selector: {app: ledger}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: ledger, namespace: books}
spec:
  serviceName: ledger
  selector: {matchLabels: {app: ledger}}
  template:
    metadata: {labels: {app: ledger}}
    spec:
      nodeSelector: {kubernetes.io/hostname: WORKER}
      terminationGracePeriodSeconds: 1
      containers:
        - name: clerk
          image: IMAGE
          imagePullPolicy: Never
          command: [/bin/busybox, sh, -c]
          args:
            - |
              set -e
              n=$(/bin/busybox tail -n 1 /data/ledger 2>/dev/null || echo 0)
              while :; do
                n=$((n + 1)); echo $n >>/data/ledger; /bin/busybox sync; /bin/busybox sleep 0.1
              done
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec:
        accessModes: [ReadWriteOnce]
        storageClassName: ""
        resources: {requests: {storage: 64Mi}}
`

func writeLedger(t *testing.T, l *testenv.Lab, worker, driver, source string) {
	t.Helper()
	manifest := strings.NewReplacer("DRIVER", driver, "SOURCE", source, "WORKER", worker, "IMAGE", testenv.BusyboxImage).Replace(ledger)
	must(t, l.Apply(t.Context(), manifest))
	awaitLedger(t, l, 10)
}

// readLedger is what the pod sees.
func readLedger(ctx context.Context, l *testenv.Lab) ([]string, error) {
	out, err := l.Kubectl(ctx, "exec", "--namespace", "books", "ledger-0", "--", "/bin/busybox", "cat", "/data/ledger")
	return strings.Fields(out), err
}

// awaitLedger waits until the ledger has an entry of at least the given number.
func awaitLedger(t *testing.T, l *testenv.Lab, least int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for {
		entries, err := readLedger(ctx, l)
		if err == nil && len(entries) > 0 {
			if last, _ := strconv.Atoi(entries[len(entries)-1]); last >= least {
				return entries
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			pods, _ := l.Kubectl(t.Context(), "describe", "pods,pvc,pv", "--namespace", "books")
			t.Fatalf("the ledger does not reach %d: %v, %d entries\n%s", least, err, len(entries), pods)
		}
	}
}

// gapless fails when an entry is missing or stands there twice.
func gapless(t *testing.T, entries []string) {
	t.Helper()
	for i, entry := range entries {
		if entry != strconv.Itoa(i+1) {
			t.Fatalf("entry %d of the ledger is %s", i+1, entry)
		}
	}
}

// capturedVolume is the part of a manifest's volume that scenarios read.
type capturedVolume struct {
	ID          string `json:"id"`
	Consistency string `json:"consistency"`
	Snapshot    struct {
		ID string `json:"id"`
	} `json:"snapshot"`
}

func capturedVolumes(t *testing.T, s *Scenario) []capturedVolume {
	t.Helper()
	var manifest struct {
		Volumes []capturedVolume `json:"volumes"`
	}
	must(t, s.query(t.Context(), &manifest, "points", "show", "latest", "--output", "json"))
	return manifest.Volumes
}

func settings(t *testing.T, values map[string]any) string {
	t.Helper()
	raw, err := json.Marshal(values)
	must(t, err)
	return string(raw)
}

func storageLine(name, provider, settings string) string {
	return fmt.Sprintf("    - {name: %s, provider: %s, settings: %s}\n", name, provider, settings)
}
