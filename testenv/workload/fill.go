package workload

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Size says how much Fill makes.
type Size struct {
	Namespaces int // each with Pairs Secrets, Pairs ConfigMaps and a dozen other objects
	Pairs      int
	Running    int // namespaces whose Deployment and StatefulSet run pods
	Custom     int // custom resources of each kind
	// Busybox and Webhook name images that the machines hold.
	Busybox, Webhook string
}

// SecretMarker stands in the data of every Secret that Fill makes, so that tests can look for it
// where it must not be.
const SecretMarker = "planted-secret-7d1f6c"

// TokenSecret is the name of a Secret in every namespace that Fill makes: the token of a service account.
const TokenSecret = "shop-token"

// Fill makes the objects and waits until every pod that shall run is ready.
func Fill(ctx context.Context, config *rest.Config, size Size) error {
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = -1, 0
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if err := fillCustom(ctx, config, size); err != nil {
		return err
	}
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for n := range size.Namespaces {
		group.Go(func() error { return fillNamespace(working, client, size, n) })
	}
	group.Go(func() error { return fillWebhook(working, client, size) })
	if err := group.Wait(); err != nil {
		return err
	}
	return Ready(ctx, client, time.Time{})
}

func namespaceName(n int) string { return fmt.Sprintf("shop-%02d", n) }

func fillNamespace(ctx context.Context, client kubernetes.Interface, size Size, n int) error {
	ns := namespaceName(n)
	if err := ensure(client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: map[string]string{"team": fmt.Sprintf("team-%d", n%4)}},
	}, metav1.CreateOptions{})); err != nil {
		return err
	}
	if err := fillData(ctx, client, ns, size.Pairs); err != nil {
		return err
	}
	if err := fillRules(ctx, client, ns); err != nil {
		return err
	}
	return fillPods(ctx, client, ns, size, n < size.Running)
}

func fillData(ctx context.Context, client kubernetes.Interface, ns string, pairs int) error {
	for i := range pairs {
		name := fmt.Sprintf("item-%03d", i)
		if err := ensure(client.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "shop"}},
			StringData: map[string]string{"password": fmt.Sprintf("%s-%s-%s", SecretMarker, ns, name)},
		}, metav1.CreateOptions{})); err != nil {
			return err
		}
		if err := ensure(client.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Data:       map[string]string{"settings.yaml": fmt.Sprintf("shop: %s\nitem: %d\n", ns, i)},
		}, metav1.CreateOptions{})); err != nil {
			return err
		}
	}
	return nil
}

func fillRules(ctx context.Context, client kubernetes.Interface, ns string) error {
	meta := metav1.ObjectMeta{Name: "shop"}
	steps := []func() error{
		func() error {
			return ensure(client.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{}))
		},
		func() error {
			return ensure(client.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{Type: corev1.SecretTypeServiceAccountToken,
				ObjectMeta: metav1.ObjectMeta{Name: TokenSecret, Annotations: map[string]string{corev1.ServiceAccountNameKey: "shop"}},
			}, metav1.CreateOptions{}))
		},
		func() error {
			return ensure(client.RbacV1().Roles(ns).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
				{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "list"}},
			}}, metav1.CreateOptions{}))
		},
		func() error {
			return ensure(client.RbacV1().RoleBindings(ns).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta,
				RoleRef:  rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: "shop"},
				Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "shop", Namespace: ns}},
			}, metav1.CreateOptions{}))
		},
		func() error {
			return ensure(client.CoreV1().ResourceQuotas(ns).Create(ctx, &corev1.ResourceQuota{ObjectMeta: meta, Spec: corev1.ResourceQuotaSpec{
				Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("20"), corev1.ResourceSecrets: resource.MustParse("500")},
			}}, metav1.CreateOptions{}))
		},
		func() error {
			return ensure(client.CoreV1().LimitRanges(ns).Create(ctx, &corev1.LimitRange{ObjectMeta: meta, Spec: corev1.LimitRangeSpec{
				Limits: []corev1.LimitRangeItem{{
					Type:           corev1.LimitTypeContainer,
					DefaultRequest: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("8Mi")},
				}},
			}}, metav1.CreateOptions{}))
		},
		func() error {
			one := intstr.FromInt32(1)
			return ensure(client.PolicyV1().PodDisruptionBudgets(ns).Create(ctx, &policyv1.PodDisruptionBudget{ObjectMeta: meta,
				Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
			}, metav1.CreateOptions{}))
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func fillPods(ctx context.Context, client kubernetes.Interface, ns string, size Size, running bool) error {
	replicas := int32(0)
	if running {
		replicas = 2
	}
	for _, app := range []string{"web", "db"} {
		service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: app}, Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": app}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
		}}
		if app == "db" {
			service.Spec.ClusterIP = corev1.ClusterIPNone
		}
		if err := ensure(client.CoreV1().Services(ns).Create(ctx, service, metav1.CreateOptions{})); err != nil {
			return err
		}
	}
	if err := ensure(client.AppsV1().Deployments(ns).Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: selector("web"), Template: template("web", size.Busybox)},
	}, metav1.CreateOptions{})); err != nil {
		return err
	}
	if err := ensure(client.AppsV1().StatefulSets(ns).Create(ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec: appsv1.StatefulSetSpec{Replicas: &replicas, ServiceName: "db", Selector: selector("db"), Template: template("db", size.Busybox)},
	}, metav1.CreateOptions{})); err != nil {
		return err
	}
	suspended := true
	return ensure(client.BatchV1().CronJobs(ns).Create(ctx, &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "report"},
		Spec: batchv1.CronJobSpec{Schedule: "0 3 * * *", Suspend: &suspended, JobTemplate: batchv1.JobTemplateSpec{
			Spec: batchv1.JobSpec{Template: jobTemplate(size.Busybox)},
		}},
	}, metav1.CreateOptions{}))
}

func selector(app string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
}

// template is a pod that serves HTTP on 8080 and ends at once when asked.
func template(app, image string) corev1.PodTemplateSpec {
	grace := int64(1)
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{
			ServiceAccountName: "shop", TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: app, Image: image, ImagePullPolicy: corev1.PullNever,
				Command: []string{"/bin/busybox", "sh", "-c", "mkdir -p /www; echo " + app + " > /www/index.html; exec /bin/busybox httpd -f -p 8080 -h /www"},
				ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
					HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)},
				}},
			}},
		},
	}
}

func jobTemplate(image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever,
		Containers: []corev1.Container{{
			Name: "report", Image: image, ImagePullPolicy: corev1.PullNever, Command: []string{"/bin/busybox", "true"},
		}},
	}}
}

// ensure lets a repeated Fill find what an earlier one made.
func ensure(_ any, err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// Ready waits until every Deployment, StatefulSet and DaemonSet of the cluster has the ready pods it
// asks for, or ctx ends; the error then names those that have not. Containers that started before the
// given time do not count: after a loss, restored statuses tell of them until a kubelet looks again.
func Ready(ctx context.Context, client kubernetes.Interface, since time.Time) error {
	var waiting []string
	err := wait.PollUntilContextCancel(ctx, 500*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		var err error
		waiting, err = notReady(ctx, client, since)
		return err == nil && len(waiting) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("not ready: %v: %w", waiting, err)
	}
	return nil
}

func notReady(ctx context.Context, client kubernetes.Interface, since time.Time) ([]string, error) {
	waiting, err := stale(ctx, client, since)
	if err != nil {
		return nil, err
	}
	deployments, err := client.AppsV1().Deployments("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, d := range deployments.Items {
		if d.Status.ObservedGeneration < d.Generation || d.Status.ReadyReplicas != *d.Spec.Replicas {
			waiting = append(waiting, "deployment "+d.Namespace+"/"+d.Name)
		}
	}
	sets, err := client.AppsV1().StatefulSets("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, s := range sets.Items {
		if s.Status.ObservedGeneration < s.Generation || s.Status.ReadyReplicas != *s.Spec.Replicas {
			waiting = append(waiting, "statefulset "+s.Namespace+"/"+s.Name)
		}
	}
	daemons, err := client.AppsV1().DaemonSets("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, d := range daemons.Items {
		if d.Status.ObservedGeneration < d.Generation || d.Status.NumberReady != d.Status.DesiredNumberScheduled {
			waiting = append(waiting, "daemonset "+d.Namespace+"/"+d.Name)
		}
	}
	return waiting, nil
}

// stale lists the pods that no kubelet has found ready since the given time. What workloads count does not
// tell: as long as no controller manager leads, the counts that came out of a snapshot stand there.
func stale(ctx context.Context, client kubernetes.Interface, since time.Time) ([]string, error) {
	if since.IsZero() {
		return nil, nil
	}
	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, pod := range pods.Items {
		ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		if pod.DeletionTimestamp == nil && !ended && !fresh(pod, since) {
			names = append(names, "pod "+pod.Namespace+"/"+pod.Name)
		}
	}
	return names, nil
}

// fresh reports a pod whose containers are all ready and started after the given time.
func fresh(pod corev1.Pod, since time.Time) bool {
	found := 0
	for _, c := range pod.Status.ContainerStatuses {
		if c.Ready && c.State.Running != nil && c.State.Running.StartedAt.After(since) {
			found++
		}
	}
	return found == len(pod.Spec.Containers)
}
