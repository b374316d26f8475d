package workload

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// PatroniMembers is how many pods a Patroni cluster has.
const PatroniMembers = 2

// PatroniLabels are those that Patroni's pods and objects have in common.
func PatroniLabels(name string) map[string]string {
	return map[string]string{"application": "patroni", "cluster-name": name}
}

// PatroniPod is a member's pod.
func PatroniPod(name string, member int) string { return fmt.Sprintf("%s-%d", name, member) }

// PatroniFolder is a member's volume: a folder of the machine, which the user 999 may write.
func (s Server) PatroniFolder(member int) string { return fmt.Sprintf("%s-%d", s.Folder, member) }

// StartPatroni makes the objects of a Patroni cluster. All its pods start at once, as those of Zalando's operator do.
func StartPatroni(ctx context.Context, client kubernetes.Interface, s Server) error {
	if err := s.secret(ctx, client); err != nil {
		return err
	}
	if err := s.allowPatroni(ctx, client); err != nil {
		return err
	}
	// Without a selector: its Endpoints are Patroni's.
	if err := ensure(client.CoreV1().Services(BankNamespace).Create(ctx, &corev1.Service{ObjectMeta: s.meta(), Spec: corev1.ServiceSpec{
		Ports: []corev1.ServicePort{{Port: 5432}},
	}}, metav1.CreateOptions{})); err != nil {
		return err
	}
	for member := range PatroniMembers {
		if err := s.volume(ctx, client, PatroniPod(s.Name, member), s.PatroniFolder(member)); err != nil {
			return err
		}
	}
	template := s.template()
	template.Spec.ServiceAccountName = s.Name
	for name, value := range PatroniLabels(s.Name) {
		template.Labels[name] = value
	}
	return s.start(ctx, client, appsv1.ParallelPodManagement, PatroniMembers, template)
}

// allowPatroni lets the pods keep Patroni's state in the API server.
func (s Server) allowPatroni(ctx context.Context, client kubernetes.Interface) error {
	if err := ensure(client.CoreV1().ServiceAccounts(BankNamespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: s.meta()}, metav1.CreateOptions{})); err != nil {
		return err
	}
	all := []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}
	if err := ensure(client.RbacV1().Roles(BankNamespace).Create(ctx, &rbacv1.Role{ObjectMeta: s.meta(), Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"endpoints", "endpoints/restricted", "pods"}, Verbs: all},
		{APIGroups: []string{""}, Resources: []string{"services"}, Verbs: []string{"create"}},
	}}, metav1.CreateOptions{})); err != nil {
		return err
	}
	return ensure(client.RbacV1().RoleBindings(BankNamespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: s.meta(),
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: BankNamespace, Name: s.Name}},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: s.Name},
	}, metav1.CreateOptions{}))
}
