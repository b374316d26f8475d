package steps

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/kubeadm"
	"github.com/musterdr/muster/providers/fault"
)

// configMap is one of the cluster's own that names machines.
type configMap struct {
	namespace, name, key string
	rewrite              func(kubeadm.Renaming, string) string
	readers              string // label selector of pods that read it only when they start
}

func configMaps() []configMap {
	return []configMap{
		{metav1.NamespaceSystem, "kubeadm-config", "ClusterConfiguration", kubeadm.Renaming.ClusterConfiguration, ""},
		{metav1.NamespacePublic, "cluster-info", "kubeconfig", kubeadm.Renaming.Kubeconfig, ""},
		{metav1.NamespaceSystem, "kube-proxy", "kubeconfig.conf", kubeadm.Renaming.Kubeconfig, "k8s-app=kube-proxy"},
	}
}

// renewConfigMaps gives the cluster's own ConfigMaps the new names and addresses.
func renewConfigMaps(ctx context.Context, run *orchestrator.Run, client kubernetes.Interface) error {
	id, err := openIdentities(ctx, run)
	if err != nil || !id.renaming.Moves() {
		return err
	}
	for _, which := range configMaps() {
		if err := renewConfigMap(ctx, run, client, which, id.renaming); err != nil {
			return fault.New("rewrite ConfigMap", fault.Transient, which.namespace+"/"+which.name, err)
		}
	}
	return nil
}

func renewConfigMap(ctx context.Context, run *orchestrator.Run, client kubernetes.Interface, which configMap, renaming kubeadm.Renaming) error {
	maps := client.CoreV1().ConfigMaps(which.namespace)
	found, err := maps.Get(ctx, which.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil // not every cluster has each
	}
	if err != nil {
		return err
	}
	before, ok := found.Data[which.key]
	if !ok {
		return nil
	}
	after := which.rewrite(renaming, before)
	if after == before {
		return nil
	}
	found.Data[which.key] = after
	if _, err := maps.Update(ctx, found, metav1.UpdateOptions{}); err != nil {
		return err
	}
	run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Changed, Layer: settleLayer,
		Subject: "ConfigMap " + which.namespace + "/" + which.name, Text: "names the machines' new addresses"})
	return restartReaders(ctx, client, which)
}

// restartReaders deletes pods that started with the old text; their controllers make them again.
func restartReaders(ctx context.Context, client kubernetes.Interface, which configMap) error {
	if which.readers == "" {
		return nil
	}
	return client.CoreV1().Pods(which.namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: which.readers})
}
