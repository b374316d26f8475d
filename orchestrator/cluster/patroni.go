package cluster

import (
	"context"
	"encoding/json"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// patroniConfig is the annotation with a Patroni cluster's configuration, which people change.
const patroniConfig = "config"

// EachOther has the stand-in stand for each of the Patroni cluster's members but the first, one after the other.
func (s *StandIn) EachOther(ctx context.Context, do func(context.Context) error) error {
	w := s.workload
	for range w.wanted() - 1 {
		w.ordinal++
		if err := s.standFor(ctx, w); err != nil {
			return err
		}
		if err := do(ctx); err != nil {
			return err
		}
	}
	return nil
}

// ResumeFirst takes the stand-in away and starts the Patroni cluster's first member alone, so that no other can take
// the lead: the workload has the rest of its replicas again by ResumeOthers. What Patroni remembers of the cluster as
// it was is taken away before, but for its configuration: by that the restored member is one that lags behind.
func (s StandIn) ResumeFirst(ctx context.Context) error {
	w, err := s.leave(ctx)
	if err != nil {
		return err
	}
	if err := w.client.forgetPatroni(ctx, s.query); err != nil {
		return err
	}
	return w.patch(ctx, 1, w.meta.Annotations[replicasBefore])
}

// ResumeOthers starts the other members of a Patroni cluster whose first one leads. It can be repeated.
func (c *Client) ResumeOthers(ctx context.Context, q PodQuery) error {
	w, err := c.workloadOf(ctx, q)
	if err != nil || w.meta.Annotations[replicasBefore] == "" {
		return err
	}
	return w.patch(ctx, w.wanted(), nil)
}

// forgetPatroni takes Patroni's state from its objects, which are ConfigMaps or Endpoints: the annotations without a
// domain, which are its own.
func (c *Client) forgetPatroni(ctx context.Context, q PodQuery) error {
	core, chosen := c.typed.CoreV1(), metav1.ListOptions{LabelSelector: q.Patroni}
	maps, err := core.ConfigMaps(q.Namespace).List(ctx, chosen)
	if err != nil {
		return classify("list Patroni's configmaps", q.Namespace, err)
	}
	for _, m := range maps.Items {
		_, err := core.ConfigMaps(q.Namespace).Patch(ctx, m.Name, types.MergePatchType, forgetting(m.Annotations), metav1.PatchOptions{})
		if err != nil {
			return classify("reset Patroni's configmap", q.Namespace+"/"+m.Name, err)
		}
	}
	endpoints, err := core.Endpoints(q.Namespace).List(ctx, chosen)
	if err != nil {
		return classify("list Patroni's endpoints", q.Namespace, err)
	}
	for _, e := range endpoints.Items {
		_, err := core.Endpoints(q.Namespace).Patch(ctx, e.Name, types.MergePatchType, forgetting(e.Annotations), metav1.PatchOptions{})
		if err != nil {
			return classify("reset Patroni's endpoints", q.Namespace+"/"+e.Name, err)
		}
	}
	return nil
}

// forgetting is the patch that takes Patroni's own annotations away, but for the configuration.
func forgetting(annotations map[string]string) []byte {
	gone := map[string]any{}
	for name := range annotations {
		if name != patroniConfig && !strings.Contains(name, "/") {
			gone[name] = nil
		}
	}
	patch, _ := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": gone}}) // names and nulls always fit
	return patch
}
