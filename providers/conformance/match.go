package conformance

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

func matchCases() []trial {
	return []trial{
		{name: "match-and-bind", of: both, body: matchAndBind},
		{name: "match-refuses", body: matchRefuses},
	}
}

// bare is a PersistentVolume without a source, as it comes from another backend.
func bare(driver string, size int64) *corev1.PersistentVolume {
	mode := corev1.PersistentVolumeFilesystem
	return &corev1.PersistentVolume{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolume"},
		ObjectMeta: metav1.ObjectMeta{Name: "pvc-conformance", Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": driver}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(size, resource.BinarySI)},
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: "fast", VolumeMode: &mode,
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			ClaimRef:                      &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: "shop", Name: "data"},
		},
	}
}

func matchAndBind(c *scope) {
	if len(c.info.Drivers) == 0 {
		c.Skipf("the provider names no drivers")
	}
	first, second := c.empty(), c.empty()
	for _, driver := range c.info.Drivers {
		pv := bare(driver, c.config.Size/2)
		if c.config.PV != nil {
			if pv = c.config.PV(driver, first); pv == nil {
				continue // not a driver of this content
			}
			c.matched(driver+" as Kubernetes has it", pv, first)
		}
		if driver == "*" && c.config.PV == nil {
			continue
		}
		bound := c.bind(driver, first, pv)
		c.matched(driver+", bound", bound, first)
		again := c.bind(driver, second, bound)
		c.matched(driver+", bound to another volume", again, second)
		c.matched(driver+", bound before", bound, first)
		if sourceOf(again) != sourceOf(bound) {
			c.Errorf("%s: bound to another volume, the driver %q became %q", driver, sourceOf(bound), sourceOf(again))
		}
	}
	c.matchVanished(second)
}

// sourceOf is the CSI driver, "" of in-tree sources.
func sourceOf(pv *corev1.PersistentVolume) string {
	if pv.Spec.CSI == nil {
		return ""
	}
	return pv.Spec.CSI.Driver
}

func (c *scope) matched(name string, pv *corev1.PersistentVolume, want providers.Volume) {
	got, err := c.other().Match(c.ctx, pv)
	c.must("match "+name, err)
	if got.ID != want.ID {
		c.Errorf("match %s: it is volume %q; expected %q", name, got.ID, want.ID)
	}
}

// bind holds Bind to what it must keep and set.
func (c *scope) bind(driver string, v providers.Volume, pv *corev1.PersistentVolume) *corev1.PersistentVolume {
	before := pv.DeepCopy()
	bound, err := c.provider.Bind(c.ctx, v.Handle, pv)
	c.must("bind for "+driver, err)
	if pv.String() != before.String() {
		c.Errorf("bind for %s changed what it was given; it returns a copy", driver)
	}
	old, now := before.Spec, bound.Spec
	if bound.Name != before.Name || now.StorageClassName != old.StorageClassName || len(now.AccessModes) != len(old.AccessModes) ||
		now.ClaimRef.String() != old.ClaimRef.String() || now.PersistentVolumeReclaimPolicy != old.PersistentVolumeReclaimPolicy ||
		!maps.Equal(bound.Labels, before.Labels) {
		c.Errorf("bind for %s: name, class, modes, claim, policy or labels did not stay", driver)
	}
	if size := now.Capacity.Storage().Value(); v.Size > 0 && size != v.Size {
		c.Errorf("bind for %s: the capacity is %d; the volume has %d", driver, size, v.Size)
	}
	if now.PersistentVolumeSource == (corev1.PersistentVolumeSource{}) {
		c.Fatalf("bind for %s: there is no source", driver)
	}
	return bound
}

func (c *scope) matchVanished(v providers.Volume) {
	bound, err := c.provider.Bind(c.ctx, v.Handle, bare(c.info.Drivers[0], c.config.Size))
	if err != nil || !c.makes() {
		return // bound by the configuration's PV alone, or nothing can be deleted
	}
	c.must("delete the volume", c.provider.DeleteVolume(c.ctx, v.Handle))
	_, err = c.provider.Match(c.ctx, bound)
	c.refused("match a volume that has vanished", err, fault.NotFound)
	_, err = c.provider.Bind(c.ctx, v.Handle, bound)
	c.refused("bind a volume that has vanished", err, fault.NotFound)
}

func matchRefuses(c *scope) {
	if len(c.info.Drivers) == 0 {
		c.Skipf("the provider names no drivers")
	}
	foreign := bare("csi.example.org", c.config.Size)
	foreign.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: "no.such.driver.example.org", VolumeHandle: "muster-1"}
	_, err := c.provider.Match(c.ctx, foreign)
	c.refused("match a PersistentVolume of a driver that is not named", err, fault.Unsupported)
	foreign.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}}
	_, err = c.provider.Match(c.ctx, foreign)
	c.refused("match a hostPath", err, fault.Unsupported)
	_, err = c.provider.Match(c.ctx, bare("csi.example.org", c.config.Size))
	c.refused("match a PersistentVolume without a source", err, fault.Unsupported)
}
