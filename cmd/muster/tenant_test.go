package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob/filesystem"
	"github.com/kopia/kopia/repo/content"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv/apiserver"
)

const tenantPlans = `apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: team}
spec:
  purpose: capture
  steps:
    - {id: apps, uses: capture-namespaces, with: {include: [team-a], as: {serviceAccount: team-a/backup, impersonate: $IMPERSONATE}}}
    - {id: seal, uses: seal-recovery-point, needs: [apps]}
---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: both}
spec:
  purpose: capture
  steps:
    - {id: apps, uses: capture-namespaces, with: {include: [team-a, team-b], as: {serviceAccount: team-a/backup}}}
    - {id: seal, uses: seal-recovery-point, needs: [apps]}
---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: lenient}
spec:
  purpose: capture
  steps:
    - {id: apps, uses: capture-namespaces, with: {include: [team-a, team-b], as: {serviceAccount: team-a/backup, skipDenied: true}}}
    - {id: seal, uses: seal-recovery-point, needs: [apps]}
---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: save}
spec:
  purpose: capture
  steps:
    - {id: apps, uses: capture-namespaces, with: {include: [team-a], clusterResources: none}}
    - {id: seal, uses: seal-recovery-point, needs: [apps]}
---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: back}
spec:
  purpose: migrate
  steps:
    - {id: apps, uses: replay-namespaces, with: {include: [team-a], clusterResources: none, wait: 1s}}
---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: teams}
spec:
  purpose: capture
  steps:
    - {id: apps, uses: capture-namespaces, with: {include: [team-a, team-b]}}
    - {id: seal, uses: seal-recovery-point, needs: [apps]}
---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: mine}
spec:
  purpose: migrate
  steps:
    - {id: apps, uses: replay-namespaces, with: {include: [team-a], as: {serviceAccount: team-a/backup, impersonate: $IMPERSONATE}, onConflict: replace, wait: 1s}}
---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: theirs}
spec:
  purpose: migrate
  steps:
    - {id: apps, uses: replay-namespaces, with: {include: [team-a, team-b], as: {serviceAccount: team-a/backup, impersonate: $IMPERSONATE}, onConflict: replace, wait: 1s}}
---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: few}
spec:
  purpose: capture
  steps:
    - {id: there, uses: wait-for, with: {objects: {apiVersion: v1, kind: ServiceAccount, namespace: team-a, name: backup}, condition: object.metadata.name == "backup", within: 1m}}
    - {id: apps, uses: capture-namespaces, needs: [there], with: {kinds: [namespaces, configmaps, deployments.apps]}}
    - {id: seal, uses: seal-recovery-point, needs: [apps]}
`

// tenancy is a real API server with two teams, each with a Secret and an account that is bound to
// nothing yet, and an account for the runner.
type tenancy struct {
	t       *testing.T
	server  *apiserver.Server
	admin   kubernetes.Interface
	planted map[string]string // what stands in the Secret of each team
}

func newTenancy(t *testing.T) *tenancy {
	t.Helper()
	server := apiserver.Need(t, apiserver.Config{})
	config, err := clientcmd.RESTConfigFromKubeConfig(server.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	s := &tenancy{t, server, admin, map[string]string{}}
	for _, team := range []string{"team-a", "team-b"} {
		s.planted[team] = "the-secret-that-was-planted-in-" + team
		s.must(admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: team}}, metav1.CreateOptions{}))
		s.must(admin.CoreV1().Secrets(team).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "password-of-" + team},
			Data: map[string][]byte{"password": []byte(s.planted[team])}}, metav1.CreateOptions{}))
		for _, name := range []string{"backup", "runner"} {
			s.must(admin.CoreV1().ServiceAccounts(team).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))
		}
	}
	return s
}

// in is the same for a part of the test.
func (s *tenancy) in(t *testing.T) *tenancy { return &tenancy{t, s.server, s.admin, s.planted} }

func (s *tenancy) must(_ any, err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *tenancy) secret(team string) string {
	s.t.Helper()
	found, err := s.admin.CoreV1().Secrets(team).Get(s.t.Context(), "password-of-"+team, metav1.GetOptions{})
	s.must(found, err)
	return string(found.Data["password"])
}

func (s *tenancy) change(team, password string) {
	s.t.Helper()
	found, err := s.admin.CoreV1().Secrets(team).Get(s.t.Context(), "password-of-"+team, metav1.GetOptions{})
	s.must(found, err)
	found.Data["password"] = []byte(password)
	s.must(s.admin.CoreV1().Secrets(team).Update(s.t.Context(), found, metav1.UpdateOptions{}))
}

// desk has the documents and a repository; its kubeconfig is the administrator's.
func (s *tenancy) desk(impersonate bool) *desk {
	s.t.Helper()
	return clusterDesk(s.t, s.server.Kubeconfig, strings.ReplaceAll(tenantPlans, "$IMPERSONATE", fmt.Sprint(impersonate)))
}

// becomeRunner gives the desk the kubeconfig of the runner's account.
func (s *tenancy) becomeRunner(d *desk) {
	s.t.Helper()
	token, err := s.admin.CoreV1().ServiceAccounts("team-b").CreateToken(s.t.Context(), "runner", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	s.must(token, err)
	config, err := clientcmd.Load(s.server.Kubeconfig)
	s.must(config, err)
	for _, user := range config.AuthInfos {
		user.ClientCertificateData, user.ClientKeyData, user.Token = nil, nil, token.Status.Token
	}
	s.must(nil, clientcmd.WriteToFile(*config, d.path("kubeconfig")))
}

// rbac runs muster rbac and adds the bindings that it leaves to the owner of the runner's account.
func (s *tenancy) rbac(d *desk, args ...string) []unstructured.Unstructured {
	s.t.Helper()
	text, said, err := d.muster(s.t.Context(), append([]string{"rbac"}, args...)...)
	if err != nil || said != "" {
		s.t.Fatal(err, said)
	}
	var objects []unstructured.Unstructured
	for _, document := range strings.Split(text, "---\n")[1:] {
		var o unstructured.Unstructured
		s.must(nil, yaml.Unmarshal([]byte(document), &o.Object))
		objects = append(objects, o)
	}
	for _, o := range slices.Clone(objects) {
		if holderOf(o) == "team-b/runner" {
			objects = append(objects, runnersBinding(o))
		}
	}
	return objects
}

// runnersBinding binds a role to the runner's account.
func runnersBinding(role unstructured.Unstructured) unstructured.Unstructured {
	binding := role.DeepCopy()
	delete(binding.Object, "rules")
	binding.SetKind(role.GetKind() + "Binding")
	binding.Object["roleRef"] = map[string]any{"apiGroup": rbacv1.GroupName, "kind": role.GetKind(), "name": role.GetName()}
	binding.Object["subjects"] = []any{map[string]any{"kind": rbacv1.ServiceAccountKind, "namespace": "team-b", "name": "runner"}}
	return *binding
}

// apply makes objects of RBAC what they are here.
func (s *tenancy) apply(objects ...unstructured.Unstructured) {
	s.t.Helper()
	for _, o := range objects {
		resource, namespace := strings.ToLower(o.GetKind())+"s", o.GetNamespace()
		client := s.admin.RbacV1().RESTClient()
		err := client.Delete().NamespaceIfScoped(namespace, namespace != "").Resource(resource).Name(o.GetName()).Do(s.t.Context()).Error()
		if !apierrors.IsNotFound(err) {
			s.must(nil, err)
		}
		body, err := o.MarshalJSON()
		s.must(body, err)
		s.must(nil, client.Post().NamespaceIfScoped(namespace, namespace != "").Resource(resource).Body(body).Do(s.t.Context()).Error())
	}
}

// remove takes applied objects away.
func (s *tenancy) remove(objects ...unstructured.Unstructured) {
	s.t.Helper()
	for _, o := range objects {
		namespace := o.GetNamespace()
		s.must(nil, s.admin.RbacV1().RESTClient().Delete().NamespaceIfScoped(namespace, namespace != "").
			Resource(strings.ToLower(o.GetKind())+"s").Name(o.GetName()).Do(s.t.Context()).Error())
	}
}

// settled waits until the API server goes by the roles as they are now: it hears of them a moment
// later. holds is what an account may do now, or may not do any longer.
func (s *tenancy) settled(account string, rule map[string]any, namespace string, holds bool) {
	s.t.Helper()
	first := func(field string) string { return rule[field].([]any)[0].(string) }
	resource, subresource, _ := strings.Cut(first("resources"), "/")
	attributes := &authorizationv1.ResourceAttributes{Verb: first("verbs"), Group: first("apiGroups"), Resource: resource, Subresource: subresource, Namespace: namespace}
	if names, ok := rule["resourceNames"].([]any); ok {
		attributes.Name = names[0].(string)
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: "system:serviceaccount:" + strings.ReplaceAll(account, "/", ":"), ResourceAttributes: attributes}}
	err := wait.PollUntilContextTimeout(s.t.Context(), 20*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		answer, err := s.admin.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		return err == nil && answer.Status.Allowed == holds, err
	})
	if err != nil {
		s.t.Fatalf("%s may %v: never became %v: %v", account, rule, holds, err)
	}
}

// grant applies objects and waits until each rule holds.
func (s *tenancy) grant(objects []unstructured.Unstructured) {
	s.t.Helper()
	s.apply(objects...)
	for _, role := range objects {
		for _, rule := range rulesOf(role) {
			s.settled(holderOf(role), rule.(map[string]any), role.GetNamespace(), true)
		}
	}
}

func rulesOf(role unstructured.Unstructured) []any {
	rules, _, _ := unstructured.NestedSlice(role.Object, "rules")
	return rules
}

// eachRuleLess takes away one rule at a time, calls without, gives it back and calls again.
func (s *tenancy) eachRuleLess(objects []unstructured.Unstructured, without func(rule any), again func()) {
	s.t.Helper()
	for _, role := range objects {
		for i, rule := range rulesOf(role) {
			less := role.DeepCopy()
			s.must(nil, unstructured.SetNestedSlice(less.Object, slices.Delete(rulesOf(role), i, i+1), "rules"))
			s.apply(*less)
			s.settled(holderOf(role), rule.(map[string]any), role.GetNamespace(), false)
			without(rule)
			s.apply(role)
			s.settled(holderOf(role), rule.(map[string]any), role.GetNamespace(), true)
			again()
		}
	}
}

// holderOf is the account that a printed role is for.
func holderOf(role unstructured.Unstructured) string {
	if strings.HasSuffix(role.GetName(), "-backup") {
		return "team-a/backup"
	}
	return "team-b/runner"
}

// TestPrintedRolesAreEnoughAndNoMore runs plans with what muster rbac printed for them, and with each
// rule of that taken away.
func TestPrintedRolesAreEnoughAndNoMore(t *testing.T) {
	s := newTenancy(t)
	for name, c := range map[string]struct {
		plan        string
		impersonate bool
	}{"token": {"team", false}, "impersonation": {"team", true}, "runner": {"few", false}} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			d := s.desk(c.impersonate)
			objects := s.rbac(d, c.plan)
			s.becomeRunner(d)
			if _, _, err := d.muster(t.Context(), "run", c.plan); !fault.Is(err, fault.Denied) {
				t.Fatalf("without any role it ends with %v", err)
			}
			s.grant(objects)
			if _, said, err := d.muster(t.Context(), "run", c.plan); err != nil {
				t.Fatalf("the roles are not enough: %v\n%s", err, said)
			}
			some := objects
			if c.impersonate { // the tenant's are the same as with a token
				some = slices.DeleteFunc(slices.Clone(objects), func(o unstructured.Unstructured) bool { return holderOf(o) != "team-b/runner" })
			}
			s.eachRuleLess(some, func(rule any) {
				if _, _, err := d.muster(t.Context(), "run", c.plan); !fault.Is(err, fault.Denied) {
					t.Errorf("without %v it ends with %v", rule, err)
				}
			}, func() {})
			s.remove(objects...)
		})
	}
}

// TestPrintedRolesBringObjectsBack: with the roles of a replay everything comes back, and with a rule
// less something does not.
func TestPrintedRolesBringObjectsBack(t *testing.T) {
	s := newTenancy(t)
	d := s.desk(false)
	roles, secrets := s.admin.RbacV1().Roles("team-a"), s.admin.CoreV1().Secrets("team-a")
	// Nobody may hand out what he may not do himself, and the runner may watch nothing.
	s.must(roles.Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "watcher"},
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"watch"}}}}, metav1.CreateOptions{}))
	if _, said, err := d.muster(t.Context(), "run", "save"); err != nil {
		t.Fatal(err, said)
	}
	objects := s.rbac(d, "back")
	s.grant(objects)
	s.becomeRunner(d)
	comesBack := func() bool {
		t.Helper()
		_, _, err := d.muster(t.Context(), "run", "back")
		_, noRole := roles.Get(t.Context(), "watcher", metav1.GetOptions{})
		_, noSecret := secrets.Get(t.Context(), "password-of-team-a", metav1.GetOptions{})
		return errors.Join(err, noRole, noSecret) == nil
	}
	lose := func() {
		t.Helper()
		s.must(nil, roles.Delete(t.Context(), "watcher", metav1.DeleteOptions{}))
		s.must(nil, secrets.Delete(t.Context(), "password-of-team-a", metav1.DeleteOptions{}))
	}
	if lose(); !comesBack() {
		t.Fatal("the roles are not enough")
	}
	s.eachRuleLess(objects, func(rule any) {
		if lose(); comesBack() {
			t.Errorf("without %v everything came back", rule)
		}
	}, func() {
		if !comesBack() {
			t.Error("with all rules again it does not come back")
		}
	})
}

func TestRolesOfNamespaces(t *testing.T) {
	s := newTenancy(t)
	d := s.desk(false)
	for _, c := range []struct {
		args []string
		want []string // kind, namespace and name of the roles
	}{
		{[]string{"both"}, []string{"ClusterRole  muster-both", "Role team-a muster-both", "Role team-a muster-both-team-a-backup", "Role team-b muster-both-team-a-backup"}},
		{[]string{"both", "--namespace", "team-b"}, []string{"Role team-b muster-both-team-a-backup"}},
		{[]string{"both", "--cluster"}, []string{"ClusterRole  muster-both", "ClusterRole  muster-both-team-a-backup"}},
		{[]string{"few"}, []string{"ClusterRole  muster-few", "Role team-a muster-few"}},
	} {
		var got []string
		for _, o := range s.rbac(d, c.args...) {
			if !strings.HasSuffix(o.GetKind(), "Binding") {
				got = append(got, strings.Join([]string{o.GetKind(), o.GetNamespace(), o.GetName()}, " "))
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v prints %q, want %q", c.args, got, c.want)
		}
	}
	if _, _, err := d.muster(t.Context(), "rbac", "few", "--namespace", "team-b"); !fault.Is(err, fault.NotFound) {
		t.Errorf("where nothing is needed it ends with %v", err)
	}
}

// TestTenantsCaptureHoldsNothingOfItsNeighbour captures as an account that may read its namespace: by
// an administrator, who asks for its tokens or impersonates it, and by a runner that may do nothing
// else. What stands in the neighbour's Secret is then in no byte that was written anywhere.
func TestTenantsCaptureHoldsNothingOfItsNeighbour(t *testing.T) {
	s := newTenancy(t)
	for name, c := range map[string]struct{ impersonate, runner bool }{"token": {}, "impersonation": {impersonate: true}, "poor-runner": {runner: true}} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			d := s.desk(c.impersonate)
			t.Setenv("TMPDIR", d.path("tmp"))
			s.must(nil, os.Mkdir(d.path("tmp"), 0o700))
			objects := s.rbac(d, "team")
			s.grant(objects)
			defer s.remove(objects...)
			if c.runner {
				s.becomeRunner(d)
			}
			printed, said, err := d.muster(t.Context(), "run", "team", "--verbose")
			if err != nil {
				t.Fatal(err, said)
			}
			if _, _, err := d.muster(t.Context(), "run", "both", "--verbose"); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "list secrets.core in namespace team-b") {
				t.Errorf("a plan that wants the neighbour's ends with %v", err)
			}
			shown, _, err := d.muster(t.Context(), "points", "show", "latest", "-o", "json")
			s.must(shown, err)
			if !strings.Contains(shown, `"clusterResources": "none"`) || strings.Contains(shown, "team-b") {
				t.Errorf("the manifest is\n%s", shown)
			}
			if _, said, err := d.muster(t.Context(), "run", "lenient", "--verbose"); err != nil {
				t.Fatal(err, said)
			}
			if lacking, _, err := d.muster(t.Context(), "points", "show", "latest", "-o", "json"); err != nil || !strings.Contains(lacking, "secrets.core in namespace team-b") {
				t.Errorf("%v: what was skipped is not in\n%s", err, lacking)
			}
			listed, _, err := d.muster(t.Context(), "runs", "list", "-o", "json")
			s.must(listed, err)

			stored := d.contents()
			written := append(d.files("kubeconfig"), stored...)
			written = append(written, []byte(printed), []byte(said), []byte(shown), []byte(listed))
			if own := base64.StdEncoding.EncodeToString([]byte(s.planted["team-a"])); !contains(stored, own) {
				t.Error("the tenant's own Secret was not captured, or this test does not see what is stored")
			}
			if !contains(stored, "namespaces/team-a/core") && !contains(stored, `"namespace":"team-a"`) {
				t.Error("the index is not among what is stored")
			}
			for _, text := range []string{s.planted["team-b"], base64.StdEncoding.EncodeToString([]byte(s.planted["team-b"])), "password-of-team-b", `"namespace":"team-b"`} {
				if contains(written, text) {
					t.Errorf("%s was written", text)
				}
			}
			if contains(written, "eyJhbGciOi") { // how every token begins
				t.Error("a token was written")
			}
		})
	}
}

// TestTenantsReplayLeavesItsNeighbourAlone replays a recovery point of both teams as one's account, which
// has the role that is printed for it.
func TestTenantsReplayLeavesItsNeighbourAlone(t *testing.T) {
	s := newTenancy(t)
	for _, impersonate := range []bool{false, true} {
		t.Run(fmt.Sprintf("impersonate=%v", impersonate), func(t *testing.T) {
			s := s.in(t)
			d := s.desk(impersonate)
			if _, said, err := d.muster(t.Context(), "run", "teams"); err != nil {
				t.Fatal(err, said)
			}
			objects := s.rbac(d, "mine")
			s.grant(objects)
			defer s.remove(objects...)
			for _, team := range []string{"team-a", "team-b"} {
				s.change(team, "changed since")
			}
			defer s.change("team-b", s.planted["team-b"])
			if _, _, err := d.muster(t.Context(), "run", "theirs"); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "create secrets.core in namespace team-b") {
				t.Errorf("a plan that would write to the neighbour ends with %v", err)
			}
			if got := s.secret("team-a"); got != "changed since" {
				t.Errorf("the refused plan wrote %q", got)
			}
			if _, said, err := d.muster(t.Context(), "run", "mine"); err != nil {
				t.Fatal(err, said)
			}
			if a, b := s.secret("team-a"), s.secret("team-b"); a != s.planted["team-a"] || b != "changed since" {
				t.Errorf("after the replay the Secrets are %q and %q", a, b)
			}
		})
	}
}

func contains(all [][]byte, text string) bool {
	return slices.ContainsFunc(all, func(some []byte) bool { return bytes.Contains(some, []byte(text)) })
}

// files reads everything below the desk but one file.
func (d *desk) files(but string) [][]byte {
	d.t.Helper()
	var all [][]byte
	err := filepath.WalkDir(d.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || path == d.path(but) {
			return err
		}
		text, err := os.ReadFile(path)
		all = append(all, text)
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return all
}

// contents reads all that the repository holds, decrypted, whether anything refers to it or not.
func (d *desk) contents() [][]byte {
	d.t.Helper()
	all, err := d.decrypt()
	if err != nil {
		d.t.Fatal(err)
	}
	return all
}

func (d *desk) decrypt() ([][]byte, error) {
	ctx := d.t.Context()
	var key struct {
		Password string `json:"password"`
	}
	text, err := os.ReadFile(d.path("muster.key"))
	if err != nil {
		return nil, err
	}
	if err := yaml.Unmarshal(text, &key); err != nil {
		return nil, err
	}
	storage, err := filesystem.New(ctx, &filesystem.Options{Path: d.path("repo")}, false)
	if err != nil {
		return nil, err
	}
	configFile := filepath.Join(d.t.TempDir(), "kopia.config")
	if err := repo.Connect(ctx, configFile, storage, key.Password, nil); err != nil {
		return nil, err
	}
	opened, err := repo.Open(ctx, configFile, key.Password, nil)
	if err != nil {
		return nil, err
	}
	var all [][]byte
	reader := opened.(repo.DirectRepository).ContentReader()
	err = reader.IterateContents(ctx, content.IterateOptions{IncludeDeleted: true}, func(found content.Info) error {
		some, err := reader.GetContent(ctx, found.ContentID)
		all = append(all, some)
		return err
	})
	return all, errors.Join(err, opened.Close(ctx))
}
