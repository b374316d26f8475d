package plans

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func thawFixture(t *testing.T, name string) *Checked {
	t.Helper()
	content, err := os.ReadFile("testdata/frozen/" + name)
	if err != nil {
		t.Fatal(err)
	}
	checked, err := Thaw(content)
	if err != nil {
		t.Fatal(err)
	}
	return checked
}

// frozenCluster and the others are the documents of the fixtures.
func frozenCluster() *Cluster {
	return &Cluster{
		Metadata: Metadata{Name: "prod", Labels: map[string]string{"site": "north"}},
		Spec: ClusterSpec{
			KubeconfigFile: "/etc/muster/admin.conf",
			Etcd: Etcd{
				Endpoints: []string{"https://10.0.0.1:2379"}, CAFile: "/etc/etcd/ca.crt",
				CertFile: "/etc/muster/pki/client.crt", KeyFile: "/etc/muster/pki/client.key",
			},
			SSH: SSH{User: "ops", Port: 2222, KeyFile: "/etc/keys/ops", KnownHostsFile: "/etc/muster/known_hosts", Sudo: true},
			Machines: []Machine{
				{Name: "cp-0", Address: "10.0.0.1", Role: ControlPlane},
				{Name: "worker-0", Address: "10.0.0.2", Role: Worker, Devices: []Device{{"data", "/dev/vdb"}}},
			},
		},
	}
}

func frozenRepository() *Repository {
	return &Repository{Metadata: Metadata{Name: "vault"}, Spec: RepositorySpec{
		URL: "s3://backups/prod",
		S3: S3{
			Endpoint: "https://s3.example.org:9000", Region: "eu-north-1", PathStyle: true,
			CAFile: "/etc/muster/s3-ca.crt", CredentialsFile: "/etc/muster/credentials",
		},
		KeyFile: "/etc/muster/vault.key", PublicKey: "ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
		Retention: Retention{Latest: 3, Daily: 7, MaxAge: Duration(90 * 24 * time.Hour)},
	}}
}

func frozenMachines() *Machines {
	return &Machines{Metadata: Metadata{Name: "spare"}, Spec: MachinesSpec{
		SSH: SSH{KeyFile: "/etc/muster/spare.key"}, ControlPlaneEndpoint: "api.example.org:6443",
		Machines: []Machine{
			{Name: "new-0", Address: "10.1.0.1", Role: ControlPlane, Replaces: "cp-0"},
			{Name: "new-1", Address: "10.1.0.2", Role: Worker, SSH: SSH{KeyFile: "/etc/muster/spare.key"}},
		},
	}}
}

// TestFormat1 wants every field of a plan that an older program froze to mean what it meant.
func TestFormat1(t *testing.T) {
	checked := thawFixture(t, "v1.json")
	day := 24 * time.Hour
	want := &Plan{
		Metadata: Metadata{Name: "full", Labels: map[string]string{"team": "storage"}},
		Spec: PlanSpec{
			Purpose: Capture, Cluster: "prod", Repository: "vault", Machines: "spare", MaxParallel: 4,
			Steps: []Step{
				{ID: "etcd", Uses: "snapshot-etcd", Timeout: Duration(30 * time.Minute),
					Retry: Retry{Attempts: 5, Backoff: Duration(2 * time.Second)}, OnFailure: OnFailureUndo},
				// Its waits had no bound: the last one was an hour, doubled eighteen times.
				{ID: "machines", Uses: "capture-machines", MaxParallel: 2, OnFailure: OnFailureContinue,
					Retry: Retry{Attempts: 20, Backoff: Duration(time.Hour), MaxBackoff: Duration(time.Hour << 18)}},
				{ID: "apps", Uses: "capture-namespaces", Needs: []string{"etcd"}, OnFailure: OnFailurePause,
					When: `receipts.etcd.revision > 5 && cluster.name == "prod"`,
					With: map[string]any{
						"exclude": []any{"kube-*", "<none>"}, "pageSize": int64(9007199254740993), "settle": "90s",
						"limits": map[string]any{"objects": int64(10)},
					}},
				{ID: "each", Uses: "capture-namespaces", ForEach: "cluster.machines.map(m, m.name)", OnFailure: OnFailureStop,
					With: map[string]any{"exclude": []any{
						"${item}", "$${items}", "${'$'}${item}", "a ${item} of $${HOME}", "$$", "$${ item }", "$$${HOME}", "${'$$'}${item}",
					}}},
				{ID: "listed", Uses: "capture-namespaces", Needs: []string{"each", "machines"}, ForEach: []any{"a", "b"}, MaxParallel: 1},
			},
		},
	}
	if !reflect.DeepEqual(checked.Plan, want) {
		t.Errorf("got  %+v\nwant %+v", checked.Plan, want)
	}
	if !reflect.DeepEqual(checked.Cluster, frozenCluster()) || !reflect.DeepEqual(checked.Repository, frozenRepository()) ||
		!reflect.DeepEqual(checked.Machines, frozenMachines()) || checked.Scopes != nil {
		t.Errorf("documents are %+v, %+v, %+v, scopes %v", checked.Cluster, checked.Repository, checked.Machines, checked.Scopes)
	}
	if got := checked.Graph.Ancestors("listed"); !reflect.DeepEqual(got, []string{"machines", "each"}) {
		t.Errorf("listed needs %v", got)
	}
	if wait := want.Spec.Steps[1].Retry.Wait(19); wait != time.Hour<<18 || wait < 365*day {
		t.Errorf("the last wait is %v", wait)
	}
}

// TestFormat1Runs wants a run of an older program to go on with the values that it began with.
func TestFormat1Runs(t *testing.T) {
	checked := thawFixture(t, "v1.json")
	facts := Facts{Cluster: checked.Cluster, Receipts: func() map[string]any {
		return map[string]any{"etcd": map[string]any{"revision": 6.0}}
	}}
	steps := checked.Plan.Spec.Steps
	if wanted, err := checked.Wanted(steps[2], facts); !wanted || err != nil {
		t.Errorf("apps is wanted: %v, %v", wanted, err)
	}
	if items, err := checked.Items(steps[3], facts); err != nil || !reflect.DeepEqual(items, []string{"cp-0", "worker-0"}) {
		t.Errorf("items are %v, %v", items, err)
	}
	got, err := checked.Expand(steps[3], "cp-0", facts)
	want := map[string]any{"exclude": []any{"cp-0", "${items}", "$cp-0", "a cp-0 of ${HOME}", "$$", "${ item }", "$${HOME}", "$$cp-0"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	var step namespacesStep
	if err := Decode(got, &step); err != nil || len(step.Exclude) != 8 {
		t.Errorf("%v: %+v", err, step)
	}
}

func TestFormat1OfBuiltinPlans(t *testing.T) {
	capture := thawFixture(t, "v1-capture.json")
	compareSteps(t, capture, []Step{
		{ID: "etcd", Uses: "snapshot-etcd"},
		{ID: "machines", Uses: "capture-machines"},
		{ID: "apps", Uses: "capture-namespaces", Needs: []string{"etcd"}},
		{ID: "seal", Uses: "seal-recovery-point", Needs: []string{"etcd", "machines", "apps"}},
	})
	if !reflect.DeepEqual(capture.Cluster, frozenCluster()) || !reflect.DeepEqual(capture.Repository, frozenRepository()) || capture.Machines != nil {
		t.Errorf("documents are %+v, %+v, %+v", capture.Cluster, capture.Repository, capture.Machines)
	}
	rebuild := thawFixture(t, "v1-rebuild.json")
	compareSteps(t, rebuild, []Step{
		{ID: "point", Uses: "verify-recovery-point"},
		{ID: "provision", Uses: "provision-machines"},
		{ID: "machines", Uses: "restore-machines", Needs: []string{"point", "provision"}},
		{ID: "identities", Uses: "renew-identities", Needs: []string{"machines"}},
		{ID: "etcd", Uses: "restore-etcd", Needs: []string{"identities"}},
		{ID: "control-plane", Uses: "start-control-plane", Needs: []string{"etcd"}},
		{ID: "settle", Uses: "settle-cluster", Needs: []string{"control-plane"}},
		{ID: "verify", Uses: "verify-cluster", Needs: []string{"settle"}},
	})
	if rebuild.Cluster != nil || !reflect.DeepEqual(rebuild.Repository, frozenRepository()) || !reflect.DeepEqual(rebuild.Machines, frozenMachines()) {
		t.Errorf("documents are %+v, %+v, %+v", rebuild.Cluster, rebuild.Repository, rebuild.Machines)
	}
}

func compareSteps(t *testing.T, checked *Checked, want []Step) {
	t.Helper()
	if !reflect.DeepEqual(checked.Plan.Spec.Steps, want) {
		t.Errorf("got  %+v\nwant %+v", checked.Plan.Spec.Steps, want)
	}
}

// TestFormat2 wants a plan with everything that format 2 has to be what it was when it was frozen.
func TestFormat2(t *testing.T) {
	checked := thawFixture(t, "v2.json")
	spec := checked.Plan.Spec
	if spec.Deadline != Duration(8*time.Hour) || spec.OnLocked != OnLockedWait || len(spec.Parameters) != 3 || len(spec.Steps) != 10 {
		t.Errorf("the plan is %+v", spec)
	}
	ask, end := spec.Steps[4], spec.Steps[9]
	if ask.ID != "ask" || !ask.Optional || !reflect.DeepEqual(ask.With["ask"], map[string]any{"ticket": map[string]any{"type": "string"}}) {
		t.Errorf("the step is %+v", ask)
	}
	retry := Retry{Attempts: 4, Backoff: Duration(time.Second), MaxBackoff: Duration(5 * time.Second)}
	if end.ID != "end" || !reflect.DeepEqual(end.Locks, []string{"dns"}) || end.Retry != retry || !reflect.DeepEqual(end.Needs, []string{"dns.zones.second", "dns.each"}) {
		t.Errorf("the step is %+v", end)
	}
	values := map[string]any{"announce": true, "names": []string{"api", "db"}, "zone": "example.com"}
	if !reflect.DeepEqual(checked.Scopes[""].Values, values) || checked.Scopes["dns.zones"].When != "size(params.names) > 1 && receipts.start.well" {
		t.Errorf("scopes are %+v", checked.Scopes)
	}
	facts := Facts{Receipts: func() map[string]any {
		return map[string]any{"dns.start": map[string]any{"well": true}, "dns.zones.first": map[string]any{"id": "f"}}
	}}
	second := spec.Steps[6]
	wanted, err := checked.Wanted(second, facts)
	settings, failed := checked.Expand(second, "", facts)
	if want := map[string]any{"text": "f", "count": int64(2)}; !wanted || err != nil || failed != nil || !reflect.DeepEqual(settings, want) {
		t.Errorf("%s: wanted %v, %v; settings %v, %v", second.ID, wanted, err, settings, failed)
	}
}

// TestUpgradedTextGivesWhatItGave compares with what format 1 did: replace ${item}, and nothing else.
func TestUpgradedTextGivesWhatItGave(t *testing.T) {
	pieces := []string{"$", "{", "}", "item", "${item}", " ", "'", "a", "${"}
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 8).Draw(t, "pieces"), "")
		want := strings.ReplaceAll(text, "${item}", "some item")
		step := Step{ID: "s", With: map[string]any{"a": upgradeText(text)}}
		got, err := (&Checked{}).Expand(step, "some item", Facts{})
		if err != nil || got["a"] != want {
			t.Fatalf("%q became %q, which gives %q, %v; want %q", text, upgradeText(text), got["a"], err, want)
		}
	})
}

func TestRetryWaits(t *testing.T) {
	for retry, want := range map[Retry][]time.Duration{
		{}:                                    {1 * time.Second, 2 * time.Second, 4 * time.Second},
		{Backoff: Duration(time.Minute)}:      {1 * time.Minute, 2 * time.Minute, 4 * time.Minute, 5 * time.Minute, 5 * time.Minute},
		{Backoff: Duration(10 * time.Minute)}: {10 * time.Minute, 10 * time.Minute},
		{Backoff: Duration(3 * time.Second), MaxBackoff: Duration(7 * time.Second)}: {3 * time.Second, 6 * time.Second, 7 * time.Second},
	} {
		for i, wait := range want {
			if got := retry.Wait(i + 1); got != wait {
				t.Errorf("%+v waits %v after attempt %d, want %v", retry, got, i+1, wait)
			}
		}
	}
	if got := (Retry{}).Wait(1000); got != 5*time.Minute {
		t.Errorf("the bound is %v", got)
	}
}
