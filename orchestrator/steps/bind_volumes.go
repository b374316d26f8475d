package steps

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/providers/fault"
)

// BindVolumes makes the cluster's PersistentVolumes name the restored volumes, before pods ask for them.
type BindVolumes struct {
	// StorageClasses maps classes of PersistentVolumes and of their claims; one that is not named stays. The
	// class of a claim cannot be changed, so that such a claim is made again, too.
	StorageClasses map[string]string `yaml:"storageClasses,omitempty"`
}

// boundVolumes is what bind-volumes leaves.
type boundVolumes struct {
	Bound  map[string]cluster.Rebound `json:"bound"`            // by PersistentVolume
	Claims []string                   `json:"claims,omitempty"` // with another class: namespace/name
	Lost   []string                   `json:"lost,omitempty"`
}

// names are all of them: what an attempt made that died before its receipt is "same" to the next one.
func (b boundVolumes) names() []string { return slices.Collect(maps.Keys(b.Bound)) }

// Check refuses classes that would be mapped twice when the step is repeated. The volumes are not there yet.
func (s *BindVolumes) Check(context.Context, *orchestrator.Run) error {
	for from, to := range s.StorageClasses {
		if again, mapped := s.StorageClasses[to]; mapped && again != to {
			return fault.Newf("check storageClasses", fault.Invalid, from, "it becomes %s, and %s becomes %s: map to names that are not mapped themselves", to, to, again)
		}
	}
	return nil
}

// Do binds every restored volume that a PersistentVolume stood for.
func (s *BindVolumes) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	receipts := run.ItemReceipts("restore-volumes")
	out := boundVolumes{Bound: map[string]cluster.Rebound{}}
	if len(receipts) == 0 {
		return json.Marshal(out)
	}
	client, err := clusterClient(ctx, run)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	binder := &volumeBinder{BindVolumes: s, run: run, client: client}
	for _, id := range slices.Sorted(maps.Keys(receipts)) {
		var restored restoredVolume
		if err := json.Unmarshal(receipts[id], &restored); err != nil {
			return nil, fault.New("read receipt", fault.Corrupt, id, err)
		}
		if restored.Lost != "" {
			continue
		}
		name, bound, err := binder.bind(ctx, id, restored)
		if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Busy) {
			out.Lost = append(out.Lost, id)
			run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Lost, Layer: "volumes", Subject: id,
				Text: fmt.Sprintf("volume %s is there, but not bound: %v", restored.Volume.ID, err)})
			continue
		}
		if err != nil {
			return nil, err
		}
		if name != "" {
			out.Bound[name] = bound
		}
	}
	out.Claims = binder.claims
	return json.Marshal(out)
}

type volumeBinder struct {
	*BindVolumes
	run    *orchestrator.Run
	client *cluster.Client
	claims []string // that have another class now
}

// bind returns the name of the PersistentVolume, empty when the volume never had one.
func (b *volumeBinder) bind(ctx context.Context, id string, restored restoredVolume) (string, cluster.Rebound, error) {
	layer, err := layerOf(ctx, b.run, id)
	if err != nil || layer.PV == "" {
		return "", "", err
	}
	was, err := b.template(ctx, layer.PV)
	if err != nil {
		return "", "", err
	}
	provider, _, err := b.run.Storage(ctx, restored.Storage)
	if err != nil {
		return "", "", err
	}
	want, err := provider.Bind(ctx, restored.Volume.Handle, was)
	if err != nil {
		return "", "", err
	}
	want.Name, want.Spec.ClaimRef = was.Name, was.Spec.ClaimRef
	if class, mapped := b.StorageClasses[want.Spec.StorageClassName]; mapped {
		want.Spec.StorageClassName = class
	}
	if err := b.reclass(ctx, was.Spec.ClaimRef); err != nil {
		return "", "", err
	}
	bound, err := b.client.Rebind(ctx, want)
	return want.Name, bound, err
}

// reclass gives a claim the class that its own is mapped to. An earlier attempt may have died between two
// objects: then the recovery point knows the claim.
func (b *volumeBinder) reclass(ctx context.Context, ref *corev1.ObjectReference) error {
	if len(b.StorageClasses) == 0 {
		return nil
	}
	claim, err := b.client.Kubernetes().CoreV1().PersistentVolumeClaims(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		claim, err = recordedObject[corev1.PersistentVolumeClaim](ctx, b.run, "persistentvolumeclaims", ref.Namespace, ref.Name)
	} else if err != nil {
		err = fault.New("find claim", fault.Transient, ref.Namespace+"/"+ref.Name, err)
	}
	if err != nil || claim.Spec.StorageClassName == nil {
		return err
	}
	class, mapped := b.StorageClasses[*claim.Spec.StorageClassName]
	if !mapped && slices.Contains(slices.Collect(maps.Values(b.StorageClasses)), *claim.Spec.StorageClassName) {
		class, mapped = *claim.Spec.StorageClassName, true // an earlier attempt's
	}
	if !mapped {
		return nil
	}
	b.claims = append(b.claims, claim.Namespace+"/"+claim.Name)
	return b.client.Reclass(ctx, claim, class)
}

// template is the PersistentVolume as the cluster has it, else as the recovery point does.
func (b *volumeBinder) template(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	found, err := b.client.Kubernetes().CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
	if err == nil && found.Spec.ClaimRef != nil {
		return found, nil
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fault.New("find volume object", fault.Transient, name, err)
	}
	return recordedObject[corev1.PersistentVolume](ctx, b.run, "persistentvolumes", "", name)
}

// recordedObject is an object of the core group as the recovery point has it.
func recordedObject[T any](ctx context.Context, run *orchestrator.Run, resource, namespace, name string) (*T, error) {
	recorded, err := cluster.ReadPoint(ctx, run.Repository, run.Point)
	if err != nil {
		return nil, err
	}
	for _, entry := range recorded.Entries {
		if entry.Group == "" && entry.Resource == resource && entry.Namespace == namespace && entry.Name == name {
			return readRecorded[T](ctx, run, entry)
		}
	}
	return nil, fault.Newf("find object", fault.NotFound, resource+" "+name, "neither the cluster nor the recovery point has it")
}

// maxRecorded bounds an object in YAML, in bytes: etcd's limit for one object, and more.
const maxRecorded = 4 << 20

func readRecorded[T any](ctx context.Context, run *orchestrator.Run, entry cluster.Entry) (*T, error) {
	opened, err := run.Repository.Open(ctx, entry.ID)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	if opened.Size() > maxRecorded {
		return nil, fault.Newf("read object", fault.Corrupt, entry.Name, "it has %d bytes", opened.Size())
	}
	content, err := io.ReadAll(opened)
	if err != nil {
		return nil, err
	}
	var object T
	if err := yaml.Unmarshal(content, &object); err != nil {
		return nil, fault.New("read object", fault.Corrupt, entry.Name, err)
	}
	return &object, nil
}

// Verify looks whether every bound PersistentVolume is there and belongs to its claim.
func (s *BindVolumes) Verify(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	var bound boundVolumes
	if err := json.Unmarshal(receipt, &bound); err != nil {
		return fault.New("read receipt", fault.Corrupt, run.Step, err)
	}
	if len(bound.Bound) == 0 {
		return nil
	}
	client, err := clusterClient(ctx, run)
	if err != nil {
		return err
	}
	defer client.Close()
	for name := range bound.Bound {
		pv, err := client.Kubernetes().CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return fault.New("verify volume object", fault.Transient, name, err)
		}
		if pv.Spec.ClaimRef == nil {
			return fault.Newf("verify volume object", fault.Transient, name, "it is bound to no claim")
		}
	}
	return nil
}

// Undo does nothing: the objects belong to the cluster that is being made.
func (s *BindVolumes) Undo(context.Context, *orchestrator.Run, orchestrator.Receipt) error {
	return nil
}
