package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
	"github.com/musterdr/muster/testenv/apiserver"
)

// replayed replays what a capture stored; change may alter the configuration.
func replayed(t *testing.T, client *Client, captured Captured, store *memory, change func(*ReplayConfig)) (Replayed, *notes) {
	t.Helper()
	found := &notes{}
	config := ReplayConfig{Client: client, Recorded: store.recorded(t, captured), Wait: 20 * time.Second, Progress: &counted{}, Report: found.add}
	if change != nil {
		change(&config)
	}
	result, err := Replay(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	if sum := result.Created + result.Present + result.Updated + result.Replaced + result.Recreated + result.Kept + result.Passed + result.Lost; sum != result.Objects {
		t.Errorf("%d objects are accounted for, of %d: %s", sum, result.Objects, toJSON(t, result))
	}
	return result, found
}

// seedTeam makes objects whose order matters: owners in later waves than what they own, a custom
// resource, a Service with an address, a webhook that would refuse everything, a finished Job.
func seedTeam(t *testing.T, client *Client) {
	t.Helper()
	newNamespace(t, client, "team")
	path := fmt.Sprintf(newWidgets(t, client, "replay.example.org"), "team")
	widget := create(t, client, path, object(t, `{"apiVersion":"replay.example.org/v1","kind":"Widget","metadata":{"name":"root","finalizers":["example.org/hold"]},"spec":{"n":12345678901234567}}`))
	owned := func(name, kind, apiVersion, uid string) Object {
		return object(t, fmt.Sprintf(`{"metadata":{"name":%q,"ownerReferences":[{"apiVersion":%q,"kind":%q,"name":"root","uid":%q,"blockOwnerDeletion":true}]}}`, name, apiVersion, kind, uid))
	}
	first := create(t, client, "/api/v1/namespaces/team/configmaps", owned("of-widget", "Widget", "replay.example.org/v1", widget.uid()))
	create(t, client, "/api/v1/namespaces/team/secrets", object(t, fmt.Sprintf(
		`{"metadata":{"name":"of-configmap","ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"of-widget","uid":%q}]},"stringData":{"a":"b"}}`, first.uid())))
	create(t, client, "/api/v1/namespaces/team/serviceaccounts", object(t, `{"metadata":{"name":"default"},"imagePullSecrets":[{"name":"pull"}]}`))
	create(t, client, "/api/v1/namespaces/team/services", object(t, `{"metadata":{"name":"open"},"spec":{"type":"NodePort","selector":{"a":"b"},"ports":[{"port":80}]}}`))
	create(t, client, "/api/v1/namespaces/team/services", object(t, `{"metadata":{"name":"headless"},"spec":{"clusterIP":"None","selector":{"a":"b"},"ports":[{"port":80}]}}`))
	create(t, client, "/api/v1/namespaces/team/resourcequotas", object(t, `{"metadata":{"name":"quota"},"spec":{"hard":{"secrets":"1"}}}`))
	create(t, client, "/apis/apps/v1/namespaces/team/deployments", object(t,
		`{"metadata":{"name":"web"},"spec":{"replicas":1,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`))
	for _, name := range []string{"ended", "open"} {
		create(t, client, "/apis/batch/v1/namespaces/team/jobs", object(t, fmt.Sprintf(
			`{"metadata":{"name":%q},"spec":{"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i"}]}}}}`, name)))
	}
	now := time.Now().UTC().Format(time.RFC3339)
	setStatus(t, client, "/apis/batch/v1/namespaces/team/jobs/ended", fmt.Sprintf(
		`{"status":{"succeeded":1,"startTime":%q,"completionTime":%[1]q,"conditions":[{"type":"SuccessCriteriaMet","status":"True"},{"type":"Complete","status":"True"}]}}`, now))
	create(t, client, "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", object(t,
		`{"metadata":{"name":"deny"},"webhooks":[{"name":"deny.example.org","sideEffects":"None","admissionReviewVersions":["v1"],"timeoutSeconds":1,
		"clientConfig":{"url":"https://127.0.0.1:1/"},"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"team"}},
		"rules":[{"apiGroups":["*"],"apiVersions":["*"],"operations":["CREATE"],"resources":["*"]}]}]}`))
}

func TestReplayIntoAnotherCluster(t *testing.T) {
	source := connect(t, apiserver.Need(t, apiserver.Config{}))
	seedTeam(t, source)
	captured, store := captureAll(t, source, nil)
	target := connect(t, apiserver.Need(t, apiserver.Config{Controllers: true}))

	first, found := replayed(t, target, captured, store, nil)
	if first.Lost != 0 || first.Created == 0 {
		t.Fatalf("replayed %s\nnotes %s", toJSON(t, first), toJSON(t, found.all))
	}
	if result := compareWith(t, target, captured, store, ModeReplay); !result.Same() || result.Captured != result.Living {
		t.Errorf("the clusters differ: %s", toJSON(t, result))
	}
	for path, want := range map[string]bool{
		"/apis/batch/v1/namespaces/team/jobs/ended":    false, // it would run again
		"/apis/batch/v1/namespaces/team/jobs/open":     true,
		"/api/v1/namespaces/team/secrets/of-configmap": true, // alive: its owner has its new UID
	} {
		if _, err := living(t, target, path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
	if headless, err := living(t, target, "/api/v1/namespaces/team/services/headless"); err != nil || headless.text("spec", "clusterIP") != "None" {
		t.Errorf("the headless Service has %q, %v", headless.text("spec", "clusterIP"), err)
	}

	again, _ := replayed(t, target, captured, store, nil)
	if again.Created != 0 || again.Lost != 0 || again.Present+again.Passed != again.Objects {
		t.Errorf("repeated, it did %s", toJSON(t, again))
	}

	const held = "/api/v1/namespaces/team/secrets/of-configmap"
	patch(t, target, held, `{"stringData":{"a":"changed"}}`)
	kept, found := replayed(t, target, captured, store, nil)
	if kept.Lost != 1 || !found.has(Lost, "core/secrets/team/of-configmap", "stands there with other content (/data/a)") {
		t.Errorf("a conflict gave %s, %s", toJSON(t, kept), toJSON(t, found.all))
	}
	replaced, _ := replayed(t, target, captured, store, func(c *ReplayConfig) { c.OnConflict = ReplaceExisting })
	if replaced.Replaced != 1 || replaced.Lost != 0 {
		t.Errorf("told to replace, it did %s", toJSON(t, replaced))
	}
	if result := compareWith(t, target, captured, store, ModeReplay); !result.Same() {
		t.Errorf("after the replacement the clusters differ: %s", toJSON(t, result))
	}
}

func living(t *testing.T, client *Client, path string) (Object, error) {
	t.Helper()
	var o Object
	err := client.call(t.Context(), request{method: http.MethodGet, path: path}, &o)
	return o, err
}

// TestReplayWaitsForANamespaceThatIsBeingDeleted holds up a namespace with a finalizer, as a drill
// that follows another one does.
func TestReplayWaitsForANamespaceThatIsBeingDeleted(t *testing.T) {
	source := connect(t, shared.Need(t))
	newNamespace(t, source, "again")
	create(t, source, "/api/v1/namespaces/again/configmaps", object(t, `{"metadata":{"name":"c"},"data":{"a":"b"}}`))
	captured, store := captureAll(t, source, func(c *CaptureConfig) { c.Include = []string{"again"} })
	target := connect(t, apiserver.Need(t, apiserver.Config{Controllers: true}))
	create(t, target, "/api/v1/namespaces", object(t, `{"metadata":{"name":"again"}}`))
	create(t, target, "/api/v1/namespaces/again/configmaps", object(t, `{"metadata":{"name":"c","finalizers":["example.org/hold"]}}`))
	drop(t, target, "/api/v1/namespaces/again")

	released := make(chan struct{})
	only := func(c *ReplayConfig) {
		c.Include, c.Wait = []string{"again"}, time.Minute
		c.ExcludeKinds = []string{"*.*.*"} // cluster-scoped kinds of the API server itself
		c.Progress = onStatus(func(text string) {
			if strings.Contains(text, "not taken yet") {
				select {
				case <-released:
				default:
					close(released)
					patch(t, target, "/api/v1/namespaces/again/configmaps/c", `{"metadata":{"finalizers":null}}`)
				}
			}
		})
	}
	result, found := replayed(t, target, captured, store, only)
	if result.Lost != 0 {
		t.Fatalf("replayed %s, %s", toJSON(t, result), toJSON(t, found.all))
	}
	c, err := living(t, target, "/api/v1/namespaces/again/configmaps/c")
	if err != nil || c.text("data", "a") != "b" {
		t.Errorf("the object is %v, %v", c, err)
	}
}

// onStatus is a Progress that hands on every status.
type onStatus func(text string)

func (onStatus) Total(int64, int64)   {}
func (onStatus) Add(int64, int64)     {}
func (f onStatus) Status(text string) { f(text) }

func TestWavesPutWhatIsNeededFirst(t *testing.T) {
	all := waves()
	order := []Key{
		{Resource: "namespaces"}, {Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"},
		{Group: "storage.k8s.io", Resource: "storageclasses"}, {Resource: "secrets"}, {Resource: "persistentvolumes"},
		{Resource: "persistentvolumeclaims"}, {Resource: "services"}, {Group: "example.org", Resource: "widgets"},
		{Group: "apps", Resource: "deployments"}, {Resource: "resourcequotas"}, {Group: "admissionregistration.k8s.io", Resource: "mutatingwebhookconfigurations"},
	}
	for i := 1; i < len(order); i++ {
		before, after := waveOf(all, order[i-1].Group, order[i-1].Resource), waveOf(all, order[i].Group, order[i].Resource)
		if before >= after {
			t.Errorf("%s is in wave %d, %s in wave %d", order[i-1], before, order[i], after)
		}
	}
}

// TestReplayEndsWhenTheRepositoryFails: one worker's failure ends those that wait for its object.
func TestReplayEndsWhenTheRepositoryFails(t *testing.T) {
	source := connect(t, shared.Need(t))
	newNamespace(t, source, "failing")
	create(t, source, "/api/v1/namespaces/failing/configmaps", object(t, `{"metadata":{"name":"c"}}`))
	captured, store := captureAll(t, source, func(c *CaptureConfig) {
		c.Include, c.ClusterResources = []string{"failing"}, NeededClusterResources
	})
	config := ReplayConfig{Client: source, Recorded: store.recorded(t, captured), Wait: time.Minute, Progress: &counted{}, Report: (&notes{}).add}
	down := fault.Newf("read", fault.Transient, "repository", "it does not answer")
	working := config.Load
	config.Load = func(ctx context.Context, id repository.ID) ([]byte, error) {
		text, err := working(ctx, id)
		if strings.Contains(string(text), "kind: Namespace") {
			return nil, down
		}
		return text, err
	}
	if _, err := Replay(t.Context(), config); !errors.Is(err, down) {
		t.Errorf("the replay ended with %v", err)
	}
}

// TestReplayFindsOwnersThatWereNotSelected replays an object alone whose owner stands in the cluster.
func TestReplayFindsOwnersThatWereNotSelected(t *testing.T) {
	client := connect(t, shared.Need(t))
	newNamespace(t, client, "owned")
	owner := create(t, client, "/api/v1/namespaces/owned/secrets", secret("owner", nil))
	create(t, client, "/api/v1/namespaces/owned/configmaps", object(t, fmt.Sprintf(
		`{"metadata":{"name":"child","ownerReferences":[{"apiVersion":"v1","kind":"Secret","name":"owner","uid":%q}]}}`, owner.uid())))
	captured, store := captureAll(t, client, func(c *CaptureConfig) { c.Include = []string{"owned"} })
	drop(t, client, "/api/v1/namespaces/owned/configmaps/child")

	result, found := replayed(t, client, captured, store, func(c *ReplayConfig) {
		c.Selection = Selection{Include: []string{"owned"}, Kinds: []string{"configmaps"}}
	})
	child, err := living(t, client, "/api/v1/namespaces/owned/configmaps/child")
	if err != nil || result.Created != 1 || len(child.owners()) != 1 || child.owners()[0].uid != owner.uid() {
		t.Errorf("replayed %s, %s: the child is %v, %v", toJSON(t, result), toJSON(t, found.all), child, err)
	}
}
