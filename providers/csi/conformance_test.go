package csi

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/conformance"
	"github.com/musterdr/muster/providers/conformance/conformancetest"
	"github.com/musterdr/muster/providers/rpc/rpctest"
	"github.com/musterdr/muster/testenv"
)

func (c *cluster) suite() conformance.Config {
	return conformance.Config{
		Open: func(ctx context.Context) (providers.Provider, error) {
			p := New(Config{Now: time.Now})
			return p, p.Configure(ctx, c.settings(nil))
		},
		Unconfigured: func() (providers.Provider, error) { return New(Config{Now: time.Now}), nil },
		Size:         8 * mib,
		Parameters:   map[providers.Content]map[string]string{providers.ContentBlocks: {parameterClass: "labcsi"}},
		PV:           c.persistentVolume,
		Patience:     5 * time.Minute,
		Soon:         30 * time.Second,
		// Cases wait for kubelet and controllers most of the time.
		AtOnce: 4,
		// The first is in the making of objects, the second in what is done with a mover.
		KillAfter: []time.Duration{100 * time.Millisecond, 1500 * time.Millisecond},
	}
}

// persistentVolume is one as Kubernetes has it, of a volume.
func (c *cluster) persistentVolume(_ string, volume providers.Volume) *corev1.PersistentVolume {
	state, err := decodeVolume("test", volume.Handle)
	if err != nil {
		panic(err)
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pvc-conformance"},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{corev1.ResourceStorage: quantity(volume.Size)}, AccessModes: state.AccessModes, VolumeMode: &state.Mode,
			StorageClassName: "labcsi", PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			ClaimRef:               &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: "shop", Name: "data"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: testenv.CSIDriver, VolumeHandle: state.Source.VolumeHandle}},
		},
	}
}

// TestConformance tries every case in this process.
func TestConformance(t *testing.T) {
	t.Parallel()
	c := needCluster(t)
	conformancetest.Run(t, c.suite())
}

// TestConformanceOfClaims tries what is different for volumes that an application's claims hold.
func TestConformanceOfClaims(t *testing.T) {
	t.Parallel()
	c := needCluster(t)
	config := c.suite()
	config.Volumes = c.claims(t)
	config.Only = []string{"delete-volume-foreign", "snapshot-several", "snapshot-group", "cancelled-snapshot"}
	conformancetest.Run(t, config)
}

// claims makes volumes as an application does: by claims in one namespace, which goes with the test.
func (c *cluster) claims(t *testing.T) func(context.Context, providers.Content, int) ([]providers.Volume, error) {
	t.Helper()
	p, namespace := c.open(t, nil), c.namespace(t, name(t))
	var made atomic.Int64
	return func(ctx context.Context, _ providers.Content, n int) ([]providers.Volume, error) {
		var all []providers.Volume
		for range n {
			pv, err := c.claim(ctx, namespace, fmt.Sprintf("data-%d", made.Add(1)))
			if err != nil {
				return nil, err
			}
			volume, err := p.Match(ctx, pv)
			if err != nil {
				return nil, err
			}
			all = append(all, volume)
		}
		return all, nil
	}
}

// claim makes a claim and returns the volume that it gets.
func (c *cluster) claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolume, error) {
	block, class := corev1.PersistentVolumeBlock, "labcsi"
	all := c.kube.CoreV1().PersistentVolumeClaims(namespace)
	_, err := all.Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, VolumeMode: &block, StorageClassName: &class,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: quantity(8 * mib)}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	w := wait{op: "test", subject: name, within: Duration(time.Minute)}
	bound, err := await(ctx, w, all, name, func(claim *corev1.PersistentVolumeClaim) (bool, error) {
		return claim.Status.Phase == corev1.ClaimBound, nil
	})
	if err != nil {
		return nil, err
	}
	return c.kube.CoreV1().PersistentVolumes().Get(ctx, bound.Spec.VolumeName, metav1.GetOptions{})
}

// TestConformanceOverTheWire tries what depends on the wire and on processes: streams both ways, groups, another
// process that goes on, and one that is killed in whatever changes something.
func TestConformanceOverTheWire(t *testing.T) {
	t.Parallel()
	c := needCluster(t)
	processes := &rpctest.Processes{Name: Name, Settings: c.settings(nil)}
	config := c.suite()
	config.Open, config.Unconfigured, config.Kill = processes.Open, nil, processes.Kill
	config.Only = []string{
		"info", "health", "write-aborted", "write-cancelled", "read-parts", "read-cancelled", "extents-changed", "snapshot-group",
		"killed-create", "killed-write", "killed-overwrite", "killed-snapshot", "killed-clone", "killed-read", "killed-delete",
	}
	conformancetest.Run(t, config)
}
