package cluster

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/providers/fault"
)

// newTenant makes a namespace with a Secret, and an account that may do the rules in it.
func newTenant(t *testing.T, client *Client, namespace, rules string) Tenant {
	t.Helper()
	newNamespace(t, client, namespace)
	core, rbac := "/api/v1/namespaces/"+namespace, "/apis/rbac.authorization.k8s.io/v1/namespaces/"+namespace
	create(t, client, core+"/serviceaccounts", secret("backup", nil))
	create(t, client, core+"/secrets", secret("own", map[string]any{"of": namespace}))
	create(t, client, core+"/configmaps", secret("conf", nil))
	create(t, client, rbac+"/roles", object(t, `{"metadata":{"name":"backup"},"rules":`+rules+`}`))
	create(t, client, rbac+"/rolebindings", object(t, fmt.Sprintf(`{"metadata":{"name":"backup"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"backup"},
		"subjects":[{"kind":"ServiceAccount","name":"backup","namespace":%q}]}`, namespace)))
	return Tenant{ServiceAccount: namespace + "/backup"}
}

const readAll = `[{"apiGroups":["*"],"resources":["*"],"verbs":["get","list"]}]`

func as(t *testing.T, client *Client, tenant Tenant) *Client {
	t.Helper()
	made, err := client.As(t.Context(), tenant)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(made.Close)
	return made
}

func TestTenantCapturesWhatItMayRead(t *testing.T) {
	client := connect(t, shared.Need(t))
	tenant := newTenant(t, client, "tenant-a", readAll)
	newTenant(t, client, "tenant-b", readAll)
	for _, impersonate := range []bool{false, true} {
		tenant.Impersonate = impersonate
		mine := as(t, client, tenant)
		selection := Selection{Include: []string{"tenant-a"}, ClusterResources: NoClusterResources}
		wanted, err := SelectedPermissions(t.Context(), mine, selection, "list")
		if err != nil {
			t.Fatal(err)
		}
		if err := mine.Require(t.Context(), "it", wanted); err != nil {
			t.Error(err)
		}
		captured, store := captureAll(t, mine, func(c *CaptureConfig) { c.Selection = selection })
		index := store.index(t, captured)
		for key := range index {
			if !strings.Contains(key, "/tenant-a/") {
				t.Errorf("it took %s", key)
			}
		}
		if _, found := index["core/secrets/tenant-a/own"]; !found {
			t.Errorf("its own Secret is not among %v", keysOf(index))
		}
		selection.Include = append(selection.Include, "tenant-b")
		if wanted, err = SelectedPermissions(t.Context(), mine, selection, "list"); err != nil {
			t.Fatal(err)
		}
		err = mine.Require(t.Context(), "ServiceAccount tenant-a/backup", wanted)
		if !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "list secrets.core in namespace tenant-b") || strings.Contains(err.Error(), "namespace tenant-a") {
			t.Errorf("the neighbour is refused with %v", err)
		}
	}
}

func TestTenantSkipsWhatItMayNotList(t *testing.T) {
	client := connect(t, shared.Need(t))
	tenant := newTenant(t, client, "skip-a", `[{"apiGroups":[""],"resources":["configmaps"],"verbs":["list"]}]`)
	newTenant(t, client, "skip-b", readAll)
	mine := as(t, client, tenant)
	selection := Selection{Include: []string{"skip-a", "skip-b"}, Kinds: []string{"secrets", "configmaps"}, ClusterResources: NoClusterResources}
	_, err := Capture(t.Context(), CaptureConfig{Client: mine, Store: newMemory(), Progress: &counted{}, Now: time.Now, Selection: selection})
	if !fault.Is(err, fault.Denied) {
		t.Errorf("without leave to skip it ends with %v", err)
	}
	captured, store := captureAll(t, mine, func(c *CaptureConfig) { c.Selection, c.SkipDenied = selection, true })
	if got, want := keysOf(store.index(t, captured)), []string{"core/configmaps/skip-a/conf"}; !slices.Equal(got, want) {
		t.Errorf("it took %v, want %v", got, want)
	}
	var left []string
	for _, l := range captured.Layer.Left {
		if strings.Contains(l.Reason, "may not list") {
			left = append(left, l.Subject)
		}
	}
	if want := []string{"configmaps.core in namespace skip-b", "secrets.core in namespace skip-a", "secrets.core in namespace skip-b"}; !slices.Equal(left, want) {
		t.Errorf("left out is %v, want %v", left, want)
	}
	found, err := Compare(t.Context(), CompareConfig{Client: client, Recorded: store.recorded(t, captured), Mode: ModeRebuild})
	if err != nil || !found.Same() || found.Expected != 1 {
		t.Errorf("the same cluster differs: %+v, %v", found, err)
	}
}

func TestTenantsTokenIsRenewed(t *testing.T) {
	client := connect(t, shared.Need(t))
	mine := as(t, client, newTenant(t, client, "renewed", readAll))
	source := mine.pool.transports[0].(interface{ WrappedRoundTripper() http.RoundTripper })
	for {
		if bearing, ok := source.(*bearing); ok {
			bearing.tokens.token = "an expired one"
			break
		}
		source = source.WrappedRoundTripper().(interface{ WrappedRoundTripper() http.RoundTripper })
	}
	made := create(t, mine, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", object(t,
		`{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"resourceAttributes":{"verb":"list","resource":"secrets","namespace":"renewed"}}}`))
	if at(made, "status", "allowed") != true {
		t.Errorf("the answer is %v", made)
	}
}

func TestTenantsThatCannotBe(t *testing.T) {
	client := connect(t, shared.Need(t))
	poor := as(t, client, newTenant(t, client, "poor", readAll))
	for _, c := range []struct {
		client *Client
		tenant Tenant
		kind   fault.Kind
		text   string
	}{
		{client, Tenant{ServiceAccount: "backup"}, fault.Invalid, "want namespace/name"},
		{client, Tenant{ServiceAccount: "poor/../secrets"}, fault.Invalid, "want namespace/name"},
		{client, Tenant{ServiceAccount: "poor/none"}, fault.NotFound, "poor/none"},
		{poor, Tenant{ServiceAccount: "poor/backup"}, fault.Denied, "create on its subresource token"},
	} {
		if _, err := c.client.As(t.Context(), c.tenant); !fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%+v: error is %v", c.tenant, err)
		}
	}
}
