package steps

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/mem"
	"github.com/musterdr/muster/state/journal"
	"github.com/musterdr/muster/state/repository"
)

// volumeSite is a namespace of a real API server, a repository, a journal, and backends in memory.
type volumeSite struct {
	client     kubernetes.Interface
	namespace  string
	kubeconfig string
	backends   map[string]*mem.Backend // by the storage's name
	config     repository.Config
	store      *journal.Store
	runs       int
	class      string // of claims and volumes
	databases  string // of the Cluster document, below spec

	mu       sync.Mutex
	provided map[string]providers.Provider
}

func newVolumeSite(t *testing.T, namespace string, storages ...string) *volumeSite {
	t.Helper()
	w, client := inCluster(t, namespace)
	s := &volumeSite{client: client, namespace: namespace, kubeconfig: w.Cluster.Spec.KubeconfigFile,
		backends: map[string]*mem.Backend{}, provided: map[string]providers.Provider{},
		config: newRepository(t),
	}
	for _, name := range storages {
		made, err := mem.NewBackend(time.Now)
		if err != nil {
			t.Fatal(err)
		}
		s.backends[name] = made
		t.Cleanup(func() { _ = made.Close() })
	}
	store, err := journal.Open(t.Context(), journal.Config{Directory: t.TempDir(), Owner: "test", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	s.store = store
	return s
}

// Provider implements orchestrator.ProviderSource.
func (s *volumeSite) Provider(ctx context.Context, storage plans.Storage) (providers.Provider, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.provided[storage.Name]; known != nil {
		return known, nil
	}
	made := mem.New(mem.Config{Now: time.Now, Backend: s.backends[storage.Name]})
	s.provided[storage.Name] = made
	return made, made.Configure(ctx, []byte("{}"))
}

func (s *volumeSite) of(t *testing.T, storage string) providers.Provider {
	t.Helper()
	provider, err := s.Provider(t.Context(), plans.Storage{Name: storage})
	if err != nil {
		t.Fatal(err)
	}
	return provider
}

// claim makes a volume with a content, a PersistentVolume for it and the claim it is bound to.
func (s *volumeSite) claim(t *testing.T, storage, name string, content []byte, tags map[string]string) providers.Volume {
	t.Helper()
	made, err := s.backends[storage].AddVolume(t.Context(), providers.Volume{
		ID: name, Content: providers.ContentBlocks, Size: int64(len(content)), Tags: tags, Machine: tags["machine"],
	})
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, storage, made, 0, content)
	size := resource.NewQuantity(int64(len(content)), resource.BinarySI)
	claim, err := s.client.CoreV1().PersistentVolumeClaims(s.namespace).Create(t.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "shop"}},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &s.class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, VolumeName: s.pv(name),
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: *size}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: s.pv(name)},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: s.class,
			Capacity:         corev1.ResourceList{corev1.ResourceStorage: *size},
			AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/nowhere"}},
			ClaimRef:               &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: s.namespace, Name: name, UID: claim.UID},
		},
	}
	bound, err := s.of(t, storage).Bind(t.Context(), made.Handle, pv)
	if err != nil {
		t.Fatal(err)
	}
	created, err := s.client.CoreV1().PersistentVolumes().Create(t.Context(), bound, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.client.CoreV1().PersistentVolumes().Delete(context.Background(), created.Name, metav1.DeleteOptions{})
	})
	created.Status.Phase = corev1.VolumeBound
	if _, err := s.client.CoreV1().PersistentVolumes().UpdateStatus(t.Context(), created, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	return made
}

// letGo takes away what keeps a claim or its volume from going: no controller of this site would.
func (s *volumeSite) letGo(t *testing.T, name string) {
	t.Helper()
	none := []byte(`{"metadata":{"finalizers":null}}`)
	core := s.client.CoreV1()
	if pv, err := core.PersistentVolumes().Get(t.Context(), s.pv(name), metav1.GetOptions{}); err == nil && pv.DeletionTimestamp != nil {
		_, err = core.PersistentVolumes().Patch(t.Context(), pv.Name, types.MergePatchType, none, metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	if claim, err := core.PersistentVolumeClaims(s.namespace).Get(t.Context(), name, metav1.GetOptions{}); err == nil && claim.DeletionTimestamp != nil {
		_, err = core.PersistentVolumeClaims(s.namespace).Patch(t.Context(), name, types.MergePatchType, none, metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (s *volumeSite) pv(claim string) string { return s.namespace + "-" + claim }

func (s *volumeSite) write(t *testing.T, storage string, v providers.Volume, offset int64, data []byte) {
	t.Helper()
	if err := s.backends[storage].WriteAt(t.Context(), v.ID, offset, data); err != nil {
		t.Fatal(err)
	}
}

// content reads a volume through a snapshot of its own.
func (s *volumeSite) content(t *testing.T, storage string, v providers.Volume) []byte {
	t.Helper()
	provider := s.of(t, storage)
	set, err := provider.Snapshot(t.Context(), providers.SnapshotRequest{Token: "test-" + v.ID + fmt.Sprint(rand.Uint64()), Volumes: []providers.Handle{v.Handle}})
	if err != nil {
		t.Fatal(err)
	}
	snapshot := set.Snapshots[0]
	defer provider.DeleteSnapshot(context.Background(), snapshot.Handle) //nolint:errcheck // the backend goes with the test
	var extents []providers.Extent
	err = provider.Extents(t.Context(), providers.ExtentsRequest{Snapshot: snapshot.Handle}, func(some []providers.Extent) error {
		extents = append(extents, some...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, snapshot.Size)
	err = provider.Read(t.Context(), providers.ReadRequest{Snapshot: snapshot.Handle, Extents: extents}, func(b providers.Block) error {
		copy(out[b.Offset:], b.Data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// snapshots are what Muster has at the backend "fast".
func (s *volumeSite) snapshots(t *testing.T) []providers.Snapshot {
	t.Helper()
	var found []providers.Snapshot
	err := s.of(t, "fast").ListSnapshots(t.Context(), providers.Query{Tags: map[string]string{providers.TagRun: "*"}}, func(snapshot providers.Snapshot) error {
		found = append(found, snapshot)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// runner is a Muster process.
func (s *volumeSite) runner() *orchestrator.Runner {
	return orchestrator.NewRunner(orchestrator.Config{
		Store: s.store, Definitions: All(), Observer: hush{}, Log: slog.New(slog.DiscardHandler), Now: time.Now, Providers: s,
		Repository: func(ctx context.Context, _ *plans.Repository) (*repository.Repository, error) {
			return repository.Open(ctx, s.config)
		},
	})
}

// start runs a plan whose steps are given.
func (s *volumeSite) start(t *testing.T, purpose plans.Purpose, steps string) (*orchestrator.Report, error) {
	t.Helper()
	s.runs++
	var storages strings.Builder
	for name := range s.backends {
		fmt.Fprintf(&storages, "    - {name: %s, provider: mem}\n", name)
	}
	key := filepath.Join(t.TempDir(), "key") // never read: the site opens the repository itself
	if err := os.WriteFile(key, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := plans.Read("site.yaml", strings.NewReader(fmt.Sprintf(`
apiVersion: muster.dev/v1alpha1
kind: Cluster
metadata: {name: prod}
spec:
  kubeconfigFile: %s
  storage:
%s%s---
apiVersion: muster.dev/v1alpha1
kind: Repository
metadata: {name: vault}
spec: {url: %q, keyFile: %s}
---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: site}
spec:
  purpose: %s
  steps:
%s`, s.kubeconfig, storages.String(), s.databases, s.config.URL, key, purpose, steps)))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := plans.Check(set, "site", vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	request := orchestrator.Request{ID: fmt.Sprintf("%s-%d", s.namespace, s.runs), Plan: plan}
	if purpose != plans.Capture {
		request.Point = "latest"
	}
	return s.runner().Start(t.Context(), request)
}

// run is start, where nothing may go wrong.
func (s *volumeSite) run(t *testing.T, purpose plans.Purpose, steps string) *orchestrator.Report {
	t.Helper()
	report, err := s.start(t, purpose, steps)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// manifest is that of the newest point.
func (s *volumeSite) manifest(t *testing.T) repository.Manifest {
	t.Helper()
	opened, err := repository.Open(t.Context(), s.config)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close(context.Background()) // it was only read
	point, err := opened.Point(t.Context(), "latest")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := opened.Verify(t.Context(), point, func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
	manifest, err := opened.Manifest(t.Context(), point)
	if err != nil {
		t.Fatal(err)
	}
	return manifest
}

func (s *volumeSite) layer(t *testing.T, id string) repository.VolumeLayer {
	t.Helper()
	for _, layer := range s.manifest(t).Volumes {
		if layer.ID == id {
			return layer
		}
	}
	t.Fatalf("the point holds no volume %s", id)
	return repository.VolumeLayer{}
}

// noise is data that neither compresses nor repeats.
func noise(seed uint64, size int) []byte {
	out := make([]byte, size)
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = source.Read(out) // it never fails
	return out
}

func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes that are not the %d captured ones", what, len(got), len(want))
	}
}
