package gluster_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/gluster"
	lab "github.com/musterdr/muster/testenv/gluster"
)

// TestOtherLayouts makes a volume again with other layouts, by nothing but what Discover told of it.
func TestOtherLayouts(t *testing.T) {
	c := need(t)
	t.Parallel()
	p := configured(t, c, nil)
	made := create(t, p, 128<<20, fast(map[string]string{
		"replica": "2", "option.performance.cache-size": "16MB", "option.user.team": "shop", "option.cluster.quorum-type": "auto",
	}))
	source := discovered(t, p, made.ID)
	if source.Size != 128<<20 || source.Parameters["layout"] != "replicate" || source.Parameters["replica"] != "2" {
		t.Errorf("%d bytes, %v", source.Size, source.Parameters)
	}
	from := attach(t, p, source, false)
	plant(t, from.Path)
	want := picture(t, from.Path)
	for _, layout := range []gluster.Layout{{Disperse: 3, Redundancy: 1}, {Replica: 3, Arbiter: 1}} {
		t.Run(fmt.Sprintf("%+v", layout), func(t *testing.T) {
			other := configured(t, c, func(s *gluster.Settings) { s.Layout = &layout })
			again := create(t, other, source.Size, source.Parameters)
			to := attach(t, other, again, false)
			copyTree(t, from.Path, to.Path)
			samePictures(t, again.ID, picture(t, to.Path), want)
			looksLike(t, discovered(t, other, again.ID), source, layout)
			xml, err := c.CLI(t.Context(), "--xml", "volume", "info", again.ID)
			must(t, err)
			for _, have := range []string{
				"<name>performance.cache-size</name>", "<value>16MB</value>", "<name>user.team</name>", fmt.Sprintf("<arbiterCount>%d<", layout.Arbiter),
				fmt.Sprintf("<redundancyCount>%d<", layout.Redundancy),
			} {
				if !strings.Contains(xml, have) {
					t.Errorf("gluster volume info does not tell %s: %s", have, xml)
				}
			}
		})
	}
}

func looksLike(t *testing.T, v, source providers.Volume, layout gluster.Layout) {
	t.Helper()
	if v.Size != source.Size {
		t.Errorf("the quota is %d, want %d", v.Size, source.Size)
	}
	if v.Parameters["redundancy"] != number(layout.Redundancy) || v.Parameters["arbiter"] != number(layout.Arbiter) {
		t.Errorf("made with %+v it has %v", layout, v.Parameters)
	}
	for name, value := range source.Parameters {
		if strings.HasPrefix(name, "option.") && !strings.HasPrefix(name, "option.cluster.") && !strings.HasPrefix(name, "option.performance.client-io") && v.Parameters[name] != value {
			t.Errorf("%s is %q, want %q", name, v.Parameters[name], value)
		}
	}
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func discovered(t *testing.T, p providers.Provider, id string) providers.Volume {
	t.Helper()
	var found []providers.Volume
	must(t, p.Discover(t.Context(), providers.Query{IDs: []string{id}}, func(v providers.Volume) error {
		found = append(found, v)
		return nil
	}))
	if len(found) != 1 {
		t.Fatalf("%d volumes are called %s", len(found), id)
	}
	return found[0]
}

// TestOldPersistentVolumes matches what Kubernetes and OpenShift had, and binds it to another volume.
func TestOldPersistentVolumes(t *testing.T) {
	c := need(t)
	t.Parallel()
	p := configured(t, c, plain)
	const heketi = "vol_0123456789abcdef0123456789abcdef"
	_, err := c.Exec(t.Context(), c.Peers[0].Name, "mkdir -p "+lab.BrickRoot+"/"+heketi)
	must(t, err)
	_, err = c.CLI(t.Context(), "volume", "create", heketi, c.Peers[0].Address+":"+lab.BrickRoot+"/"+heketi+"/brick")
	must(t, err)
	other := create(t, p, 0, fast(map[string]string{"layout": "distribute"}))
	annotations := map[string]string{"gluster.kubernetes.io/heketi-volume-id": strings.TrimPrefix(heketi, "vol_"), "gluster.org/type": "file"}
	namespace := "shop"
	for name, pv := range map[string]*corev1.PersistentVolume{
		"in-tree": {Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{
			Glusterfs: &corev1.GlusterfsPersistentVolumeSource{EndpointsName: "old", EndpointsNamespace: &namespace, Path: heketi, ReadOnly: true}}}},
		"a folder of it": {Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{
			Glusterfs: &corev1.GlusterfsPersistentVolumeSource{EndpointsName: "old", Path: "/" + heketi + "/sub/folder"}}}},
		"heketi without a path": {Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{
			Glusterfs: &corev1.GlusterfsPersistentVolumeSource{EndpointsName: "old"}}}},
		"CSI": {Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
			Driver: "org.gluster.glusterfs", VolumeHandle: heketi, NodePublishSecretRef: &corev1.SecretReference{Name: "s"}, VolumeAttributes: map[string]string{"glustervol": heketi}}}}},
	} {
		pv.Name, pv.Annotations = name, maps.Clone(annotations)
		v, err := p.Match(t.Context(), pv)
		must(t, err)
		if v.ID != heketi {
			t.Errorf("%s: it is %q", name, v.ID)
		}
		bound, err := p.Bind(t.Context(), other.Handle, pv)
		must(t, err)
		again, err := p.Match(t.Context(), bound)
		must(t, err)
		if again.ID != other.ID {
			t.Errorf("%s: bound it is %q", name, again.ID)
		}
		if g := bound.Spec.Glusterfs; g != nil && (g.ReadOnly != pv.Spec.Glusterfs.ReadOnly || g.EndpointsName != "gluster-lab" || bound.Annotations["gluster.kubernetes.io/heketi-volume-id"] != "") {
			t.Errorf("%s: bound it is %+v, annotated %v", name, g, bound.Annotations)
		}
		if csi := bound.Spec.CSI; csi != nil && (csi.NodePublishSecretRef == nil || csi.VolumeAttributes["glusterserver"] != c.Peers[0].Address) {
			t.Errorf("%s: bound it is %+v", name, csi)
		}
	}
	_, err = c.CLI(t.Context(), "volume", "delete", heketi)
	must(t, err)
}
