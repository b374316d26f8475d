package steps

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/plans"
)

// Authority is what somebody needs of the Kubernetes API, by who that is: "" is the runner, with the
// credentials of the Cluster document; others are service accounts, namespace/name.
type Authority map[string][]cluster.Permission

// Authorized is implemented by steps that need it. Steps that work on machines bring the cluster's own
// administrator, and need nothing.
type Authorized interface {
	// Authority lists what the step needs of the cluster that a client talks to, and that a document, which may be
	// nil, describes. The client is nil where no cluster answers: then the step names every kind that it may meet.
	Authority(ctx context.Context, client *cluster.Client, document *plans.Cluster) (Authority, error)
}

// Authority implements Authorized.
func (s *CaptureNamespaces) Authority(ctx context.Context, client *cluster.Client, _ *plans.Cluster) (Authority, error) {
	wanted, err := cluster.SelectedPermissions(ctx, client, s.selection(), "list")
	if err != nil {
		return nil, err
	}
	apiServices := permit("apiregistration.k8s.io", "apiservices", "", "list") // which say what is kept elsewhere
	if s.As == nil {
		return Authority{"": append(wanted, apiServices...)}, nil
	}
	return Authority{"": append(apiServices, s.As.Handover()), s.As.ServiceAccount: wanted}, nil
}

// Authority implements Authorized. Which kinds come, the recovery point decides, and definitions in it
// make kinds that the cluster does not know yet.
func (s *ReplayNamespaces) Authority(ctx context.Context, _ *cluster.Client, _ *plans.Cluster) (Authority, error) {
	wanted, err := cluster.SelectedPermissions(ctx, nil, s.selection(), "create", "delete", "get", "list", "patch", "update")
	if s.As != nil {
		return Authority{"": {s.As.Handover()}, s.As.ServiceAccount: wanted}, err
	}
	for _, roles := range []string{"roles", "clusterroles"} { // Kubernetes lets nobody hand out more than he has, else
		wanted = append(wanted, permit("rbac.authorization.k8s.io", roles, "", "bind", "escalate")...)
	}
	return Authority{"": wanted}, err
}

// Authority implements Authorized.
func (s *VerifyCluster) Authority(ctx context.Context, _ *cluster.Client, _ *plans.Cluster) (Authority, error) {
	wanted, err := cluster.SelectedPermissions(ctx, nil, cluster.Selection{}, "list")
	return Authority{"": wanted}, err
}

// Authority implements Authorized.
func (s *CaptureVolumes) Authority(_ context.Context, _ *cluster.Client, document *plans.Cluster) (Authority, error) {
	var wanted []cluster.Permission
	if len(s.Tags) == 0 {
		for _, resource := range []string{"persistentvolumes", "persistentvolumeclaims", "pods"} {
			wanted = append(wanted, permit("", resource, "", "list")...)
		}
	}
	if len(s.Quiesce.Hooks) > 0 {
		wanted = append(wanted, programs("")...)
	}
	if len(s.Quiesce.Databases) == 0 {
		return Authority{"": wanted}, nil
	}
	databases, err := reaching(document, s.Quiesce.Databases)
	return Authority{"": append(wanted, databases...)}, err
}

// Authority implements Authorized.
func (s *BackupDatabases) Authority(_ context.Context, _ *cluster.Client, document *plans.Cluster) (Authority, error) {
	wanted, err := reaching(document, s.Databases)
	return Authority{"": wanted}, err
}

// Authority implements Authorized.
func (s *ArchiveLogs) Authority(_ context.Context, _ *cluster.Client, document *plans.Cluster) (Authority, error) {
	wanted, err := reaching(document, s.Databases)
	return Authority{"": wanted}, err
}

// Authority implements Authorized.
func (s *VerifyDatabases) Authority(_ context.Context, _ *cluster.Client, document *plans.Cluster) (Authority, error) {
	wanted, err := reaching(document, s.Databases)
	return Authority{"": wanted}, err
}

// Authority implements Authorized. The recovery point decides for which databases a stand-in takes a workload's place.
func (s *RestoreDatabases) Authority(_ context.Context, _ *cluster.Client, document *plans.Cluster) (Authority, error) {
	wanted, err := makingPods(document, s.Databases, "list", "patch")
	return Authority{"": wanted}, err
}

// Authority implements Authorized.
func (s *TestDatabases) Authority(_ context.Context, _ *cluster.Client, document *plans.Cluster) (Authority, error) {
	wanted, err := makingPods(document, s.Databases, "list")
	return Authority{"": wanted}, err
}

// Authority implements Authorized.
func (s *BindVolumes) Authority(context.Context, *cluster.Client, *plans.Cluster) (Authority, error) {
	volumes := permit("", "persistentvolumes", "", "create", "delete", "get", "update")
	return Authority{"": append(volumes, permit("", "persistentvolumeclaims", "", "create", "delete", "get")...)}, nil
}

// Authority implements Authorized.
func (s *RunCommand) Authority(context.Context, *cluster.Client, *plans.Cluster) (Authority, error) {
	if s.On != InPod {
		return nil, nil
	}
	return Authority{"": programs(s.Pod.Namespace)}, nil
}

// Authority implements Authorized.
func (s *WaitFor) Authority(ctx context.Context, client *cluster.Client, _ *plans.Cluster) (Authority, error) {
	if s.Objects == nil {
		return nil, nil
	}
	version, err := schema.ParseGroupVersion(s.Objects.APIVersion)
	if err != nil {
		return nil, invalid("objects.apiVersion", "%v", err)
	}
	kinds := cluster.Resource{Group: version.Group, Name: "*"}
	if client != nil {
		if kinds, err = s.resolve(ctx, client); err != nil {
			return nil, err
		}
	}
	return Authority{"": permit(kinds.Group, kinds.Name, s.Objects.Namespace, "list", "watch")}, nil
}

// makingPods is what reaching databases needs, and a pod that is made like those of their workloads.
func makingPods(document *plans.Cluster, patterns []string, verbs ...string) ([]cluster.Permission, error) {
	chosen, err := chosenDatabases(document, patterns)
	var wanted []cluster.Permission
	for _, d := range chosen {
		wanted = append(wanted, reachingOne(d)...)
		if d.Pod == nil {
			continue
		}
		wanted = append(wanted, permit("", "pods", d.Pod.Namespace, "create", "delete")...)
		for _, kind := range []string{"statefulsets", "deployments"} {
			wanted = append(wanted, permit("apps", kind, d.Pod.Namespace, verbs...)...)
		}
		if d.Pod.Patroni == "" {
			continue
		}
		for _, kind := range []string{"configmaps", "endpoints"} {
			wanted = append(wanted, permit("", kind, d.Pod.Namespace, verbs...)...)
		}
	}
	return wanted, err
}

// reaching is what the tools of databases need.
func reaching(document *plans.Cluster, patterns []string) ([]cluster.Permission, error) {
	chosen, err := chosenDatabases(document, patterns)
	var wanted []cluster.Permission
	for _, d := range chosen {
		wanted = append(wanted, reachingOne(d)...)
	}
	return wanted, err
}

// reachingOne is the pods in which a database's tools run, and the Secrets that its entry names.
func reachingOne(d plans.Database) []cluster.Permission {
	var wanted []cluster.Permission
	if d.Pod != nil {
		wanted = append(wanted, programs(d.Pod.Namespace)...)
	}
	if d.Helper != nil {
		wanted = append(append(wanted, programs(d.Helper.Namespace)...), permit("", "pods", d.Helper.Namespace, "create", "delete")...)
	}
	for _, secret := range d.Secrets {
		if key := secret.Key; key != nil {
			wanted = append(wanted, cluster.Permission{Verb: "get", Resource: "secrets", Namespace: key.Namespace, Name: key.Name})
		}
	}
	return wanted
}

// programs is what a program in a pod needs. A websocket is opened with get, and since Kubernetes 1.35 the
// server wants create, too.
func programs(namespace string) []cluster.Permission {
	return append(permit("", "pods", namespace, "get", "list"), permit("", "pods/exec", namespace, "create", "get")...)
}

func permit(group, resource, namespace string, verbs ...string) []cluster.Permission {
	var permissions []cluster.Permission
	for _, verb := range verbs {
		permissions = append(permissions, cluster.Permission{Verb: verb, Group: group, Resource: resource, Namespace: namespace})
	}
	return permissions
}
