package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv/apiserver"
)

// scratchServer is a workload that does everything that its copy must not.
func scratchServer(namespace, name string) *appsv1.StatefulSet {
	set := database(namespace, name)
	spec := &set.Spec.Template.Spec
	spec.HostNetwork, spec.PriorityClassName, spec.DNSPolicy = true, "system-cluster-critical", corev1.DNSClusterFirst
	spec.HostAliases = []corev1.HostAlias{{IP: "192.0.2.7", Hostnames: []string{"other-member"}}}
	spec.Volumes = append(spec.Volumes,
		corev1.Volume{Name: "archive", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/srv/archive"}}},
		corev1.Volume{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "config"}}}})
	c := &spec.Containers[1]
	c.Args = []string{"--data=/data"}
	c.Env = append(c.Env, corev1.EnvVar{Name: "ROOT", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "db"}, Key: "root"}}})
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "archive", MountPath: "/archive"}, corev1.VolumeMount{Name: "config", MountPath: "/etc/server"})
	c.Ports = []corev1.ContainerPort{{Name: "sql", ContainerPort: 5432, HostPort: 5432}}
	probe := func() *corev1.Probe {
		return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}}
	}
	c.ReadinessProbe, c.LivenessProbe, c.StartupProbe = probe(), probe(), probe()
	c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"leave"}}}}
	return set
}

func scratchWorkload(set *appsv1.StatefulSet) stoppable {
	return stoppable{kind: "StatefulSet", meta: set.ObjectMeta, template: set.Spec.Template, claims: set.Spec.VolumeClaimTemplates, ordinal: 0}
}

// inCluster has the API server take the pod as a task's helper, and returns what it made of it.
func inCluster(t *testing.T, server *apiserver.Server, namespace string, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	client := connect(t, server)
	newNamespace(t, client, namespace)
	create(t, client, "/api/v1/namespaces/"+namespace+"/serviceaccounts", Object{"metadata": map[string]any{"name": "default"}})
	_, made, err := client.makeHelper(t.Context(), "task-1", pod)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestScratchIsNoneOfTheWorkload(t *testing.T) {
	server := shared.Need(t)
	set := scratchServer("scratch-copy", strings.Repeat("long", 16))
	pod, err := scratchWorkload(set).scratch("server", false)
	if err != nil {
		t.Fatal(err)
	}
	made := inCluster(t, server, "scratch-copy", pod)
	if len(made.Name) > 63 || !strings.HasSuffix(made.Name, "-scratch") {
		t.Errorf("the name is %s", made.Name)
	}
	if len(made.Labels) != 2 || made.Labels[taskLabel] != "task-1" || made.Labels[managedBy] == "" || len(made.OwnerReferences) != 0 {
		t.Errorf("labels %v, owners %v", made.Labels, made.OwnerReferences)
	}
	spec := made.Spec
	if spec.ActiveDeadlineSeconds == nil || spec.HostNetwork || *spec.Priority != 0 || spec.DNSPolicy != corev1.DNSNone || len(spec.HostAliases) != 0 || len(spec.InitContainers) != 0 || *spec.AutomountServiceAccountToken {
		t.Errorf("got %s", toJSON(t, spec))
	}
	for _, v := range spec.Volumes {
		if lasts(v) {
			t.Errorf("volume %s is the original's: %s", v.Name, toJSON(t, v))
		}
		if v.Name == "data" && v.EmptyDir.SizeLimit.String() != "1Gi" {
			t.Errorf("the data's volume may grow to %s", v.EmptyDir.SizeLimit)
		}
	}
	if len(spec.Volumes) != 4 || len(spec.Containers) != 1 {
		t.Fatalf("got %s", toJSON(t, spec))
	}
	c, own := spec.Containers[0], set.Spec.Template.Spec.Containers[1]
	if c.Name != "server" || !slices.Equal(c.Command, own.Command) || !slices.Equal(c.Args, own.Args) || toJSON(t, c.Env) != toJSON(t, own.Env) {
		t.Errorf("got %s", toJSON(t, c))
	}
	if c.ReadinessProbe == nil || c.LivenessProbe == nil || c.Lifecycle != nil || c.Ports[0].HostPort != 0 {
		t.Errorf("got %s", toJSON(t, c))
	}
}

func TestScratchHeldBack(t *testing.T) {
	server := shared.Need(t)
	pod, err := scratchWorkload(scratchServer("scratch-held", "db")).scratch("server", true)
	if err != nil {
		t.Fatal(err)
	}
	c := inCluster(t, server, "scratch-held", pod).Spec.Containers[0]
	if n := len(c.Command); n != 5 || c.Command[0] != "sh" || c.Command[n-1] != "serve" || !slices.Equal(c.Args, []string{"--data=/data"}) {
		t.Errorf("it runs %q %q", c.Command, c.Args)
	}
	if c.LivenessProbe != nil || c.StartupProbe != nil || c.ReadinessProbe == nil {
		t.Errorf("probes %s", toJSON(t, c))
	}
}

// TestHoldBack: the program runs, with its arguments and as the same process, when the file is there, and not before:
// here it comes while the shell sleeps.
func TestHoldBack(t *testing.T) {
	folder, tools := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(tools, "sleep"), []byte("#!/bin/sh\n: >'"+folder+"/go'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), "sh", "-c", strings.ReplaceAll(holdBack, scratchFolder, folder), "sh", "sh", "-c", `echo "$$ $1 $2"; ls "$0"`, folder, "a b", "$c")
	c.Env = []string{"PATH=" + tools + ":" + os.Getenv("PATH")}
	out, err := c.Output()
	if want := fmt.Sprintf("%d a b $c\ngo\n", c.Process.Pid); err != nil || string(out) != want {
		t.Errorf("it says %q, %v, want %q", out, err, want)
	}
}

// TestScratchEnds: what an earlier try left goes, and what another task made stays.
func TestScratchEnds(t *testing.T) {
	server := shared.Need(t)
	client := connect(t, server)
	pod, err := scratchWorkload(scratchServer("scratch-ends", "db")).scratch("server", false)
	if err != nil {
		t.Fatal(err)
	}
	first := inCluster(t, server, "scratch-ends", pod.DeepCopy())
	_, again, err := client.makeHelper(t.Context(), "task-1", pod.DeepCopy())
	if err != nil || again.UID == first.UID {
		t.Fatalf("a next try of the task: %v", err)
	}
	h, _, err := client.makeHelper(t.Context(), "task-2", pod.DeepCopy())
	if !fault.Is(err, fault.Busy) {
		t.Errorf("another task: %v", err)
	}
	if err := (Scratch{Helper: h, task: "task-2"}).End(t.Context()); !fault.Is(err, fault.Busy) {
		t.Errorf("another task ends it: %v", err)
	}
	get := func() error {
		_, err := client.typed.CoreV1().Pods("scratch-ends").Get(t.Context(), pod.Name, metav1.GetOptions{})
		return err
	}
	if err := get(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := (Scratch{Helper: h, task: "task-1"}).End(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if err := get(); !apierrors.IsNotFound(err) {
		t.Errorf("after its end: %v", err)
	}
}

func TestScratchRefuses(t *testing.T) {
	server := shared.Need(t)
	client := connect(t, server)
	yes := true
	for name, c := range map[string]struct {
		change func(*appsv1.StatefulSet)
		held   bool
		kind   fault.Kind
		text   string
	}{
		"fits":      {func(*appsv1.StatefulSet) {}, false, 0, ""},
		"fits-held": {func(*appsv1.StatefulSet) {}, true, 0, ""},
		"several":   {func(s *appsv1.StatefulSet) { three := int32(3); s.Spec.Replicas = &three }, false, fault.Unsupported, "3 replicas"},
		"operator": {func(s *appsv1.StatefulSet) {
			s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "acid.zalan.do/v1", Kind: "postgresql", Name: "ledger", UID: "u", Controller: &yes}}
		}, false, fault.Unsupported, "belongs to postgresql ledger"},
		"device": {func(s *appsv1.StatefulSet) {
			s.Spec.Template.Spec.Containers[1].VolumeMounts = nil
			s.Spec.Template.Spec.Containers[1].VolumeDevices = []corev1.VolumeDevice{{Name: "data", DevicePath: "/dev/data"}}
		}, false, fault.Unsupported, "block devices"},
		"entrypoint":         {func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[1].Command = nil }, true, fault.Unsupported, "name it as command"},
		"entrypoint-logical": {func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[1].Command = nil }, false, 0, ""},
		"gone": {func(s *appsv1.StatefulSet) {
			s.Spec.Template.Labels["app"], s.Spec.Selector.MatchLabels["app"] = "x", "x"
		}, false, fault.NotFound, "no StatefulSet or Deployment"},
	} {
		t.Run(name, func(t *testing.T) {
			namespace := "scratch-refuses-" + name
			newNamespace(t, client, namespace)
			set := database(namespace, "db")
			c.change(set)
			if _, err := client.typed.AppsV1().StatefulSets(namespace).Create(t.Context(), set, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			err := client.CheckScratch(t.Context(), PodQuery{Namespace: namespace, Selector: "app=db", Container: "server"}, c.held)
			if c.text == "" && err != nil || c.text != "" && (!fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.text)) {
				t.Errorf("got %v, want %s with %q", err, c.kind, c.text)
			}
		})
	}
}
