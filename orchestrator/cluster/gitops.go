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

// gitOpsKinds are those of the objects by which GitOps tools manage others.
func gitOpsKinds() []manager {
	return []manager{
		{ArgoCD, Key{Group: "argoproj.io", Resource: "applications"}},
		{Flux, Key{Group: "kustomize.toolkit.fluxcd.io", Resource: "kustomizations"}},
		{Flux, Key{Group: "helm.toolkit.fluxcd.io", Resource: "helmreleases"}},
	}
}

// managing reports whether an object is of such a kind.
func managing(key Key) bool {
	return slices.ContainsFunc(gitOpsKinds(), func(m manager) bool { return m.key.Group == key.Group && m.key.Resource == key.Resource })
}

type manager struct {
	tool string
	key  Key
}

// managers reads the marks of Argo CD and of Flux on an object.
func managers(o Object) []manager {
	var found []manager
	for _, m := range gitOpsKinds() {
		if m.tool == ArgoCD {
			m.key.Name = application(o)
		} else {
			m.key.Namespace, m.key.Name = label(o, m.key.Group+"/namespace"), label(o, m.key.Group+"/name")
		}
		if m.key.Name != "" {
			found = append(found, m)
		}
	}
	return found
}

// application reads Argo CD's tracking annotation, or its own label. Its older mark,
// app.kubernetes.io/instance, is used by others too, and says nothing.
func application(o Object) string {
	tracking, _ := o.annotation("argocd.argoproj.io/tracking-id")
	name, _, _ := strings.Cut(tracking, ":")
	if name == "" {
		return label(o, "argocd.argoproj.io/instance")
	}
	return name
}
