package csi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv"
)

const mib = 1 << 20

// app is a namespace with a claim and a pod that writes into a filesystem on it.
type app struct {
	*cluster
	namespace string
}

// namespace makes one that goes with the test.
func (c *cluster) namespace(t *testing.T, name string) string {
	t.Helper()
	_, err := c.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() {
		err := c.kube.CoreV1().Namespaces().Delete(context.Background(), name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	return name
}

func (c *cluster) app(t *testing.T, pv string) *app {
	t.Helper()
	a := &app{cluster: c, namespace: name(t)}
	if pv != "" {
		a.namespace += "-again"
	}
	c.namespace(t, a.namespace)
	class := "labcsi"
	if pv != "" {
		class = ""
	}
	_, err := c.kube.CoreV1().PersistentVolumeClaims(a.namespace).Create(t.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class, VolumeName: pv,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: quantity(16 * mib)}},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	zero := int64(0)
	pods := c.kube.CoreV1().Pods(a.namespace)
	_, err = pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "app"},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &zero,
			Containers: []corev1.Container{{
				Name: moverContainer, Image: testenv.BusyboxImage, Command: []string{"/bin/sh", "-c", "sleep 100000"},
				VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
			}},
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	_, err = await(t.Context(), wait{op: "test", subject: "app", within: Duration(3 * time.Minute)}, pods, "app", func(pod *corev1.Pod) (bool, error) {
		return pod.Status.Phase == corev1.PodRunning, nil
	})
	must(t, err)
	return a
}

// run runs a script in the app's pod, as the administrator.
func (a *app) run(t *testing.T, script string) string {
	t.Helper()
	out, err := a.lab.Kubectl(t.Context(), "-n", a.namespace, "exec", "app", "--", "/bin/sh", "-c", script)
	must(t, err)
	return strings.TrimSpace(out)
}

func (a *app) volume(t *testing.T, p *Provider) (*corev1.PersistentVolume, providers.Volume) {
	t.Helper()
	claim, err := a.kube.CoreV1().PersistentVolumeClaims(a.namespace).Get(t.Context(), "data", metav1.GetOptions{})
	must(t, err)
	pv, err := a.kube.CoreV1().PersistentVolumes().Get(t.Context(), claim.Spec.VolumeName, metav1.GetOptions{})
	must(t, err)
	volume, err := p.Match(t.Context(), pv)
	must(t, err)
	return pv, volume
}

func one(t *testing.T, p *Provider, token string, volume providers.Handle) providers.Snapshot {
	t.Helper()
	set, err := p.Snapshot(t.Context(), providers.SnapshotRequest{Token: token, Volumes: []providers.Handle{volume}, Tags: map[string]string{providers.TagRun: token}})
	must(t, err)
	return set.Snapshots[0]
}

// copyAll is what a capture into a repository and a restore do: extents, bytes, a new volume.
func copyAll(t *testing.T, p *Provider, snapshot providers.Snapshot, token string) (providers.Volume, int64) {
	t.Helper()
	var extents []providers.Extent
	must(t, p.Extents(t.Context(), providers.ExtentsRequest{Snapshot: snapshot.Handle}, func(e []providers.Extent) error {
		extents = append(extents, e...)
		return nil
	}))
	blocks := make(chan providers.Block)
	read := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	bytesRead := int64(0)
	go func() {
		defer close(blocks)
		read <- p.Read(ctx, providers.ReadRequest{Snapshot: snapshot.Handle, Extents: extents}, func(b providers.Block) error {
			b.Data = bytes.Clone(b.Data)
			bytesRead += b.Length
			select {
			case blocks <- b:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	volume, err := p.Write(ctx, providers.WriteRequest{CreateRequest: providers.CreateRequest{
		Token: token, Content: providers.ContentBlocks, Size: snapshot.Size, Parameters: snapshot.Parameters,
		Tags: map[string]string{providers.TagRun: token},
	}}, func() (providers.Block, error) {
		b, ok := <-blocks
		if !ok {
			return b, io.EOF
		}
		return b, nil
	})
	cancel()
	must(t, errors.Join(<-read, err))
	return volume, bytesRead
}

// TestFilesystemComesBack is the whole way of a filesystem: written by a pod, snapshotted, namespace and
// volume lost, brought back into another volume, and read by a pod.
func TestFilesystemComesBack(t *testing.T) {
	t.Parallel()
	c := needCluster(t)
	p := c.open(t, nil)
	before := c.app(t, "")
	sum := before.run(t, "dd if=/dev/urandom of=/data/file bs=64k count=20 2>/dev/null; echo kept >/data/word; sync; sha256sum /data/file")
	pv, volume := before.volume(t, p)
	if volume.Content != providers.ContentBlocks || !volume.ChangedBlocks {
		t.Errorf("the volume is %+v", volume)
	}
	snapshot := one(t, p, before.namespace, volume.Handle)
	before.run(t, "echo too late >/data/word; rm /data/file; sync")
	must(t, c.kube.CoreV1().Namespaces().Delete(t.Context(), before.namespace, metav1.DeleteOptions{}))
	must(t, awaitGone(t.Context(), wait{op: "test", subject: pv.Name, within: Duration(3 * time.Minute)}, c.kube.CoreV1().PersistentVolumes(), pv.Name, nil))

	if _, err := p.Volume(t.Context(), volume.Handle); !fault.Is(err, fault.NotFound) {
		t.Errorf("the volume is lost, and described: %v", err)
	}
	seen, err := p.SnapshotOf(t.Context(), snapshot.Handle)
	if err != nil || !seen.Ready || !seen.Instant.Equal(snapshot.Instant) {
		t.Errorf("the namespace has gone, and with it the snapshot: %+v, %v", seen, err)
	}
	restored, moved := copyAll(t, p, snapshot, before.namespace+"-w")
	if moved >= snapshot.Size/2 {
		t.Errorf("%d bytes were moved of a volume of %d with little more than a mebibyte in it", moved, snapshot.Size)
	}
	fresh, err := p.Bind(t.Context(), restored.Handle, pv)
	must(t, err)
	fresh.ObjectMeta = metav1.ObjectMeta{Name: name(t), Annotations: fresh.Annotations}
	fresh.Spec.ClaimRef, fresh.Spec.StorageClassName = nil, ""
	fresh.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
	_, err = c.kube.CoreV1().PersistentVolumes().Create(t.Context(), fresh, metav1.CreateOptions{})
	must(t, err)
	after := c.app(t, fresh.Name)
	if got := after.run(t, "sha256sum /data/file"); got != sum {
		t.Errorf("the file is %s, was %s", got, sum)
	}
	if got := after.run(t, "cat /data/word"); got != "kept" {
		t.Errorf("the word is %q: not as of the snapshot", got)
	}
	if err := p.DeleteVolume(t.Context(), restored.Handle); !fault.Is(err, fault.Busy) {
		t.Errorf("a volume in use was deleted: %v", err)
	}
	must(t, p.DeleteSnapshot(t.Context(), snapshot.Handle))
	must(t, c.kube.CoreV1().Namespaces().Delete(t.Context(), after.namespace, metav1.DeleteOptions{}))
	must(t, awaitGone(t.Context(), wait{op: "test", subject: "pod", within: Duration(2 * time.Minute)}, c.kube.CoreV1().PersistentVolumeClaims(after.namespace), "data", nil))
	must(t, c.kube.CoreV1().PersistentVolumes().Delete(t.Context(), fresh.Name, metav1.DeleteOptions{}))
	must(t, awaitGone(t.Context(), wait{op: "test", subject: fresh.Name, within: Duration(time.Minute)}, c.kube.CoreV1().PersistentVolumes(), fresh.Name, nil))
	must(t, p.DeleteVolume(t.Context(), restored.Handle))
	if _, err := p.Volume(t.Context(), restored.Handle); !fault.Is(err, fault.NotFound) {
		t.Errorf("a deleted volume is described: %v", err)
	}
}

// made is a block volume of Muster's with some content.
func made(t *testing.T, p *Provider, token string, blocks ...providers.Block) providers.Volume {
	t.Helper()
	volume, err := p.Write(t.Context(), providers.WriteRequest{CreateRequest: providers.CreateRequest{
		Token: token, Content: providers.ContentBlocks, Size: 16 * mib, Tags: map[string]string{providers.TagRun: token},
	}}, sourceOf(blocks))
	must(t, err)
	t.Cleanup(func() { must(t, p.DeleteVolume(context.Background(), volume.Handle)) })
	return volume
}

func noise(seed byte, length int) []byte {
	data := make([]byte, length)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(data) // it never fails
	return data
}

func contentOf(t *testing.T, p *Provider, snapshot providers.Snapshot) [32]byte {
	t.Helper()
	image := make([]byte, snapshot.Size)
	must(t, p.Read(t.Context(), providers.ReadRequest{Snapshot: snapshot.Handle, Extents: []providers.Extent{{Length: snapshot.Size}}}, func(b providers.Block) error {
		copy(image[b.Offset:], b.Data)
		return nil
	}))
	return sha256.Sum256(image)
}

// TestOnlyWhatChangedIsTold holds that the SnapshotMetadata service is asked, by a token of its own audience.
func TestOnlyWhatChangedIsTold(t *testing.T) {
	t.Parallel()
	c := needCluster(t)
	p := c.open(t, nil)
	volume := made(t, p, name(t), providers.NewBlock(0, noise(1, 4*mib)))
	first := one(t, p, name(t)+"-1", volume.Handle)
	_, err := p.Write(t.Context(), providers.WriteRequest{
		CreateRequest: providers.CreateRequest{Token: name(t) + "-into", Content: providers.ContentBlocks, Size: 16 * mib}, Into: volume.Handle,
	}, sourceOf([]providers.Block{providers.NewBlock(0, noise(1, 4*mib)), providers.NewBlock(9*mib+5, noise(2, 100))}))
	must(t, err)
	second := one(t, p, name(t)+"-2", volume.Handle)
	changed := int64(0)
	must(t, p.Extents(t.Context(), providers.ExtentsRequest{Snapshot: second.Handle, Base: first.Handle}, func(extents []providers.Extent) error {
		for _, e := range extents {
			changed += e.Length
			if e.Offset > 9*mib+5 || e.End() < 9*mib+105 {
				t.Errorf("extent %+v has not changed", e)
			}
		}
		return nil
	}))
	if changed == 0 || changed > mib {
		t.Errorf("%d bytes are told to have changed, 100 have", changed)
	}
	must(t, p.DeleteSnapshot(t.Context(), first.Handle))
	err = p.Extents(t.Context(), providers.ExtentsRequest{Snapshot: second.Handle, Base: first.Handle}, func([]providers.Extent) error { return nil })
	if !fault.Is(err, fault.NotFound) {
		t.Errorf("changes since a base that is gone: %v", err)
	}
	must(t, p.DeleteSnapshot(t.Context(), second.Handle))
}

// TestSnapshotIsFoundByItsHandleAlone plays another cluster on the same storage: every object of the snapshot is gone.
func TestSnapshotIsFoundByItsHandleAlone(t *testing.T) {
	t.Parallel()
	c := needCluster(t)
	p := c.open(t, nil)
	data := noise(3, mib)
	volume := made(t, p, name(t), providers.NewBlock(5*mib, data))
	want := make([]byte, 16*mib)
	copy(want[5*mib:], data)
	snapshot := one(t, p, name(t), volume.Handle)
	state, err := decodeSnapshot("test", snapshot.Handle)
	must(t, err)
	must(t, c.snapshots.SnapshotV1().VolumeSnapshots(state.Namespace).Delete(t.Context(), state.Name, metav1.DeleteOptions{}))
	must(t, c.snapshots.SnapshotV1().VolumeSnapshotContents().Delete(t.Context(), state.Content, metav1.DeleteOptions{}))
	gone := wait{op: "test", subject: state.Content, within: Duration(time.Minute)}
	must(t, awaitGone(t.Context(), gone, c.snapshots.SnapshotV1().VolumeSnapshotContents(), state.Content, nil))

	other := c.open(t, nil)
	if seen, err := other.SnapshotOf(t.Context(), snapshot.Handle); err != nil || seen.ID != snapshot.ID || !seen.Ready {
		t.Errorf("described as %+v, %v", seen, err)
	}
	if got := contentOf(t, other, snapshot); got != sha256.Sum256(want) {
		t.Error("the content is another one")
	}
	must(t, other.DeleteSnapshot(t.Context(), snapshot.Handle))
	if _, err := p.SnapshotOf(t.Context(), snapshot.Handle); !fault.Is(err, fault.NotFound) {
		t.Errorf("a snapshot that is gone from the storage: %v", err)
	}
}

// TestFullPool holds that a driver's refusal keeps its kind, and that nothing stays of the try.
func TestFullPool(t *testing.T) {
	t.Parallel()
	c := needCluster(t)
	p := c.open(t, map[string]any{"snapshotClasses": map[string]string{testenv.CSIDriver: "labcsi-full"}})
	volume := made(t, p, name(t))
	_, err := p.Snapshot(t.Context(), providers.SnapshotRequest{Token: name(t), Volumes: []providers.Handle{volume.Handle}})
	if !fault.Is(err, fault.NoSpace) {
		t.Errorf("a full pool: %v (%v)", err, fault.KindOf(err))
	}
	left, err := c.snapshots.SnapshotV1().VolumeSnapshots("").List(t.Context(), selectorOf(kindSnapshot, name(t)))
	must(t, err)
	contents, err := c.snapshots.SnapshotV1().VolumeSnapshotContents().List(t.Context(), metav1.ListOptions{})
	must(t, err)
	failed := 0
	for _, content := range contents.Items {
		if class := content.Spec.VolumeSnapshotClassName; class != nil && *class == "labcsi-full" && content.Spec.DeletionPolicy == snapshotv1.VolumeSnapshotContentDelete && content.DeletionTimestamp == nil {
			failed++
		}
	}
	for _, s := range left.Items { // the sidecar lets go of one when the driver's answer is final
		if s.DeletionTimestamp == nil {
			t.Errorf("VolumeSnapshot %s/%s is left", s.Namespace, s.Name)
		}
	}
	if failed > 0 {
		t.Errorf("%d contents are left", failed)
	}
}

// TestLateBinding makes a volume of a class that waits for a pod, and reads it: the clone waits for one, too.
func TestLateBinding(t *testing.T) {
	t.Parallel()
	c := needCluster(t)
	p := c.open(t, nil)
	for _, mode := range []string{"Block", "Filesystem"} {
		volume, err := p.Create(t.Context(), providers.CreateRequest{
			Token: name(t) + mode, Content: providers.ContentBlocks, Size: mib, Parameters: map[string]string{parameterClass: "labcsi-late", parameterMode: mode},
		})
		must(t, err)
		snapshot := one(t, p, name(t)+mode, volume.Handle)
		if got := contentOf(t, p, snapshot); mode == "Block" && got != sha256.Sum256(make([]byte, mib)) {
			t.Error("a new volume is not zeros")
		}
		must(t, p.DeleteSnapshot(t.Context(), snapshot.Handle))
		must(t, p.DeleteVolume(t.Context(), volume.Handle))
	}
}
