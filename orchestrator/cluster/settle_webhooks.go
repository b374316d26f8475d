package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const (
	// deadlockAfter is how long a backend may be away before its webhook is suspected.
	deadlockAfter = 20 * time.Second
	// openedAnnotation holds the names of webhooks whose failurePolicy was relaxed. It stands there
	// while they are, so that a run that died in between is finished by the next one.
	openedAnnotation = "muster.dev/opened-webhooks"
	restoreWithin    = 30 * time.Second
)

// webhook is one entry of a Validating- or MutatingWebhookConfiguration that refuses requests when
// its backend does not answer.
type webhook struct {
	path          string // of the configuration
	configuration string // kind and name
	name          string
	index         int
	service       *admissionv1.ServiceReference // nil when it is reached by URL
	rules         []admissionv1.RuleWithOperations
	namespaces    *metav1.LabelSelector
	opened        bool // relaxed by an earlier try
}

// webhooks waits for the backends of webhooks that refuse requests without them. Where such a
// webhook keeps its own backend from coming up, it is made to let requests pass until the backend
// answers, and closed again.
func (s *settling) webhooks(ctx context.Context) (string, int, error) {
	var opened []webhook
	acted := 0
	text, err := s.awaitBackends(ctx, &opened, &acted)
	// Closing must not depend on the time that was left: an open webhook is a hole.
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreWithin)
	defer cancel()
	return text, acted, errors.Join(err, s.closeWebhooks(closing, opened))
}

func (s *settling) awaitBackends(ctx context.Context, opened *[]webhook, acted *int) (string, error) {
	var down []webhook
	total := 0
	err := until(ctx, func() (bool, error) {
		all, err := s.strictWebhooks(ctx)
		if err != nil {
			return false, err
		}
		total, down = len(all), nil
		for _, hook := range all {
			ready, err := s.backendReady(ctx, hook)
			if err != nil {
				return false, err
			}
			if hook.opened && !slices.ContainsFunc(*opened, hook.same) {
				*opened = append(*opened, hook)
			}
			if !ready {
				down = append(down, hook)
			}
		}
		if s.Now().Sub(s.began) > deadlockAfter {
			if err := s.breakDeadlocks(ctx, down, opened, acted); err != nil {
				return false, err
			}
		}
		return len(down) == 0, nil
	})
	for _, hook := range down {
		s.notef(Lost, hook.subject(), "its backend %s/%s has no ready endpoint, and it refuses what it is asked about: bring the backend up, or set failurePolicy: Ignore",
			hook.service.Namespace, hook.service.Name)
	}
	if err != nil && len(down) == 0 {
		return "", err
	}
	return fmt.Sprintf("%d of %d have a ready backend", total-len(down), total), nil
}

func (h webhook) subject() string { return h.configuration + " " + h.name }

func (h webhook) same(other webhook) bool { return h.path == other.path && h.name == other.name }

// strictWebhooks lists the webhooks with failurePolicy Fail and a Service, and those that an earlier
// try has opened.
func (s *settling) strictWebhooks(ctx context.Context) ([]webhook, error) {
	const base = "/apis/admissionregistration.k8s.io/v1/"
	admission := s.kube.AdmissionregistrationV1()
	validating, err := admission.ValidatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	mutating, err := admission.MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var all []webhook
	for _, c := range validating.Items {
		for i, h := range c.Webhooks {
			hook := webhook{path: base + "validatingwebhookconfigurations/" + c.Name, configuration: "ValidatingWebhookConfiguration " + c.Name,
				name: h.Name, index: i, service: h.ClientConfig.Service, rules: h.Rules, namespaces: h.NamespaceSelector, opened: wasOpened(c.ObjectMeta, h.Name)}
			all = appendStrict(all, hook, h.FailurePolicy)
		}
	}
	for _, c := range mutating.Items {
		for i, h := range c.Webhooks {
			hook := webhook{path: base + "mutatingwebhookconfigurations/" + c.Name, configuration: "MutatingWebhookConfiguration " + c.Name,
				name: h.Name, index: i, service: h.ClientConfig.Service, rules: h.Rules, namespaces: h.NamespaceSelector, opened: wasOpened(c.ObjectMeta, h.Name)}
			all = appendStrict(all, hook, h.FailurePolicy)
		}
	}
	return all, nil
}

func appendStrict(all []webhook, hook webhook, policy *admissionv1.FailurePolicyType) []webhook {
	lenient := policy != nil && *policy == admissionv1.Ignore && !hook.opened
	if lenient || hook.service == nil {
		return all
	}
	return append(all, hook)
}

func wasOpened(meta metav1.ObjectMeta, name string) bool {
	return slices.Contains(openedNames(meta.Annotations[openedAnnotation]), name)
}

func openedNames(annotation string) []string {
	var names []string
	if json.Unmarshal([]byte(annotation), &names) != nil {
		return nil // not written by this program, or not there
	}
	return names
}

// backendReady looks for a ready endpoint that lives: the restored endpoints of a dead node's pod are
// ready too until a controller notices.
func (s *settling) backendReady(ctx context.Context, hook webhook) (bool, error) {
	list, err := s.kube.DiscoveryV1().EndpointSlices(hook.service.Namespace).List(ctx,
		metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + hook.service.Name})
	if err != nil {
		return false, err
	}
	for _, slice := range list.Items {
		for _, endpoint := range slice.Endpoints {
			if (endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready) && s.onTarget(endpoint.NodeName) {
				return true, nil
			}
		}
	}
	return false, nil
}

func (s *settling) onTarget(node *string) bool {
	if node == nil {
		return true // outside the cluster, or not known
	}
	_, lives := s.targets[*node]
	return lives
}

// breakDeadlocks opens webhooks that keep their own backend from coming up.
func (s *settling) breakDeadlocks(ctx context.Context, down []webhook, opened *[]webhook, acted *int) error {
	for _, hook := range down {
		if slices.ContainsFunc(*opened, hook.same) {
			continue
		}
		blocks, err := s.blocksItself(ctx, hook)
		if err != nil {
			return err
		}
		if !blocks {
			continue
		}
		if err := s.setPolicy(ctx, hook, admissionv1.Ignore); err != nil {
			return err
		}
		*opened = append(*opened, hook)
		*acted++
		s.notef(Changed, hook.subject(), "it kept its own backend %s/%s from starting: it let requests pass until the backend answered, and was closed again then",
			hook.service.Namespace, hook.service.Name)
	}
	return nil
}

// blocksItself reports whether a webhook is asked about what its backend needs to start: the creation
// of its pods, or what kubelets write.
func (s *settling) blocksItself(ctx context.Context, hook webhook) (bool, error) {
	if covers(hook.rules, "", "nodes", "*") || covers(hook.rules, "coordination.k8s.io", "leases", "*") {
		return true, nil
	}
	namespace, err := s.kube.CoreV1().Namespaces().Get(ctx, hook.service.Namespace, metav1.GetOptions{})
	if err != nil {
		return false, err
	}
	if selector, err := metav1.LabelSelectorAsSelector(hook.namespaces); hook.namespaces != nil && (err != nil || !selector.Matches(labels.Set(namespace.Labels))) {
		return false, err
	}
	if covers(hook.rules, "", "pods/status", "*") {
		return true, nil
	}
	if !covers(hook.rules, "", "pods", admissionv1.Create) {
		return false, nil
	}
	pods, err := s.backendPods(ctx, hook)
	return pods == 0, err
}

func covers(rules []admissionv1.RuleWithOperations, group, resource string, operation admissionv1.OperationType) bool {
	for _, rule := range rules {
		groups := slices.Contains(rule.APIGroups, group) || slices.Contains(rule.APIGroups, "*")
		resources := slices.Contains(rule.Resources, resource) || slices.Contains(rule.Resources, "*/*") ||
			slices.Contains(rule.Resources, "*") && resource != "pods/status"
		operations := slices.Contains(rule.Operations, operation) || slices.Contains(rule.Operations, admissionv1.OperationAll) ||
			operation == "*" && (slices.Contains(rule.Operations, admissionv1.Create) || slices.Contains(rule.Operations, admissionv1.Update))
		if groups && resources && operations {
			return true
		}
	}
	return false
}

// backendPods counts the pods that could become the webhook's backend.
func (s *settling) backendPods(ctx context.Context, hook webhook) (int, error) {
	service, err := s.kube.CoreV1().Services(hook.service.Namespace).Get(ctx, hook.service.Name, metav1.GetOptions{})
	if err != nil {
		return 0, err
	}
	pods, err := s.kube.CoreV1().Pods(service.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(service.Spec.Selector).String()})
	if err != nil {
		return 0, err
	}
	count := 0
	for _, pod := range pods.Items {
		starts := pod.DeletionTimestamp == nil && pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded
		if starts && (pod.Spec.NodeName == "" || s.onTarget(&pod.Spec.NodeName)) {
			count++
		}
	}
	return count, nil
}

// setPolicy changes one webhook's failurePolicy and the annotation that remembers it, in one patch
// that fails when somebody changed the list of webhooks meanwhile.
func (s *settling) setPolicy(ctx context.Context, hook webhook, policy admissionv1.FailurePolicyType) error {
	var current struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
	}
	if err := s.Client.call(ctx, request{method: http.MethodGet, path: hook.path}, &current); err != nil {
		return err
	}
	names := slices.DeleteFunc(openedNames(current.Metadata.Annotations[openedAnnotation]), func(n string) bool { return n == hook.name })
	if policy == admissionv1.Ignore {
		names = append(names, hook.name)
	}
	entry := fmt.Sprintf("/webhooks/%d", hook.index)
	operations := []map[string]any{
		{"op": "test", "path": entry + "/name", "value": hook.name},
		{"op": "replace", "path": entry + "/failurePolicy", "value": policy},
	}
	body, err := json.Marshal(append(operations, annotate(current.Metadata.Annotations, names)...))
	if err != nil {
		return err
	}
	return s.Client.call(ctx, request{method: http.MethodPatch, path: hook.path, contentType: "application/json-patch+json", body: body}, nil)
}

// annotate gives the patch operations that write the names of opened webhooks, or remove them.
func annotate(annotations map[string]string, names []string) []map[string]any {
	const path = "/metadata/annotations/muster.dev~1opened-webhooks"
	_, present := annotations[openedAnnotation]
	switch {
	case len(names) == 0 && present && len(annotations) == 1:
		return []map[string]any{{"op": "remove", "path": "/metadata/annotations"}} // as it was before
	case len(names) == 0 && present:
		return []map[string]any{{"op": "remove", "path": path}}
	case len(names) == 0:
		return nil
	}
	text, _ := json.Marshal(names) // strings always marshal
	if len(annotations) == 0 {
		return []map[string]any{{"op": "add", "path": "/metadata/annotations", "value": map[string]string{openedAnnotation: string(text)}}}
	}
	return []map[string]any{{"op": "add", "path": path, "value": string(text)}}
}

func (s *settling) closeWebhooks(ctx context.Context, opened []webhook) error {
	var all error
	for _, hook := range opened {
		if err := s.setPolicy(ctx, hook, admissionv1.Fail); err != nil {
			s.notef(Lost, hook.subject(), "it could not be closed again: set its failurePolicy back to Fail")
			all = errors.Join(all, err)
		}
	}
	return all
}
