package plans

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/providers/fault"
)

func TestReadFillsEveryField(t *testing.T) {
	folder, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(folder, name) }
	set := mustRead(t, "testdata/inventory.yaml")
	ssh := SSH{User: "ops", Port: 2222, KeyFile: filepath.Join(filepath.Dir(folder), "keys/ops"), KnownHostsFile: in("known_hosts"), Sudo: true}
	want := NewSet()
	want.Clusters["prod"] = &Cluster{
		Metadata: Metadata{Name: "prod", Labels: map[string]string{"site": "north"}},
		Spec: ClusterSpec{
			KubeconfigFile: in("admin.conf"),
			Etcd: Etcd{
				Endpoints: []string{"https://10.0.0.1:2379"}, CAFile: "/etc/etcd/ca.crt",
				CertFile: in("pki/client.crt"), KeyFile: in("pki/client.key"),
			},
			SSH: ssh,
			Machines: []Machine{
				{Name: "cp-0", Address: "10.0.0.1", Role: ControlPlane},
				{Name: "worker-0", Address: "10.0.0.2", Role: Worker, Devices: []Device{{"data", "/dev/vdb"}}},
			},
			Storage: []Storage{{
				Name: "fast", Provider: "ceph", MaxParallel: 4, Environment: []string{"CEPH_ARGS"},
				Settings: map[string]any{
					"keyringFile": in("ceph/keyring"), "user": "muster",
					"targets": []any{map[string]any{"name": "far", "configFile": in("far.conf")}},
				},
			}},
		},
	}
	want.Repositories["vault"] = &Repository{
		Metadata: Metadata{Name: "vault"},
		Spec: RepositorySpec{
			URL: "s3://backups/prod",
			S3: S3{
				Endpoint: "https://s3.example.org:9000", Region: "eu-north-1", PathStyle: true,
				CAFile: in("s3-ca.crt"), CredentialsFile: in("credentials"),
			},
			KeyFile:   in("vault.key"),
			PublicKey: "ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
			Retention: Retention{Latest: 3, Daily: 7, MaxAge: Duration(90 * 24 * time.Hour)},
		},
	}
	want.Machines["spare"] = &Machines{
		Metadata: Metadata{Name: "spare"},
		Spec: MachinesSpec{
			SSH: SSH{KeyFile: in("spare.key")}, ControlPlaneEndpoint: "api.example.org:6443",
			Machines: []Machine{
				{Name: "new-0", Address: "10.1.0.1", Role: ControlPlane, Replaces: "cp-0"},
				{Name: "new-1", Address: "10.1.0.2", Role: Worker, SSH: SSH{KeyFile: in("spare.key")}},
			},
			Storage: []Storage{{Name: "fast", Provider: "ceph", Settings: map[string]any{"pools": []any{"rbd"}}}},
		},
	}
	if !reflect.DeepEqual(set.Clusters, want.Clusters) {
		t.Errorf("clusters: %+v", set.Clusters["prod"])
	}
	if !reflect.DeepEqual(set.Repositories, want.Repositories) {
		t.Errorf("repositories: %+v", set.Repositories["vault"])
	}
	if !reflect.DeepEqual(set.Machines, want.Machines) {
		t.Errorf("machines: %+v", set.Machines["spare"])
	}
	if got := set.Source(set.Repositories["vault"]).String(); got != "testdata/inventory.yaml:32:1" {
		t.Errorf("source is %s", got)
	}
	if got := set.Source(want.Clusters["prod"]); got != (Position{}) {
		t.Errorf("a document that was not read has the source %s", got)
	}
}

func TestErrorTexts(t *testing.T) {
	files, err := filepath.Glob("testdata/invalid/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			set, err := ReadFiles(file)
			if set != nil || !fault.Is(err, fault.Invalid) {
				t.Fatalf("got %v, %v", set, err)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("the error shows a value that may be a secret")
			}
			var problems Problems
			if !errors.As(err, &problems) {
				t.Errorf("%T holds no Problems", err)
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".txt", []byte(err.Error()+"\n"))
		})
	}
}

func TestFilesThatCannotBeOpened(t *testing.T) {
	_, err := ReadFiles("testdata/inventory.yaml", "testdata/none.yaml")
	if !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "testdata/none.yaml") {
		t.Errorf("error is %v", err)
	}
}

func TestDuplicatesAcrossFiles(t *testing.T) {
	second := filepath.Join(t.TempDir(), "second.yaml")
	content := "apiVersion: muster.dev/v1alpha1\nkind: Cluster\nmetadata: {name: prod}\nspec: {kubeconfigFile: k}\n"
	if err := os.WriteFile(second, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := ReadFiles("testdata/inventory.yaml", second)
	want := "read documents: " + second + `:3:18: Cluster "prod" stands at testdata/inventory.yaml:1:1 already`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestFileSizeIsBounded(t *testing.T) {
	large := strings.Repeat("# nothing\n", maxFileSize/10+1)
	_, err := Read("large.yaml", strings.NewReader(large))
	if want := "read documents: large.yaml: the file is larger than 4 MiB; split it"; err == nil || err.Error() != want {
		t.Errorf("error is %v", err)
	}
}

func TestNestingIsBounded(t *testing.T) {
	for depth, fits := range map[int]bool{40: true, 80: false, 5000: false} {
		text := "apiVersion: muster.dev/v1alpha1\nkind: Plan\nmetadata: {name: deep}\nspec: {steps: [{with: {a: " +
			strings.Repeat("[", depth) + strings.Repeat("]", depth) + "}}]}\n"
		_, err := Read("deep.yaml", strings.NewReader(text))
		if fits != (err == nil) {
			t.Errorf("depth %d: %v", depth, err)
		}
	}
}

func TestSettingsKeepTheirTypes(t *testing.T) {
	text := `apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: free}
spec:
  steps:
    - with: {big: 9007199254740993, hex: 0x10, share: 0.5, on: true, day: 2024-02-30, none: null, list: [a, {b: c}]}
`
	set, err := Read("free.yaml", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"big": int64(9007199254740993), "hex": int64(16), "share": 0.5, "on": true, "day": "2024-02-30", "none": nil,
		"list": []any{"a", map[string]any{"b": "c"}},
	}
	if got := set.Plans["free"].Spec.Steps[0].With; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %#v\nwant %#v", got, want)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"address", "devices", "name", "role", "ssh"}
	for name, want := range map[string]string{
		"adress": "address", "Address": "address", "addrses": "address", "nme": "name", "roel": "role",
		"password": "", "x": "", "": "", "s": "", strings.Repeat("address", 100): "",
	} {
		if got := nearest(name, known); got != want {
			t.Errorf("nearest(%.20q) is %q, want %q", name, got, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	files, err := filepath.Glob("testdata/*/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, "testdata/inventory.yaml", "builtin/capture.yaml") {
		content, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(content))
	}
	f.Fuzz(func(t *testing.T, text string) {
		set, err := Read("fuzz.yaml", strings.NewReader(text))
		if err != nil {
			var problems Problems
			if !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("an error without a problem: %v", err)
			}
			return
		}
		for name := range set.Plans {
			checked, err := CheckSteps(set, name, vocabulary())
			if err != nil {
				continue
			}
			surviveFreezing(t, checked)
			surviveRunner(t, checked)
		}
	})
}

// surviveFreezing wants a checked plan to come out of its frozen form as the same plan.
func surviveFreezing(t *testing.T, checked *Checked) {
	t.Helper()
	content, digest, err := Freeze(checked)
	if err != nil {
		t.Fatalf("a checked plan can't be frozen: %v", err)
	}
	thawed, err := Thaw(content)
	if err != nil {
		t.Fatalf("a frozen plan can't be thawed: %v", err)
	}
	if _, again, err := Freeze(thawed); err != nil || again != digest {
		t.Fatalf("a thawed plan has another digest: %v", err)
	}
}

// surviveRunner wants settings that were checked to decode when the runner fills in the items; with
// other expressions only what they give decides, and that must be no fault of this program.
func surviveRunner(t *testing.T, checked *Checked) {
	t.Helper()
	for _, step := range checked.Plan.Spec.Steps {
		settings, err := checked.Expand(step, "some item", Facts{})
		if err == nil {
			spec, _ := vocabulary().Step(step.Uses)
			err = Decode(settings, spec.New())
		}
		if err != nil && (!dynamicBeyondItem(step.With) || !fault.Is(err, fault.Invalid)) {
			t.Fatalf("settings were checked and yet: %v", err)
		}
	}
}

// dynamicBeyondItem reports whether there are expressions other than ${item}.
func dynamicBeyondItem(with map[string]any) bool {
	raw, err := json.Marshal(with)
	return err != nil || strings.Contains(strings.ReplaceAll(string(raw), "${item}", ""), "${")
}
