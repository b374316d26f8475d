package workload

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Server is a database server in the namespace BankNamespace: a StatefulSet of one pod, its data in a volume that
// outlives the pod, and a Secret with its password under the key BankAdmin. SecretMarker stands in the password.
type Server struct {
	Name     string
	Image    string
	Program  string            // what the container runs
	Password string            // the variable that gives the program its password
	Env      map[string]string // other variables
	Ready    []string          // a command that ends with 0 when the server takes connections
	Mount    string            // where its volume is
	Folder   string            // of the machine: the volume, which the user 999 may write
	Outside  string            // another of the machine, which the user 999 may write, by its own path; or empty
}

// ServerPod is the pod of a Server.
func ServerPod(name string) string { return name + "-0" }

// ServerPassword is that of a Server.
func ServerPassword(name string) string {
	return fmt.Sprintf("%s-%s-%s", SecretMarker, BankNamespace, name)
}

// StartServer makes the objects of a server.
func StartServer(ctx context.Context, client kubernetes.Interface, s Server) error {
	if err := s.secret(ctx, client); err != nil {
		return err
	}
	if err := s.volume(ctx, client, ServerPod(s.Name), s.Folder); err != nil {
		return err
	}
	return s.start(ctx, client, appsv1.OrderedReadyPodManagement, 1, s.template())
}

func (s Server) meta() metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: s.Name, Namespace: BankNamespace}
}

// secret makes the namespace and the Secret with the password.
func (s Server) secret(ctx context.Context, client kubernetes.Interface) error {
	if err := ensure(client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: BankNamespace}}, metav1.CreateOptions{})); err != nil {
		return err
	}
	return ensure(client.CoreV1().Secrets(BankNamespace).Create(ctx, &corev1.Secret{ObjectMeta: s.meta(),
		StringData: map[string]string{BankAdmin: ServerPassword(s.Name)},
	}, metav1.CreateOptions{}))
}

// volume makes that of a pod.
func (s Server) volume(ctx context.Context, client kubernetes.Interface, pod, folder string) error {
	return ensure(client.CoreV1().PersistentVolumes().Create(ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: pod}, Spec: corev1.PersistentVolumeSpec{
		Capacity: serverStorage(), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: folder}},
		ClaimRef:               &corev1.ObjectReference{Namespace: BankNamespace, Name: "data-" + pod},
	}}, metav1.CreateOptions{}))
}

func serverStorage() corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
}

func (s Server) start(ctx context.Context, client kubernetes.Interface, policy appsv1.PodManagementPolicyType, replicas int32, template corev1.PodTemplateSpec) error {
	return ensure(client.AppsV1().StatefulSets(BankNamespace).Create(ctx, &appsv1.StatefulSet{ObjectMeta: s.meta(), Spec: appsv1.StatefulSetSpec{
		Replicas: &replicas, PodManagementPolicy: policy, ServiceName: s.Name, Selector: selector(s.Name), Template: template,
		VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Resources: corev1.VolumeResourceRequirements{Requests: serverStorage()},
		}}},
	}}, metav1.CreateOptions{}))
}

func (s Server) template() corev1.PodTemplateSpec {
	grace, user, links := int64(30), int64(999), false
	env := []corev1.EnvVar{{Name: s.Password, ValueFrom: &corev1.EnvVarSource{
		SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: s.Name}, Key: BankAdmin},
	}}}
	for name, value := range s.Env {
		env = append(env, corev1.EnvVar{Name: name, Value: value})
	}
	mounts := []corev1.VolumeMount{{Name: "data", MountPath: s.Mount}}
	var volumes []corev1.Volume
	if s.Outside != "" {
		mounts = append(mounts, corev1.VolumeMount{Name: "outside", MountPath: s.Outside})
		volumes = append(volumes, corev1.Volume{Name: "outside", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: s.Outside}}})
	}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": s.Name}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace, EnableServiceLinks: &links,
			SecurityContext: &corev1.PodSecurityContext{RunAsUser: &user, RunAsGroup: &user, FSGroup: &user},
			Containers: []corev1.Container{{
				Name: "server", Image: s.Image, ImagePullPolicy: corev1.PullNever, Command: []string{s.Program}, Env: env,
				VolumeMounts:   mounts,
				ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, TimeoutSeconds: 5, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: s.Ready}}},
			}},
			Volumes: volumes,
		},
	}
}
