package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/orchestrator/steps"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

func (a *app) rbacCommand() *cobra.Command {
	var given parameters
	var namespace string
	var whole bool
	command := &cobra.Command{
		Use: "rbac PLAN", Short: "Print the roles that a plan needs in Kubernetes, and no more", Args: exactly(1),
		Long: `Prints YAML for kubectl apply: what the plan's steps need of the Kubernetes API, as roles of namespaces
where the plan names its namespaces, else as a ClusterRole. Roles of a tenant come with their bindings; bind
the others to whom the Cluster document's kubeconfig belongs. Where no cluster answers, a capture's role
names every kind.`,
		Example: "  muster rbac nightly | kubectl apply -f -\n  muster rbac team-a --namespace team-a",
		RunE: func(command *cobra.Command, args []string) error {
			if whole && namespace != "" {
				return usageError(errors.New("--namespace and --cluster exclude each other"))
			}
			set, err := a.planSet(args[0])
			if err != nil {
				return err
			}
			checked, err := plans.Check(set, args[0], vocabulary(), given...)
			if err != nil {
				return err
			}
			authority, err := a.authorityOf(command.Context(), checked)
			if err != nil {
				return err
			}
			if whole {
				authority = everywhere(authority)
			}
			return a.printRoles(rolesOf("muster-"+args[0], authority), namespace)
		},
	}
	given.register(command.Flags())
	command.Flags().StringVar(&namespace, "namespace", "", "print only what is needed in this namespace")
	command.Flags().BoolVar(&whole, "cluster", false, "put all rules into ClusterRoles, so that they hold in every namespace")
	return command
}

// authorityOf gathers what the steps of a plan need.
func (a *app) authorityOf(ctx context.Context, checked *plans.Checked) (steps.Authority, error) {
	client := a.answering(ctx, checked.Cluster)
	if client != nil {
		defer client.Close()
	}
	all := steps.Authority{}
	for _, spec := range checked.Plan.Spec.Steps {
		wanted, err := a.authorityOfStep(ctx, checked, spec, client)
		if err != nil {
			return nil, fmt.Errorf("step %s: %w", spec.ID, err)
		}
		for who, permissions := range wanted {
			all[who] = append(all[who], permissions...)
		}
	}
	return all, nil
}

// answering is a client of the plan's cluster, nil when it does not answer.
func (a *app) answering(ctx context.Context, document *plans.Cluster) *cluster.Client {
	if document == nil {
		return nil
	}
	client, err := cluster.Connect(cluster.Access{KubeconfigFile: document.Spec.KubeconfigFile, Context: document.Spec.Context})
	if err == nil {
		if _, _, err = client.Discover(ctx); err == nil {
			return client
		}
		client.Close()
	}
	a.log().WarnContext(ctx, "the cluster does not answer: the roles name every kind", "error", err)
	return nil
}

func (a *app) authorityOfStep(ctx context.Context, checked *plans.Checked, spec plans.Step, client *cluster.Client) (steps.Authority, error) {
	definition, _ := vocabulary().Step(spec.Uses)
	step := definition.New()
	authorized, needs := step.(steps.Authorized)
	if !needs {
		return nil, nil
	}
	settings, err := checked.Expand(spec, "", plans.Facts{Cluster: checked.Cluster, Machines: checked.Machines, Now: a.now()})
	if err == nil {
		err = plans.Decode(settings, step)
	}
	if err != nil {
		return nil, fault.Newf("read settings", fault.Invalid, spec.ID, "what it needs is known when it runs: give it fixed settings to print a role of: %w", err)
	}
	return authorized.Authority(ctx, client, checked.Cluster)
}

// everywhere lifts permissions out of their namespaces.
func everywhere(authority steps.Authority) steps.Authority {
	lifted := steps.Authority{}
	for who, permissions := range authority {
		for _, p := range permissions {
			p.Namespace = ""
			lifted[who] = append(lifted[who], p)
		}
	}
	return lifted
}

// role is one document of the output.
type role struct {
	namespace string // empty for what holds in the whole cluster
	object    any
}

// rolesOf makes the roles of everybody who needs some, and the bindings of those that are known.
func rolesOf(name string, authority steps.Authority) []role {
	var roles []role
	for _, who := range slices.Sorted(maps.Keys(authority)) {
		places := map[string][]cluster.Permission{}
		for _, p := range authority[who] {
			anywhere := p
			anywhere.Namespace = ""
			if p.Namespace == "" || !slices.Contains(authority[who], anywhere) { // no role for what another one gives
				places[p.Namespace] = append(places[p.Namespace], p)
			}
		}
		for _, place := range slices.Sorted(maps.Keys(places)) {
			roles = append(roles, roleIn(nameFor(name, who), place, who, cluster.Rules(places[place]))...)
		}
	}
	return roles
}

// nameFor keeps roles of different accounts apart in one namespace.
func nameFor(name, who string) string {
	if who == "" {
		return name
	}
	return name + "-" + strings.ReplaceAll(who, "/", "-")
}

func roleIn(name, namespace, who string, rules []rbacv1.PolicyRule) []role {
	meta := metav1.ObjectMeta{Name: name, Namespace: namespace}
	typed := func(kind string) metav1.TypeMeta {
		return metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: kind}
	}
	kind, binding := "Role", "RoleBinding"
	if namespace == "" {
		kind, binding = "ClusterRole", "ClusterRoleBinding"
	}
	roles := []role{{namespace, rbacv1.Role{TypeMeta: typed(kind), ObjectMeta: meta, Rules: rules}}} // a ClusterRole has the same fields
	if who == "" {
		return roles
	}
	home, account, _ := strings.Cut(who, "/")
	return append(roles, role{namespace, rbacv1.RoleBinding{
		TypeMeta: typed(binding), ObjectMeta: meta,
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: home, Name: account}},
	}})
}

// printRoles prints the roles, or those of one namespace.
func (a *app) printRoles(roles []role, namespace string) error {
	if namespace != "" {
		roles = slices.DeleteFunc(roles, func(r role) bool { return r.namespace != namespace })
	}
	if len(roles) == 0 {
		return fault.Newf("print roles", fault.NotFound, namespace, "the plan needs nothing of the Kubernetes API there")
	}
	var out bytes.Buffer
	for _, r := range roles {
		text, err := yaml.Marshal(r.object)
		if err != nil {
			return fault.New("print roles", fault.Internal, "", err)
		}
		fmt.Fprintf(&out, "---\n%s", text)
	}
	_, err := a.out.Write(out.Bytes())
	return err
}
