package cluster

import (
	"slices"
	"strings"

	"github.com/musterdr/muster/providers/fault"
)

// The GitOps tools that can be left to make again what they manage.
const (
	ArgoCD = "argocd"
	Flux   = "flux"
)

func checkLeaveTo(tools []string) error {
	for _, tool := range tools {
		if tool != ArgoCD && tool != Flux {
			return fault.Newf("read leaveTo", fault.Invalid, tool, "want argocd or flux")
		}
	}
	return nil
}

// leftTo names the GitOps object that makes an object again, empty when none does, or when it is no
// part of the recovery point: then nobody would.
func (r *replay) leftTo(key Key, o Object) string {
	if key.isNamespace() {
		return "" // what nobody manages may live in it, too
	}
	for _, m := range managers(o) {
		if slices.Contains(r.LeaveTo, m.tool) && r.recorded(m.key) {
			return "left to " + m.key.Resource + " " + strings.Trim(m.key.Namespace+"/"+m.key.Name, "/")
		}
	}
	return ""
}

// recorded reports whether the recovery point holds an object; an empty namespace means any.
func (r *replay) recorded(key Key) bool {
	return slices.ContainsFunc(r.managers, func(k Key) bool {
		return k.Resource == key.Resource && k.Name == key.Name && (key.Namespace == "" || k.Namespace == key.Namespace)
	})
}

// isManager reports the kinds by which GitOps tools manage others.
func isManager(key Key) bool {
	switch key.Resource + "." + key.Group {
	case "applications.argoproj.io", "kustomizations.kustomize.toolkit.fluxcd.io", "helmreleases.helm.toolkit.fluxcd.io":
		return true
	}
	return false
}

type manager struct {
	tool string
	key  Key
}

// managers reads the marks of Argo CD (its tracking annotation, or its own label) and of Flux. Argo CD's
// older mark, app.kubernetes.io/instance, is used by others too, and says nothing.
func managers(o Object) []manager {
	var found []manager
	tracking, _ := o.annotation("argocd.argoproj.io/tracking-id")
	application, _, _ := strings.Cut(tracking, ":")
	if application == "" {
		application = label(o, "argocd.argoproj.io/instance")
	}
	if application != "" {
		found = append(found, manager{ArgoCD, Key{Group: "argoproj.io", Resource: "applications", Name: application}})
	}
	for resource, group := range map[string]string{"kustomizations": "kustomize.toolkit.fluxcd.io", "helmreleases": "helm.toolkit.fluxcd.io"} {
		if name := label(o, group+"/name"); name != "" {
			found = append(found, manager{Flux, Key{Group: group, Resource: resource, Namespace: label(o, group+"/namespace"), Name: name}})
		}
	}
	return found
}
