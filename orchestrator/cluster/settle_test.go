package cluster

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterdr/muster/testenv/apiserver"
)

// notes collects what an operation reports.
type notes struct {
	mu  sync.Mutex
	all []Note
}

func (n *notes) add(note Note) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, note)
}

func (n *notes) has(weight Weight, subject, text string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.all, func(note Note) bool {
		return note.Weight == weight && note.Subject == subject && strings.Contains(note.Text, text)
	})
}

// TestSettle plays a restored cluster: objects as a loss leaves them on an API server of its own, and
// a kubelet that reports when it is started.
func TestSettle(t *testing.T) {
	client := connect(t, apiserver.Need(t, apiserver.Config{}))
	seedStale(t, client, time.Now())
	restored := time.Now() // after it: what was seeded was there before
	found := &notes{}
	settled, err := Settle(t.Context(), SettleConfig{
		Client:  client,
		Targets: []Target{{Name: "cp-0", Address: "10.9.9.9", ControlPlane: true}},
		Before:  restored,
		Wait:    55 * time.Second,
		Report:  found.add, Status: func(string) {}, Now: time.Now,
		StartKubelet: func(_ context.Context, target Target) error {
			beat(t, client, target.Name)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(settled.Items) != 10 {
		t.Errorf("settled %s", toJSON(t, settled.Items))
	}
	for _, path := range []string{
		"/api/v1/nodes/ghost", "/apis/storage.k8s.io/v1/volumeattachments/on-ghost",
		"/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/some-controller",
		"/apis/certificates.k8s.io/v1/certificatesigningrequests/left-over",
	} {
		if err := client.call(t.Context(), request{method: http.MethodGet, path: path}, nil); statusCode(err) != 404 {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
	for _, want := range []Note{
		{Changed, "Node ghost", "with 1 pods"},
		{Changed, "Pod stale/on-ghost", "created again, for another machine"},
		{Info, "Lease kube-system/some-controller", "expired"},
		{Info, "CertificateSigningRequest left-over", "nobody answered"},
		{Changed, "ValidatingWebhookConfiguration guard guard.example.org", "kept its own backend"},
		{Lost, "ValidatingWebhookConfiguration guard guard.example.org", "has no ready endpoint"},
		{Lost, "Deployment stale/web", "0 of 1 pods are ready"},
		{Lost, "APIService v1.remote.example.org", "does not answer"},
	} {
		if !found.has(want.Weight, want.Subject, want.Text) {
			t.Errorf("no note %+v among %s", want, toJSON(t, found.all))
		}
	}
	var guard Object
	if err := client.call(t.Context(), request{method: http.MethodGet, path: "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/guard"}, &guard); err != nil {
		t.Fatal(err)
	}
	entry := guard["webhooks"].([]any)[0].(map[string]any)
	if entry["failurePolicy"] != "Fail" || at(guard, "metadata", "annotations") != nil {
		t.Errorf("the webhook was left as %s", toJSON(t, guard))
	}
}

// seedStale makes what an etcd restore leaves behind.
func seedStale(t *testing.T, client *Client, restored time.Time) {
	t.Helper()
	before := restored.Add(-time.Hour).UTC().Format(time.RFC3339)
	newNamespace(t, client, "stale")
	for _, name := range []string{"cp-0", "ghost"} {
		create(t, client, "/api/v1/nodes", object(t, fmt.Sprintf(`{"metadata":{"name":%q}}`, name)))
		setStatus(t, client, "/api/v1/nodes/"+name, fmt.Sprintf(
			`{"status":{"conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":%q,"lastTransitionTime":%[1]q}]}}`, before))
	}
	create(t, client, "/api/v1/namespaces/stale/serviceaccounts", object(t, `{"metadata":{"name":"default"}}`))
	create(t, client, "/api/v1/namespaces/stale/pods", object(t,
		`{"metadata":{"name":"on-ghost"},"spec":{"nodeName":"ghost","automountServiceAccountToken":false,"containers":[{"name":"c","image":"i"}]}}`))
	create(t, client, "/apis/storage.k8s.io/v1/volumeattachments", object(t,
		`{"metadata":{"name":"on-ghost"},"spec":{"attacher":"a","nodeName":"ghost","source":{"persistentVolumeName":"v"}}}`))
	create(t, client, "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases", object(t, fmt.Sprintf(
		`{"metadata":{"name":"some-controller"},"spec":{"holderIdentity":"ghost_1","leaseDurationSeconds":15,"renewTime":%q}}`,
		restored.Add(-time.Hour).UTC().Format("2006-01-02T15:04:05.000000Z"))))
	create(t, client, "/apis/apps/v1/namespaces/stale/deployments", object(t,
		`{"metadata":{"name":"web"},"spec":{"replicas":1,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`))
	create(t, client, "/api/v1/namespaces/stale/services", object(t,
		`{"metadata":{"name":"guard"},"spec":{"selector":{"a":"b"},"ports":[{"port":443}]}}`))
	create(t, client, "/apis/certificates.k8s.io/v1/certificatesigningrequests", object(t, fmt.Sprintf(
		`{"metadata":{"name":"left-over"},"spec":{"signerName":"example.org/signer","usages":["client auth"],"request":%q}}`, signingRequest(t))))
	create(t, client, "/apis/apiregistration.k8s.io/v1/apiservices", object(t,
		`{"metadata":{"name":"v1.remote.example.org"},"spec":{"group":"remote.example.org","version":"v1","groupPriorityMinimum":1,"versionPriority":1,"insecureSkipTLSVerify":true,"service":{"namespace":"stale","name":"guard"}}}`))
	create(t, client, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", object(t,
		`{"metadata":{"name":"kubernetes","labels":{"kubernetes.io/service-name":"kubernetes"}},"addressType":"IPv4","endpoints":[{"addresses":["10.9.9.9"]}]}`))
	create(t, client, "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", object(t,
		`{"metadata":{"name":"guard"},"webhooks":[{"name":"guard.example.org","sideEffects":"None","admissionReviewVersions":["v1"],
		"clientConfig":{"service":{"namespace":"stale","name":"guard"}},
		"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"stale"}},
		"rules":[{"apiGroups":[""],"apiVersions":["v1"],"operations":["CREATE"],"resources":["pods"]}]}]}`))
}

// beat reports a node as its kubelet does when it starts.
func beat(t *testing.T, client *Client, node string) {
	t.Helper()
	now := time.Now().Add(time.Second).UTC().Format(time.RFC3339) // the API keeps whole seconds
	setStatus(t, client, "/api/v1/nodes/"+node, fmt.Sprintf(
		`{"status":{"conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":%q,"lastTransitionTime":%[1]q}]}}`, now))
}

func setStatus(t *testing.T, client *Client, path, body string) {
	t.Helper()
	r := request{method: http.MethodPatch, path: path + "/status", contentType: "application/strategic-merge-patch+json", body: []byte(body)}
	if err := client.call(t.Context(), r, nil); err != nil {
		t.Error(err)
	}
}

func TestOpenedWebhooksAreRemembered(t *testing.T) {
	for _, c := range []struct {
		name  string
		have  map[string]string
		names []string
		want  string
	}{
		{"first of all annotations", nil, []string{"a"}, `[{"op":"add","path":"/metadata/annotations","value":{"muster.dev/opened-webhooks":"[\"a\"]"}}]`},
		{"beside others", map[string]string{"x": "y"}, []string{"a"}, `[{"op":"add","path":"/metadata/annotations/muster.dev~1opened-webhooks","value":"[\"a\"]"}]`},
		{"last one goes", map[string]string{openedAnnotation: `["a"]`}, nil, `[{"op":"remove","path":"/metadata/annotations"}]`},
		{"goes from beside others", map[string]string{openedAnnotation: `["a"]`, "x": "y"}, nil, `[{"op":"remove","path":"/metadata/annotations/muster.dev~1opened-webhooks"}]`},
		{"never opened", nil, nil, `null`},
	} {
		if got := strings.Join(strings.Fields(toJSON(t, annotate(c.have, c.names))), ""); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
