package cluster

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterdr/muster/providers/fault"
)

// database is a StatefulSet of one pod, with a claim for its data.
func database(namespace, name string) *appsv1.StatefulSet {
	one, labels := int32(1), map[string]string{"app": name}
	return &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &one, ServiceName: name, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
				InitContainers: []corev1.Container{{Name: "init", Image: "init"}},
				Volumes:        []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
				Containers: []corev1.Container{
					{Name: "exporter", Image: "exporter"},
					{Name: "server", Image: "server", Command: []string{"serve"}, Env: []corev1.EnvVar{{Name: "PASSWORD", Value: "planted-in-env"}},
						VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}, {Name: "scratch", MountPath: "/tmp"}}},
				},
			}},
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
			}}},
		},
	}
}

func TestStopRefuses(t *testing.T) {
	server := shared.Need(t)
	client := connect(t, server)
	yes := true
	for name, c := range map[string]struct {
		change func(*appsv1.StatefulSet)
		query  PodQuery
		kind   fault.Kind
		text   string
	}{
		"fits":          {func(*appsv1.StatefulSet) {}, PodQuery{Selector: "app=db", Container: "server"}, 0, ""},
		"fits by name":  {func(*appsv1.StatefulSet) {}, PodQuery{Name: "db-0", Container: "server"}, 0, ""},
		"several":       {func(s *appsv1.StatefulSet) { three := int32(3); s.Spec.Replicas = &three }, PodQuery{Selector: "app=db", Container: "server"}, fault.Unsupported, "3 replicas"},
		"stopped, of 3": {func(s *appsv1.StatefulSet) { s.Annotations = map[string]string{replicasBefore: "3"} }, PodQuery{Selector: "app=db", Container: "server"}, fault.Unsupported, "3 replicas"},
		"of patroni":    {func(s *appsv1.StatefulSet) { three := int32(3); s.Spec.Replicas = &three }, PodQuery{Selector: "app=db,role=master", Patroni: "app=db", Container: "server"}, 0, ""},
		"sharing": {func(s *appsv1.StatefulSet) {
			three := int32(3)
			s.Spec.Replicas, s.Spec.VolumeClaimTemplates = &three, nil
			s.Spec.Template.Spec.Volumes = append(s.Spec.Template.Spec.Volumes, corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "shared"}}})
		}, PodQuery{Selector: "app=db", Patroni: "app=db", Container: "server"}, fault.Unsupported, "no volumes of their own"},
		"no volume":      {func(*appsv1.StatefulSet) {}, PodQuery{Selector: "app=db", Container: "exporter"}, fault.Unsupported, "no volume that outlives its pod"},
		"no container":   {func(*appsv1.StatefulSet) {}, PodQuery{Selector: "app=db", Container: "postgres"}, fault.NotFound, "exporter, server"},
		"none":           {func(*appsv1.StatefulSet) {}, PodQuery{Selector: "app=other"}, fault.NotFound, "no StatefulSet or Deployment"},
		"none of a name": {func(*appsv1.StatefulSet) {}, PodQuery{Name: "db-7"}, fault.NotFound, "no StatefulSet or Deployment"},
		"operator's": {func(s *appsv1.StatefulSet) {
			s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "acid.zalan.do/v1", Kind: "postgresql", Name: "ledger", UID: "u", Controller: &yes}}
		}, PodQuery{Selector: "app=db", Container: "server"}, fault.Unsupported, "belongs to postgresql ledger"},
	} {
		t.Run(name, func(t *testing.T) {
			namespace := "stop-" + strings.NewReplacer(" ", "-", ",", "", "'", "").Replace(name)
			space := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
			if _, err := client.typed.CoreV1().Namespaces().Create(t.Context(), space, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			set := database(namespace, "db")
			c.change(set)
			if _, err := client.typed.AppsV1().StatefulSets(namespace).Create(t.Context(), set, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			c.query.Namespace = namespace
			err := client.CheckStop(t.Context(), c.query)
			if c.text == "" && err != nil || c.text != "" && (!fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.text)) {
				t.Errorf("got %v, want %s with %q", err, c.kind, c.text)
			}
		})
	}
}

func TestStandInHasNoEnvironment(t *testing.T) {
	set := database("shop", strings.Repeat("long", 14))
	w := stoppable{kind: "StatefulSet", meta: set.ObjectMeta, template: set.Spec.Template, claims: set.Spec.VolumeClaimTemplates}
	pod, err := w.standIn("server")
	if err != nil {
		t.Fatal(err)
	}
	if len(pod.Name) > 63 {
		t.Errorf("the name has %d characters", len(pod.Name))
	}
	c := pod.Spec.Containers
	if len(c) != 1 || c[0].Name != "server" || len(c[0].Env) != 0 || len(pod.Spec.InitContainers) != 0 {
		t.Errorf("got %+v", pod.Spec)
	}
	if len(pod.Spec.Volumes) != 2 || pod.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != "data-"+set.Name+"-0" {
		t.Errorf("volumes %+v", pod.Spec.Volumes)
	}
}
