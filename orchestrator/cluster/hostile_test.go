package cluster

import (
	"fmt"
	"net/http"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterdr/muster/state/repository"
	"github.com/musterdr/muster/testenv/apiserver"
)

// hostileObject is one object of a hostile recovery point, and what is to become of it.
type hostileObject struct {
	entry  Entry
	text   string
	result Result
	reason Reason
}

const hostilePoint = "hostile"

// configMap is the entry of a ConfigMap, and the file that holds it.
func configMap(namespace, name, rest string) (Entry, string) {
	return Entry{Version: "v1", Resource: "configmaps", Kind: "ConfigMap", Namespace: namespace, Name: name, UID: "uid-" + name},
		fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":%s,"name":%s%s}`, toWord(namespace), toWord(name), rest)
}

func toWord(text string) string { return string(appendString(nil, text)) }

func hostileObjects() []hostileObject {
	var all []hostileObject
	add := func(result Result, reason Reason, entry Entry, text string) {
		all = append(all, hostileObject{entry, text, result, reason})
	}
	named := func(result Result, reason Reason, name, rest string) {
		entry, text := configMap(hostilePoint, name, rest)
		add(result, reason, entry, text)
	}
	misnamed := func(reason Reason, name string, change func(*Entry)) {
		entry, text := configMap(hostilePoint, name, "}")
		change(&entry)
		add(Failed, reason, entry, text)
	}
	const plain = `},"data":{"a":"b"}}`

	add(Created, "", Entry{Version: "v1", Resource: "namespaces", Kind: "Namespace", Name: hostilePoint, UID: "uid"},
		`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"hostile","labels":{"kubernetes.io/metadata.name":"hostile"}},"spec":{"finalizers":["kubernetes"]}}`)
	named(Created, "", "good", plain)
	named(Created, "", strings.Repeat("n", 253), plain)
	named(Failed, Refused, strings.Repeat("n", 254), plain)
	for _, name := range []string{"..", ".", "../../etc", "a/b", "a%2fb", "%2e%2e", "a\x00b", "a\x1b[2Jb", "/"} {
		named(Failed, Unreadable, name, plain)
	}
	for _, namespace := range []string{"..", "../../kube-system", "a/b", "%2e%2e", "a\x00b"} {
		entry, text := configMap(namespace, "away", plain)
		add(Failed, Unreadable, entry, text)
	}
	entry, text := configMap("a?limit=1#", "away", plain)
	add(Failed, NamespaceMissing, entry, text)

	misnamed(Unreadable, "group-slash", func(e *Entry) { e.Group = "apps/v1" })
	misnamed(Unreadable, "group-dots", func(e *Entry) { e.Group = ".." })
	misnamed(Unreadable, "version-slash", func(e *Entry) { e.Version = "v1/namespaces/kube-system" })
	misnamed(Unreadable, "version-dots", func(e *Entry) { e.Version = ".." })
	misnamed(Unreadable, "version-none", func(e *Entry) { e.Version = "" })
	misnamed(Unreadable, "resource-slash", func(e *Entry) { e.Resource = "configmaps/../secrets" })
	misnamed(Unreadable, "resource-escaped", func(e *Entry) { e.Resource = "%2e%2e" })
	misnamed(Unreadable, "resource-none", func(e *Entry) { e.Resource = "" })
	misnamed(Unreadable, "other-name", func(e *Entry) { e.Name = "claimed" })
	misnamed(Unreadable, "other-kind", func(e *Entry) { e.Resource, e.Kind = "secrets", "Secret" })
	misnamed(Refused, "other-resource", func(e *Entry) { e.Resource = "secrets" })
	misnamed(Unreadable, "other-version", func(e *Entry) { e.Group, e.Version = "apps", "v1" })
	add(Failed, KindNotServed, Entry{Group: "gone.example.org", Version: "v1", Resource: "relics", Kind: "Relic", Namespace: hostilePoint, Name: "relic"},
		`{"apiVersion":"gone.example.org/v1","kind":"Relic","metadata":{"namespace":"hostile","name":"relic"}}`)

	named(Failed, TooLarge, "huge", `},"data":{"a":"`+strings.Repeat("0", 100<<20)+`"}}`)
	named(Failed, Unreadable, "bomb", "},\"data\":{\"a\": &a \""+strings.Repeat("0", 1<<20)+"\", \"b\": ["+strings.Repeat("*a,", 1000)+"]}}")
	named(Failed, Unreadable, "deep", "},\"data\":"+strings.Repeat("[", 100_000)+strings.Repeat("]", 100_000)+"}")
	named(Failed, Refused, "nested", "},\"data\":"+strings.Repeat("[", 5_000)+strings.Repeat("]", 5_000)+"}")
	named(Failed, Unreadable, "no-text", "},\"data\":{\"a\":\"\xff\xfe\"}}")
	named(Failed, Unreadable, "cut", "")
	named(Failed, Refused, "owners", `,"ownerReferences":["x",{"kind":"ConfigMap"},7]}}`)
	named(Failed, Unreadable, "becomes-another", `,"annotations":{"muster.dev/before-replay":"{\"metadata\":{\"name\":\"other\"}}"}}}`)
	for _, name := range []string{"twin-a", "twin-b"} {
		entry, text := configMap(hostilePoint, name, plain)
		entry.UID = "twice"
		add(Created, "", entry, text)
	}
	named(Created, "", "child", `,"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"twin-a","uid":"twice"}]}}`)
	add(Created, "", Entry{Version: "v1", Resource: "resourcequotas", Kind: "ResourceQuota", Namespace: hostilePoint, Name: "held"},
		`{"apiVersion":"v1","kind":"ResourceQuota","metadata":{"namespace":"hostile","name":"held","annotations":{"muster.dev/before-replay":"null"}},"spec":{"hard":{"secrets":"9"}}}`)
	add(Created, "", Entry{Version: "v1", Resource: "persistentvolumes", Kind: "PersistentVolume", Name: "bound"},
		`{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"name":"bound","finalizers":["kubernetes.io/pv-protection"]},"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],
		"persistentVolumeReclaimPolicy":"Retain","volumeMode":"Filesystem","hostPath":{"path":"/x","type":""}}}`)
	add(Failed, Refused, Entry{Version: "v1", Resource: "persistentvolumeclaims", Kind: "PersistentVolumeClaim", Namespace: hostilePoint, Name: "bare"},
		`{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"namespace":"hostile","name":"bare"},"spec":{"volumeName":"bound"}}`)
	return all
}

// sealHostile makes a signed recovery point of objects.
func sealHostile(t *testing.T, all []hostileObject) Recorded {
	t.Helper()
	key, err := repository.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	config := repository.Config{URL: "file://" + t.TempDir(), Key: key, CacheDir: t.TempDir(), Now: time.Now}
	if err := repository.Create(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	vault, err := repository.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = vault.Close(t.Context()) })
	var entries []Entry
	for _, o := range all {
		stored, err := vault.Put(t.Context(), "object", strings.NewReader(o.text))
		if err != nil {
			t.Fatal(err)
		}
		o.entry.ID, o.entry.Size, o.entry.Digest = stored.ID, 1, stored.SHA256 // the size is a lie
		entries = append(entries, o.entry)
	}
	SortEntries(entries)
	var text strings.Builder
	if err := WriteIndex(&text, entries); err != nil {
		t.Fatal(err)
	}
	index, err := vault.Put(t.Context(), "index", strings.NewReader(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	layer := &repository.NamespacesLayer{Objects: len(entries), Digest: IndexDigest(entries)}
	manifest := repository.Manifest{Version: 1, ID: hostilePoint, Cluster: "prod", Created: time.Now(), Instant: time.Now(), Namespaces: layer}
	if _, err := vault.Seal(t.Context(), manifest, []repository.Subtree{{Path: IndexPath, File: &index}}); err != nil {
		t.Fatal(err)
	}
	recorded, err := ReadPoint(t.Context(), vault, hostilePoint)
	if err != nil {
		t.Fatal(err)
	}
	return recorded
}

// recorder notes the paths of what a client asks, as they are sent.
type recorder struct {
	http.RoundTripper
	mu    sync.Mutex
	paths map[string]bool
}

func (r *recorder) RoundTrip(request *http.Request) (*http.Response, error) {
	r.mu.Lock()
	r.paths[request.URL.EscapedPath()] = true
	r.mu.Unlock()
	return r.RoundTripper.RoundTrip(request)
}

// TestHostilePoint replays a recovery point that somebody with its key made to do harm: each of its objects
// has an outcome, the good ones come back, and nothing is asked of the API server but the collections of
// objects that it can hold.
func TestHostilePoint(t *testing.T) {
	all := hostileObjects()
	recorded := sealHostile(t, all)
	client := connect(t, apiserver.Need(t, apiserver.Config{}))
	record := &recorder{RoundTripper: client.http.Transport, paths: map[string]bool{}}
	client.http.Transport = record

	found := &notes{}
	result, err := Replay(t.Context(), ReplayConfig{
		Client: client, Recorded: recorded, Wait: 2 * time.Second, Progress: &counted{}, Report: found.add,
		Transform: []Transformation{{Namespace: map[string]string{"kept": "kept"}, Image: map[string]string{"a": "b"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	outcomes := map[Key]Outcome{}
	for _, line := range result.Outcomes {
		outcomes[line.Key()] = line.Outcome
	}
	lost := 0
	for _, o := range all {
		got := outcomes[o.entry.Key()]
		if got.Result != o.result || got.Reason != o.reason {
			t.Errorf("%q: %s %s, want %s %s: %.200s", o.entry.Key(), got.Result, got.Reason, o.result, o.reason, got.Message)
		}
		if o.result == Failed {
			lost++
		}
	}
	for path := range record.paths {
		if !ownPath.MatchString(path) {
			t.Errorf("asked for %s", path)
		}
	}
	if len(record.paths) < 10 {
		t.Errorf("%d paths were seen", len(record.paths))
	}
	child, err := living(t, client, "/api/v1/namespaces/hostile/configmaps/child")
	twin, twinErr := living(t, client, "/api/v1/namespaces/hostile/configmaps/twin-a")
	if err != nil || twinErr != nil || child.owners()[0].uid != twin.uid() {
		t.Errorf("the child is owned by %v, and its owner is %s: %v %v", child.owners(), twin.uid(), err, twinErr)
	}
	held, err := living(t, client, "/api/v1/namespaces/hostile/resourcequotas/held")
	if _, marked := held.annotation(heldBack); err != nil || marked {
		t.Errorf("the quota carries %v: %v", held.metadata(), err)
	}

	compared, err := Compare(t.Context(), CompareConfig{Client: client, Recorded: recorded, Mode: ModeReplay, Outcomes: result.Outcomes})
	if err != nil || compared.Missing != lost || compared.Different != 0 || compared.Expected != len(all) {
		t.Errorf("of %d objects %d are lost, and compared %+v, %v: %v", len(all), lost, compared.Tally, compared.Differences, err)
	}
	previewHostile(t, client, recorded, all)
}

// ownPath fits what a point may be asked about whose every word is one: a collection of a kind that it
// names, in a namespace that it names, and an object in it.
var ownPath = regexp.MustCompile(`^(/api/v1|/apis/(apps|gone\.example\.org)/v1)(/namespaces/(hostile|a%3Flimit=1%23))?` +
	`/(namespaces|persistentvolumes|configmaps|secrets|resourcequotas|persistentvolumeclaims|relics)(/[a-z0-9-]+)?$`)

// previewHostile reads the point in all other ways.
func previewHostile(t *testing.T, client *Client, recorded Recorded, all []hostileObject) {
	t.Helper()
	told := map[string]int{}
	config := ReplayConfig{Client: client, Recorded: recorded, Wait: time.Second, Progress: &counted{}}
	if err := Preview(t.Context(), config, func(c Change) error { told[c.Action]++; return nil }); err != nil {
		t.Fatal(err)
	}
	unread := 0
	for _, o := range all {
		if o.reason == Unreadable || o.reason == TooLarge {
			unread++
		}
	}
	if told[string(Failed)] != unread {
		t.Errorf("the preview tells %v, and %d objects can't be read", told, unread)
	}
	graph, err := recorded.Graph(t.Context(), Selection{})
	if err != nil || len(graph.Objects) != len(all) {
		t.Fatal(err)
	}
	graph.Acyclic()
	for _, where := range []string{`object.data.a == "b"`, `object.data[9].a == "b" || object.metadata.ownerReferences[9].kind == "b" || object.data.a == "b"`} {
		selected, err := recorded.Select(t.Context(), Selection{Include: []string{"hostile"}, ClusterResources: NeededClusterResources, Where: where})
		if err != nil || len(selected) == 0 {
			t.Errorf("%s selects %d objects: %v", where, len(selected), err)
		}
	}
}

// TestHostileObjectsStayOutOfMemory reads what is too large, and what would become so.
func TestHostileObjectsStayOutOfMemory(t *testing.T) {
	recorded := sealHostile(t, hostileObjects())
	for _, entry := range recorded.Entries {
		limit := map[string]uint64{"huge": 8 << 20, "bomb": 32 << 20}[entry.Name]
		if limit == 0 {
			continue
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := recorded.read(t.Context(), entry)
		runtime.ReadMemStats(&after)
		if taken := after.TotalAlloc - before.TotalAlloc; err == nil || taken > limit {
			t.Errorf("%s took %d MiB, and is refused by %v", entry.Name, taken>>20, err)
		}
	}
}
