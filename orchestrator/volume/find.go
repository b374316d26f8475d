package volume

import (
	"cmp"
	"context"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Backend is a storage of the inventory and its provider.
type Backend struct {
	Storage  string
	Provider providers.Provider
}

// Claimed is a volume of the cluster. Storage and Volume are filled by Match.
type Claimed struct {
	PV        *corev1.PersistentVolume
	Namespace string
	Claim     string // the PersistentVolumeClaim's name
	Workload  string // "statefulset/db": what controls the pods that mount it; empty when none does
	Mounts    []Mount

	Storage string
	Volume  providers.Volume
}

// Mount is a place where a running pod has the volume.
type Mount struct {
	Pod, Container, Path, Node string
}

// Choice says which claims are meant.
type Choice struct {
	Namespaces []string // globs; none means all
	Exclude    []string // globs of namespaces
}

func (c Choice) takes(namespace string) (bool, error) {
	for _, pattern := range c.Exclude {
		if matched, err := path.Match(pattern, namespace); err != nil || matched {
			return false, badGlob(pattern, err)
		}
	}
	for _, pattern := range c.Namespaces {
		if matched, err := path.Match(pattern, namespace); err != nil || matched {
			return matched, badGlob(pattern, err)
		}
	}
	return len(c.Namespaces) == 0, nil
}

func badGlob(pattern string, err error) error {
	if err == nil {
		return nil
	}
	return fault.New("choose volumes", fault.Invalid, pattern, err)
}

// only is the one namespace that is chosen by its name, empty when there may be several.
func (c Choice) only() string {
	if len(c.Namespaces) == 1 && !strings.ContainsAny(c.Namespaces[0], `*?[\\`) {
		return c.Namespaces[0]
	}
	return ""
}

// List lists the bound PersistentVolumes of the chosen namespaces, by namespace and claim. It asks no
// provider. One namespace by its name costs as many requests as it has claims, however large the cluster is.
func List(ctx context.Context, client kubernetes.Interface, choice Choice) ([]Claimed, error) {
	volumes, err := boundVolumes(ctx, client, choice)
	if err != nil {
		return nil, err
	}
	pods, err := client.CoreV1().Pods(choice.only()).List(ctx, metav1.ListOptions{FieldSelector: "status.phase=Running"})
	if err != nil {
		return nil, listFailed("list pods", err)
	}
	used := usedBy(pods.Items)
	var found []Claimed
	for _, pv := range volumes {
		claimed := Claimed{PV: pv, Namespace: pv.Spec.ClaimRef.Namespace, Claim: pv.Spec.ClaimRef.Name}
		use := used[claimed.Namespace+"/"+claimed.Claim]
		claimed.Workload, claimed.Mounts = use.workload, use.mounts
		found = append(found, claimed)
	}
	slices.SortFunc(found, func(a, b Claimed) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Claim, b.Claim))
	})
	return found, nil
}

func listFailed(op string, err error) error {
	kind := fault.Transient
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		kind = fault.Denied
	}
	return fault.New(op, kind, "", err)
}

func boundVolumes(ctx context.Context, client kubernetes.Interface, choice Choice) ([]*corev1.PersistentVolume, error) {
	if namespace := choice.only(); namespace != "" {
		return volumesOfClaims(ctx, client, namespace)
	}
	list, err := client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, listFailed("list volumes", err)
	}
	var bound []*corev1.PersistentVolume
	for i := range list.Items {
		pv := &list.Items[i]
		if pv.Spec.ClaimRef == nil || pv.Status.Phase != corev1.VolumeBound {
			continue
		}
		taken, err := choice.takes(pv.Spec.ClaimRef.Namespace)
		if err != nil {
			return nil, err
		}
		if taken {
			bound = append(bound, pv)
		}
	}
	return bound, nil
}

func volumesOfClaims(ctx context.Context, client kubernetes.Interface, namespace string) ([]*corev1.PersistentVolume, error) {
	claims, err := client.CoreV1().PersistentVolumeClaims(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, listFailed("list claims", err)
	}
	var bound []*corev1.PersistentVolume
	for _, claim := range claims.Items {
		if claim.Spec.VolumeName == "" {
			continue
		}
		pv, err := client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, listFailed("read volume", err)
		}
		if pv.Status.Phase == corev1.VolumeBound && pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.UID == claim.UID {
			bound = append(bound, pv)
		}
	}
	return bound, nil
}

type use struct {
	workload string
	mounts   []Mount
}

// usedBy tells, by namespace/claim, which pods have it.
func usedBy(pods []corev1.Pod) map[string]use {
	out := map[string]use{}
	for _, pod := range pods {
		for _, v := range pod.Spec.Volumes {
			claim := claimOf(pod, v)
			if claim == "" {
				continue
			}
			key := pod.Namespace + "/" + claim
			entry := out[key]
			entry.workload = cmp.Or(entry.workload, workloadOf(pod))
			entry.mounts = append(entry.mounts, mountsOf(pod, v.Name)...)
			out[key] = entry
		}
	}
	return out
}

func claimOf(pod corev1.Pod, v corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil: // its claim's name is a rule of Kubernetes: generic ephemeral volumes
		return pod.Name + "-" + v.Name
	}
	return ""
}

func mountsOf(pod corev1.Pod, volume string) []Mount {
	var mounts []Mount
	for _, container := range pod.Spec.Containers {
		for _, m := range container.VolumeMounts {
			if m.Name == volume && m.SubPath == "" {
				mounts = append(mounts, Mount{Pod: pod.Name, Container: container.Name, Path: m.MountPath, Node: pod.Spec.NodeName})
			}
		}
	}
	return mounts
}

// workloadOf is what controls a pod: a Deployment in place of its ReplicaSet.
func workloadOf(pod corev1.Pod) string {
	owner := metav1.GetControllerOf(&pod)
	if owner == nil {
		return "pod/" + pod.Name
	}
	name, hash := owner.Name, pod.Labels["pod-template-hash"]
	if short, cut := strings.CutSuffix(name, "-"+hash); owner.Kind == "ReplicaSet" && hash != "" && cut {
		return "deployment/" + short
	}
	return strings.ToLower(owner.Kind) + "/" + name
}

// Match finds the backend and the volume behind a claimed volume, and fills them in. It reports false when
// no backend knows volumes of its kind. A volume that none of those that know its kind has is
// fault.NotFound.
func Match(ctx context.Context, backends []Backend, claimed *Claimed) (bool, error) {
	var gone error
	for _, backend := range backends {
		found, err := backend.Provider.Match(ctx, claimed.PV)
		switch {
		case fault.Is(err, fault.Unsupported):
		case fault.Is(err, fault.NotFound): // another backend of the same kind may have it
			gone = err
		case err != nil:
			return false, err
		default:
			claimed.Storage, claimed.Volume = backend.Storage, found
			return true, nil
		}
	}
	return false, gone
}
