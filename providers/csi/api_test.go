package csi

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	snapshots "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/apiserver"
)

// api is a real API server without any CSI driver, and the tests' means to fill it.
type api struct {
	server *apiserver.Server
	admin  *rest.Config
	kube   kubernetes.Interface
}

func needAPI(t *testing.T) *api {
	t.Helper()
	a := &api{server: apiserver.Need(t, apiserver.Config{Controllers: true})}
	var err error
	a.admin, err = clientcmd.RESTConfigFromKubeConfig(a.server.Kubeconfig)
	must(t, err)
	a.kube, err = kubernetes.NewForConfig(a.admin)
	must(t, err)
	a.namespace(t, "muster-volumes")
	a.namespace(t, "shop")
	return a
}

func (a *api) namespace(t *testing.T, name string) {
	t.Helper()
	_, err := a.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(t, err)
}

func (a *api) settings(t *testing.T, changes map[string]any) json.RawMessage {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(path, a.server.Kubeconfig, 0o600))
	settings := map[string]any{"kubeconfigFile": path, "snapshotTimeout": "2s", "volumeTimeout": "2s", "deleteTimeout": "5s"}
	for key, value := range changes {
		settings[key] = value
	}
	raw, err := json.Marshal(settings)
	must(t, err)
	return raw
}

func (a *api) open(t *testing.T, changes map[string]any) *Provider {
	t.Helper()
	p := New(Config{Now: time.Now})
	must(t, p.Configure(t.Context(), a.settings(t, changes)))
	t.Cleanup(func() { must(t, p.Close()) })
	return p
}

// volume makes a bound claim in shop with its PersistentVolume.
func (a *api) volume(t *testing.T, name, driver string, mode corev1.PersistentVolumeMode) *corev1.PersistentVolume {
	t.Helper()
	none := ""
	access := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	capacity := corev1.ResourceList{corev1.ResourceStorage: quantity(1 << 30)}
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{zoneLabel: "z1"}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: capacity, AccessModes: access, VolumeMode: &mode, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			ClaimRef: &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: "shop", Name: name},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: driver, VolumeHandle: "handle-" + name, FSType: "ext4", VolumeAttributes: map[string]string{"pool": "p"},
				NodeStageSecretRef: &corev1.SecretReference{Name: "secret", Namespace: "storage"},
			}},
		},
	}
	pv, err := a.kube.CoreV1().PersistentVolumes().Create(t.Context(), pv, metav1.CreateOptions{})
	must(t, err)
	claims := a.kube.CoreV1().PersistentVolumeClaims("shop")
	_, err = claims.Create(t.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: access, VolumeMode: &mode, VolumeName: name, StorageClassName: &none,
			Resources: corev1.VolumeResourceRequirements{Requests: capacity},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	_, err = await(t.Context(), wait{op: "test", subject: name, within: Duration(time.Minute)}, claims, name, func(c *corev1.PersistentVolumeClaim) (bool, error) {
		return c.Status.Phase == corev1.ClaimBound, nil
	})
	must(t, err)
	return pv
}

// crds installs what external-snapshotter's CRDs are.
func (a *api) crds(t *testing.T) snapshots.Interface {
	t.Helper()
	dir, err := testenv.CSIDefinitions(t.Context(), t.Logf)
	must(t, err)
	client, err := apiextensions.NewForConfig(a.admin)
	must(t, err)
	paths, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	must(t, err)
	all := client.ApiextensionsV1().CustomResourceDefinitions()
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		must(t, err)
		var crd apiextensionsv1.CustomResourceDefinition
		must(t, yaml.Unmarshal(raw, &crd))
		_, err = all.Create(t.Context(), &crd, metav1.CreateOptions{})
		must(t, err)
		_, err = await(t.Context(), wait{op: "test", subject: crd.Name, within: Duration(time.Minute)}, all, crd.Name, established)
		must(t, err)
	}
	out, err := snapshots.NewForConfig(a.admin)
	must(t, err)
	return out
}

func established(crd *apiextensionsv1.CustomResourceDefinition) (bool, error) {
	for _, c := range crd.Status.Conditions {
		if c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue {
			return true, nil
		}
	}
	return false, nil
}

func TestAPI(t *testing.T) {
	a := needAPI(t)
	blocks := a.volume(t, "blocks", "disk.example", corev1.PersistentVolumeBlock)
	a.volume(t, "files", "disk.example", corev1.PersistentVolumeFilesystem)
	a.volume(t, "other", "nfs.example", corev1.PersistentVolumeFilesystem)
	t.Run("volumes", func(t *testing.T) { a.volumes(t, blocks) })
	t.Run("alias-left", func(t *testing.T) { a.aliasLeft(t, blocks) })
	t.Run("mover-waits", func(t *testing.T) { a.moverWaits(t, blocks) })
	t.Run("refused", a.refused)
	t.Run("without-crds", a.withoutCRDs)
	client := a.crds(t)
	t.Run("without-controller", func(t *testing.T) { a.withoutController(t, client) })
	t.Run("status-error", func(t *testing.T) { a.statusError(t, client) })
	t.Run("record-kept", func(t *testing.T) { a.recordKept(t, client) })
}

func (a *api) volumes(t *testing.T, pv *corev1.PersistentVolume) {
	p := a.open(t, map[string]any{"drivers": []string{"disk.example"}, "fileDrivers": []string{"nfs.example"}})
	_, err := a.kube.StorageV1().VolumeAttachments().Create(t.Context(), &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: "attached"},
		Spec:       storagev1.VolumeAttachmentSpec{Attacher: "disk.example", NodeName: "node-1", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &pv.Name}},
	}, metav1.CreateOptions{})
	must(t, err)
	attached, err := a.kube.StorageV1().VolumeAttachments().Get(t.Context(), "attached", metav1.GetOptions{})
	must(t, err)
	attached.Status.Attached = true
	_, err = a.kube.StorageV1().VolumeAttachments().UpdateStatus(t.Context(), attached, metav1.UpdateOptions{})
	must(t, err)

	found := map[string]providers.Volume{}
	must(t, p.Discover(t.Context(), providers.Query{}, func(v providers.Volume) error { found[v.ID] = v; return nil }))
	if len(found) != 2 {
		t.Errorf("discovered %v, want the two volumes of disk.example", found)
	}
	v := found["disk.example/handle-blocks"]
	if v.Content != providers.ContentBlocks || v.Size != 1<<30 || v.Machine != "node-1" || v.Zone != "z1" || v.ChangedBlocks {
		t.Errorf("discovered %+v", v)
	}
	if matched, err := p.Match(t.Context(), pv); err != nil || matched.ID != v.ID {
		t.Errorf("matched %+v, %v", matched, err)
	}
	gone := pv.DeepCopy()
	gone.Spec.CSI.VolumeHandle = "gone"
	if _, err := p.Match(t.Context(), gone); !fault.Is(err, fault.NotFound) {
		t.Errorf("a volume that is gone: %v", err)
	}
	foreign := pv.DeepCopy()
	foreign.Spec.CSI.Driver = "nfs.example"
	if _, err := p.Match(t.Context(), foreign); !fault.Is(err, fault.Unsupported) {
		t.Errorf("a driver that the settings leave out: %v", err)
	}
	a.bind(t, p, v, pv)
	if err := p.DeleteVolume(t.Context(), v.Handle); !fault.Is(err, fault.Denied) {
		t.Errorf("deleting somebody's volume: %v", err)
	}
}

func (a *api) bind(t *testing.T, p *Provider, v providers.Volume, pv *corev1.PersistentVolume) {
	old := pv.DeepCopy()
	old.Name, old.Spec.CSI.VolumeHandle, old.Spec.CSI.FSType = "restored", "lost", "xfs"
	old.Spec.MountOptions = []string{"noatime"}
	old.Spec.Capacity[corev1.ResourceStorage] = quantity(1)
	bound, err := p.Bind(t.Context(), v.Handle, old)
	must(t, err)
	source := bound.Spec.CSI
	if source.VolumeHandle != "handle-blocks" || source.FSType != "xfs" || source.NodeStageSecretRef.Name != "secret" || source.VolumeAttributes["pool"] != "p" {
		t.Errorf("bound to %+v", source)
	}
	if bound.Name != "restored" || len(bound.Spec.MountOptions) != 1 || old.Spec.CSI.VolumeHandle != "lost" {
		t.Errorf("bind changed what it must keep: %+v", bound)
	}
	if capacity := bound.Spec.Capacity[corev1.ResourceStorage]; capacity.Value() != 1<<30 {
		t.Errorf("bound with %s", capacity.String())
	}
}

// aliasLeft plays a call that died when it had deleted its alias's claim and not yet the PersistentVolume.
func (a *api) aliasLeft(t *testing.T, pv *corev1.PersistentVolume) {
	p := a.open(t, nil)
	must(t, p.createAlias(t.Context(), "test", "alias", stateOf(pv)))
	must(t, p.removeClaim(t.Context(), "test", "alias"))
	released := wait{op: "test", subject: "alias", within: Duration(time.Minute)}
	_, err := await(t.Context(), released, a.kube.CoreV1().PersistentVolumes(), "alias", func(pv *corev1.PersistentVolume) (bool, error) {
		return pv.Status.Phase == corev1.VolumeReleased, nil
	})
	must(t, err)
	must(t, p.createAlias(t.Context(), "test", "alias", stateOf(pv)))
	must(t, p.removeAlias(t.Context(), "test", "alias"))
}

// moverWaits holds that a mover is kept from its node until its clone is bound.
func (a *api) moverWaits(t *testing.T, pv *corev1.PersistentVolume) {
	p := a.open(t, map[string]any{"volumeTimeout": "1m"})
	clone, claim := p.aliasOf(cloneName("mover"), stateOf(pv))
	claim.Spec.VolumeName = ""
	_, err := a.kube.CoreV1().PersistentVolumes().Create(t.Context(), clone, metav1.CreateOptions{})
	must(t, err)
	pods, err := a.kube.CoreV1().Pods("muster-volumes").Watch(t.Context(), metav1.ListOptions{})
	must(t, err)
	defer pods.Stop()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- p.startMover(ctx, "test", moverPod{name: "mover", clone: &claim.Spec, mode: corev1.PersistentVolumeBlock})
	}()
	waited := false
	for open := false; !open; {
		select {
		case err := <-ended:
			t.Fatalf("the mover's gate did not open: %v", err)
		case event := <-pods.ResultChan():
			open = len(event.Object.(*corev1.Pod).Spec.SchedulingGates) == 0
			waited = waited || !open
		}
	}
	bound, err := a.kube.CoreV1().PersistentVolumeClaims("muster-volumes").Get(t.Context(), cloneName("mover"), metav1.GetOptions{})
	must(t, err)
	if !waited || bound.Status.Phase != corev1.ClaimBound {
		t.Errorf("the mover waited: %t, and goes to its node when its clone is %s", waited, bound.Status.Phase)
	}
	cancel()
	<-ended // no node runs it
	must(t, p.removeMover(t.Context(), "test", "mover"))
}

func (a *api) refused(t *testing.T) {
	for _, c := range []struct {
		changes map[string]any
		kind    fault.Kind
		says    string
	}{
		{map[string]any{"namespace": "nowhere"}, fault.Invalid, "docs/providers-csi.md"},
		{map[string]any{"context": "nobody"}, fault.Invalid, "nobody"},
		{map[string]any{"moverIdle": "soon"}, fault.Invalid, "soon"},
		{map[string]any{"kubeconfigFile": "/nowhere"}, fault.Invalid, "/nowhere"},
	} {
		err := New(Config{Now: time.Now}).Configure(t.Context(), a.settings(t, c.changes))
		if !fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: %v (%v)", c.changes, err, fault.KindOf(err))
		}
	}
	anonymous := strings.ReplaceAll(string(a.server.Kubeconfig), "client-key-data", "client-key-data-none")
	path := filepath.Join(t.TempDir(), "anonymous")
	must(t, os.WriteFile(path, []byte(strings.ReplaceAll(anonymous, "client-certificate-data", "client-certificate-data-none")), 0o600))
	err := New(Config{Now: time.Now}).Configure(t.Context(), a.settings(t, map[string]any{"kubeconfigFile": path}))
	if !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "docs/providers-csi.md") {
		t.Errorf("without credentials: %v (%v)", err, fault.KindOf(err))
	}
}

func (a *api) blocksVolume(t *testing.T, p *Provider) providers.Volume {
	t.Helper()
	var found providers.Volume
	must(t, p.Discover(t.Context(), providers.Query{IDs: []string{"disk.example/handle-blocks"}}, func(v providers.Volume) error { found = v; return nil }))
	return found
}

func (a *api) withoutCRDs(t *testing.T) {
	p := a.open(t, nil)
	health, err := p.Health(t.Context())
	must(t, err)
	if health.Usable || len(health.Problems) != 1 || !strings.Contains(health.Problems[0], "external-snapshotter") {
		t.Errorf("health is %+v", health)
	}
	_, err = p.Snapshot(t.Context(), providers.SnapshotRequest{Token: "t", Volumes: []providers.Handle{a.blocksVolume(t, p).Handle}})
	if !fault.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), "external-snapshotter") {
		t.Errorf("snapshot without CRDs: %v (%v)", err, fault.KindOf(err))
	}
}

func (a *api) withoutController(t *testing.T, client snapshots.Interface) {
	p := a.open(t, nil)
	request := providers.SnapshotRequest{Token: "alone", Volumes: []providers.Handle{a.blocksVolume(t, p).Handle}}
	if _, err := p.Snapshot(t.Context(), request); !fault.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), "VolumeSnapshotClass") {
		t.Errorf("snapshot without a class: %v (%v)", err, fault.KindOf(err))
	}
	_, err := client.SnapshotV1().VolumeSnapshotClasses().Create(t.Context(), &snapshotv1.VolumeSnapshotClass{
		ObjectMeta: metav1.ObjectMeta{Name: "disk"}, Driver: "disk.example", DeletionPolicy: snapshotv1.VolumeSnapshotContentDelete,
	}, metav1.CreateOptions{})
	must(t, err)
	if _, err := p.Snapshot(t.Context(), request); !fault.Is(err, fault.Transient) || !strings.Contains(err.Error(), "snapshot controller") {
		t.Errorf("snapshot without a controller: %v (%v)", err, fault.KindOf(err))
	}
	a.nothingLeft(t, client)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := p.Snapshot(ctx, request); err == nil {
		t.Error("a snapshot whose context has ended went through")
	}
	must(t, client.SnapshotV1().VolumeSnapshots("shop").DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
}

// statusError plays a driver that refuses, in the words of the real sidecar.
func (a *api) statusError(t *testing.T, client snapshots.Interface) {
	p := a.open(t, map[string]any{"snapshotTimeout": "30s"})
	for text, kind := range map[string]fault.Kind{
		"failed to take snapshot: rpc error: code = ResourceExhausted desc = pool is full": fault.NoSpace,
		"rpc error: code = PermissionDenied desc = token has expired":                      fault.Denied,
		"rpc error: code = Unimplemented desc = no snapshots here":                         fault.Unsupported,
	} {
		token := digest(text)
		all := client.SnapshotV1().VolumeSnapshots("shop")
		name := nameOf(kindSnapshot, token, "0")
		refused := make(chan error, 1)
		go func() {
			for { // the snapshot is there soon after the call began
				snapshot, err := all.Get(t.Context(), name, metav1.GetOptions{})
				if err == nil {
					snapshot.Status = &snapshotv1.VolumeSnapshotStatus{Error: &snapshotv1.VolumeSnapshotError{Message: &text}}
					_, err = all.UpdateStatus(t.Context(), snapshot, metav1.UpdateOptions{})
				}
				if err == nil || t.Context().Err() != nil {
					refused <- err
					return
				}
			}
		}()
		_, err := p.Snapshot(t.Context(), providers.SnapshotRequest{Token: token, Volumes: []providers.Handle{a.blocksVolume(t, p).Handle}})
		if !fault.Is(err, kind) || !strings.Contains(err.Error(), "rpc error") {
			t.Errorf("%s: %v (%v)", text, err, fault.KindOf(err))
		}
		must(t, <-refused)
	}
	a.nothingLeft(t, client)
}

// recordKept plays the snapshotter's sidecar, which writes a content's annotations as it has last seen them.
func (a *api) recordKept(t *testing.T, client snapshots.Interface) {
	p, token := a.open(t, map[string]any{"snapshotTimeout": "30s"}), digest("record-kept")
	played := make(chan error, 1)
	go func() { played <- playSidecar(t.Context(), client, nameOf(kindSnapshot, token, "0")) }()
	set, err := p.Snapshot(t.Context(), providers.SnapshotRequest{Token: token, Volumes: []providers.Handle{a.blocksVolume(t, p).Handle}, Tags: map[string]string{"team": "shop"}})
	must(t, errors.Join(err, <-played))
	found, err := p.SnapshotOf(t.Context(), set.Snapshots[0].Handle)
	if must(t, err); found.Tags["team"] != "shop" {
		t.Errorf("the snapshot has the tags %v", found.Tags)
	}
	must(t, client.SnapshotV1().VolumeSnapshots("shop").DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
	must(t, client.SnapshotV1().VolumeSnapshotContents().DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
}

// playSidecar binds a VolumeSnapshot and takes its snapshot; twice it takes others' annotations away.
func playSidecar(ctx context.Context, client snapshots.Interface, name string) error {
	all, contents := client.SnapshotV1().VolumeSnapshots("shop"), client.SnapshotV1().VolumeSnapshotContents()
	w := wait{op: "test", subject: name, within: Duration(time.Minute)}
	asked, err := await(ctx, w, all, name, func(*snapshotv1.VolumeSnapshot) (bool, error) { return true, nil })
	if err != nil {
		return err
	}
	handle := "handle-blocks"
	taken := mergePatch(map[string]any{"status": map[string]any{"snapshotHandle": handle, "creationTime": time.Now().UnixNano(), "readyToUse": true}})
	content, err := contents.Create(ctx, &snapshotv1.VolumeSnapshotContent{
		ObjectMeta: metav1.ObjectMeta{Name: "content-" + name, Annotations: map[string]string{annotationBeingCreated: "yes"}},
		Spec: snapshotv1.VolumeSnapshotContentSpec{
			Driver: "disk.example", DeletionPolicy: snapshotv1.VolumeSnapshotContentDelete, Source: snapshotv1.VolumeSnapshotContentSource{VolumeHandle: &handle},
			VolumeSnapshotRef: corev1.ObjectReference{Namespace: "shop", Name: name, UID: asked.UID},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	bound := mergePatch(map[string]any{"status": map[string]any{"boundVolumeSnapshotContentName": content.Name}})
	if _, err := all.Patch(ctx, name, types.MergePatchType, bound, metav1.PatchOptions{}, "status"); err != nil {
		return err
	}
	kept := func(c *snapshotv1.VolumeSnapshotContent) (bool, error) {
		_, ok := recordOf(c)
		return ok, nil
	}
	for _, value := range []string{`{"` + annotationBeingCreated + `":"yes"}`, `{}`} {
		if _, err := await(ctx, w, contents, content.Name, kept); err != nil {
			return err
		}
		patch := `[{"op":"replace","path":"/metadata/annotations","value":` + value + `}]`
		if content, err = contents.Patch(ctx, content.Name, types.JSONPatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			return err
		}
		if _, err := contents.Patch(ctx, content.Name, types.MergePatchType, taken, metav1.PatchOptions{}, "status"); err != nil {
			return err
		}
	}
	return nil
}

func (a *api) nothingLeft(t *testing.T, client snapshots.Interface) {
	t.Helper()
	left, err := client.SnapshotV1().VolumeSnapshots("").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	for _, s := range left.Items {
		t.Errorf("VolumeSnapshot %s/%s is left", s.Namespace, s.Name)
	}
}
