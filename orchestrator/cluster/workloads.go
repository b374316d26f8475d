package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Workloads are what runs in a cluster, or in one namespace of it, at no common revision.
type Workloads struct {
	Pods         []corev1.Pod
	StatefulSets []appsv1.StatefulSet
	Deployments  []appsv1.Deployment
	ReplicaSets  []appsv1.ReplicaSet
	// Operated are objects of the kinds that were asked for, by "plural.group".
	Operated map[string][]metav1.PartialObjectMetadata
}

// Workloads lists them in a namespace, or in all when it is empty. A kind, "plural.group", that the server does
// not serve has no objects.
func (c *Client) Workloads(ctx context.Context, namespace string, kinds []string) (Workloads, error) {
	w := Workloads{Operated: map[string][]metav1.PartialObjectMetadata{}}
	core, apps := c.typed.CoreV1(), c.typed.AppsV1()
	err := paged("pods", func(options metav1.ListOptions) (string, error) {
		list, err := core.Pods(namespace).List(ctx, options)
		if err == nil {
			w.Pods = append(w.Pods, list.Items...)
		}
		return list.GetContinue(), err
	})
	if err == nil {
		err = paged("statefulsets", func(options metav1.ListOptions) (string, error) {
			list, err := apps.StatefulSets(namespace).List(ctx, options)
			if err == nil {
				w.StatefulSets = append(w.StatefulSets, list.Items...)
			}
			return list.GetContinue(), err
		})
	}
	if err == nil {
		err = paged("deployments", func(options metav1.ListOptions) (string, error) {
			list, err := apps.Deployments(namespace).List(ctx, options)
			if err == nil {
				w.Deployments = append(w.Deployments, list.Items...)
			}
			return list.GetContinue(), err
		})
	}
	if err == nil {
		err = paged("replicasets", func(options metav1.ListOptions) (string, error) {
			list, err := apps.ReplicaSets(namespace).List(ctx, options)
			if err == nil {
				w.ReplicaSets = append(w.ReplicaSets, list.Items...)
			}
			return list.GetContinue(), err
		})
	}
	if err != nil || len(kinds) == 0 {
		return w, err
	}
	groups, err := c.typed.Discovery().ServerGroups()
	if err != nil {
		return w, classify("discover groups", c.server, err)
	}
	for _, kind := range kinds {
		name, group, _ := strings.Cut(kind, ".")
		i := slices.IndexFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == group })
		if i < 0 {
			continue
		}
		r := Resource{Group: group, Version: groups.Groups[i].PreferredVersion.Version, Name: name, Namespaced: true}
		if w.Operated[kind], err = c.described(ctx, r, namespace); err != nil {
			return w, err
		}
	}
	return w, nil
}

// described lists the metadata of a kind's objects, none where the kind is not served.
func (c *Client) described(ctx context.Context, r Resource, namespace string) ([]metav1.PartialObjectMetadata, error) {
	var all []metav1.PartialObjectMetadata
	err := paged(r.subject(), func(options metav1.ListOptions) (string, error) {
		request := c.typed.CoreV1().RESTClient().Get().AbsPath(r.path(namespace)).Param("limit", fmt.Sprint(options.Limit))
		if options.Continue != "" {
			request = request.Param("continue", options.Continue)
		}
		raw, err := request.SetHeader("Accept", "application/json").DoRaw(ctx)
		if apierrors.IsNotFound(err) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		var list metav1.PartialObjectMetadataList
		err = json.Unmarshal(raw, &list)
		all = append(all, list.Items...)
		return list.Continue, err
	})
	return all, err
}

// paged reads a list page by page.
func paged(subject string, page func(metav1.ListOptions) (string, error)) error {
	const limit = 500
	for token, first := "", true; first || token != ""; first = false {
		var err error
		if token, err = page(metav1.ListOptions{Limit: limit, Continue: token}); err != nil {
			return classify("list", subject, err)
		}
	}
	return nil
}
