package workload

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
)

// The bank: a StatefulSet whose pod is a PostgreSQL server with its data in an emptyDir. A pod that starts anew
// makes an empty server.
const (
	BankNamespace = "bank"
	BankServer    = "ledger" // StatefulSet, Service and Secret
	BankPod       = BankServer + "-0"
	BankRole      = "clerk"    // owns the database
	BankDatabase  = "accounts" // of the server
)

// The keys of the bank's Secret: passwords of the roles postgres and BankRole.
const (
	BankAdmin = "password"
	BankClerk = "clerk"
)

// BankPassword is what the Secret holds under a key. SecretMarker stands in it.
func BankPassword(key string) string {
	return fmt.Sprintf("%s-%s-%s", SecretMarker, BankNamespace, key)
}

// FillBank makes the bank's objects. image is PostgreSQL for pods, with psql and pg_isready in its path.
func FillBank(ctx context.Context, client kubernetes.Interface, image string) error {
	if err := ensure(client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: BankNamespace}}, metav1.CreateOptions{})); err != nil {
		return err
	}
	meta := metav1.ObjectMeta{Name: BankServer, Namespace: BankNamespace}
	if err := ensure(client.CoreV1().Secrets(BankNamespace).Create(ctx, &corev1.Secret{ObjectMeta: meta,
		StringData: map[string]string{BankAdmin: BankPassword(BankAdmin), BankClerk: BankPassword(BankClerk)},
	}, metav1.CreateOptions{})); err != nil {
		return err
	}
	if err := ensure(client.CoreV1().Services(BankNamespace).Create(ctx, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": BankServer}, Ports: []corev1.ServicePort{{Port: 5432, TargetPort: intstr.FromInt32(5432)}},
	}}, metav1.CreateOptions{})); err != nil {
		return err
	}
	one := int32(1)
	return ensure(client.AppsV1().StatefulSets(BankNamespace).Create(ctx, &appsv1.StatefulSet{ObjectMeta: meta,
		Spec: appsv1.StatefulSetSpec{Replicas: &one, ServiceName: BankServer, Selector: selector(BankServer), Template: bankTemplate(image)},
	}, metav1.CreateOptions{}))
}

func bankTemplate(image string) corev1.PodTemplateSpec {
	grace, postgres, links := int64(1), int64(999), false
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": BankServer}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace, EnableServiceLinks: &links,
			SecurityContext: &corev1.PodSecurityContext{RunAsUser: &postgres, RunAsGroup: &postgres, FSGroup: &postgres},
			Volumes:         []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
			Containers: []corev1.Container{{
				Name: "postgres", Image: image, ImagePullPolicy: corev1.PullNever,
				Command: []string{"/usr/local/bin/postgres-entrypoint"},
				Env: []corev1.EnvVar{
					{Name: "PGDATA", Value: "/var/lib/postgresql/data/pgdata"},
					{Name: "POSTGRES_PASSWORD", ValueFrom: secretKey(BankAdmin)},
					{Name: "CLERK_PASSWORD", ValueFrom: secretKey(BankClerk)},
				},
				Ports:        []corev1.ContainerPort{{Name: "postgresql", ContainerPort: 5432}},
				VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/var/lib/postgresql/data"}},
				ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
					Exec: &corev1.ExecAction{Command: []string{"pg_isready", "--host=127.0.0.1", "--username=postgres", "--quiet"}},
				}},
			}},
		},
	}
}

func secretKey(key string) *corev1.EnvVarSource {
	return &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: BankServer}, Key: key}}
}
