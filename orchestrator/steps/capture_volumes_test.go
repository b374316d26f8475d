package steps

import (
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/providers/mem"
	"github.com/musterdr/muster/state/repository"
)

const mebi = 1 << 20

const captureSteps = `
    - {id: volumes, uses: capture-volumes, with: {namespaces: [NAMESPACE]}}
    - {id: seal, uses: seal-recovery-point, needs: [volumes]}
`

func (s *volumeSite) captureSteps() string {
	return strings.ReplaceAll(captureSteps, "NAMESPACE", s.namespace)
}

// TestVolumesComeBackElsewhere: two volumes are captured, one changes, both are captured again; the backend
// is lost, and both come back at another one, bound to their claims.
func TestVolumesComeBackElsewhere(t *testing.T) {
	s := newVolumeSite(t, "volumes-elsewhere", "old", "new")
	first, second := noise(1, 16*mebi), noise(2, 5*mebi+4096)
	a, b := s.claim(t, "old", "a", first, nil), s.claim(t, "old", "b", second, nil)
	s.run(t, plans.Capture, s.captureSteps())
	full := s.layer(t, a.ID)
	if full.ReadBytes != 16*mebi || full.Base != "" || full.Consistency != repository.CrashConsistent || full.PVC != s.namespace+"/a" {
		t.Errorf("the full capture: %+v", full)
	}
	change := noise(3, mebi/2)
	copy(first[9*mebi:], change)
	s.write(t, "old", a, 9*mebi, change)
	s.run(t, plans.Capture, s.captureSteps())
	next := s.layer(t, a.ID)
	if next.ReadBytes != mebi/2 || next.NewBytes != mebi || next.Base == "" {
		t.Errorf("the incremental capture read %d bytes and stored %d, on base %q", next.ReadBytes, next.NewBytes, next.Base)
	}
	for _, v := range []providers.Volume{a, b} {
		if err := s.backends["old"].RemoveVolume(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		}
	}
	report := s.run(t, plans.Migrate, `
    - {id: volumes, uses: restore-volumes, with: {storage: {old: new}, from: repository, verify: content}}
    - {id: bind, uses: bind-volumes, needs: [volumes]}
`)
	if !report.Complete() {
		t.Errorf("findings: %+v", report.Findings)
	}
	for name, want := range map[string][]byte{"a": first, "b": second} {
		pv, err := s.client.CoreV1().PersistentVolumes().Get(t.Context(), s.pv(name), metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		restored, err := s.of(t, "new").Match(t.Context(), pv)
		if err != nil {
			t.Fatal(err)
		}
		same(t, name, s.content(t, "new", restored), want)
		claim, err := s.client.CoreV1().PersistentVolumeClaims(s.namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || pv.Spec.ClaimRef.UID != claim.UID || claim.Spec.VolumeName != pv.Name {
			t.Errorf("%s is not bound to its claim: %v", name, err)
		}
		if pv.Spec.PersistentVolumeReclaimPolicy != "Delete" {
			t.Errorf("%s has the policy %s", name, pv.Spec.PersistentVolumeReclaimPolicy)
		}
	}
}

// TestBasesAreKeptAndLetGo: of many captures, the newest two snapshots stay, and snapshots that a point
// itself consists of all do.
func TestBasesAreKeptAndLetGo(t *testing.T) {
	s := newVolumeSite(t, "volumes-bases", "fast")
	a := s.claim(t, "fast", "a", noise(1, 4*mebi), nil)
	for i := range 5 {
		s.write(t, "fast", a, int64(i)*mebi/2, noise(uint64(10+i), 4096))
		s.run(t, plans.Capture, s.captureSteps())
	}
	if got := s.snapshots(t); len(got) != 2 {
		t.Errorf("%d snapshots are left: %v", len(got), got)
	}
	keep := strings.Replace(s.captureSteps(), "namespaces:", "mode: both, namespaces:", 1)
	for range 3 {
		s.run(t, plans.Capture, keep)
	}
	if got := s.snapshots(t); len(got) != 5 && len(got) != 4 {
		t.Errorf("%d snapshots are left of three that points consist of: %v", len(got), got)
	}
}

// TestCaptureWithoutItsBase: a snapshot that somebody else deleted makes the next capture a full one.
func TestCaptureWithoutItsBase(t *testing.T) {
	s := newVolumeSite(t, "volumes-no-base", "fast")
	a := s.claim(t, "fast", "a", noise(1, 4*mebi), nil)
	s.run(t, plans.Capture, s.captureSteps())
	for _, snapshot := range s.snapshots(t) {
		if err := s.backends["fast"].RemoveSnapshot(t.Context(), snapshot.ID); err != nil {
			t.Fatal(err)
		}
	}
	s.run(t, plans.Capture, s.captureSteps())
	if layer := s.layer(t, a.ID); layer.Base != "" || layer.ReadBytes != 4*mebi {
		t.Errorf("base %q, %d bytes read", layer.Base, layer.ReadBytes)
	}
}

// TestGroupsByTagsAndMachine: volumes that no claim stands for, at one instant.
func TestGroupsByTagsAndMachine(t *testing.T) {
	s := newVolumeSite(t, "volumes-tags", "fast")
	for _, name := range []string{"x", "y", "z"} {
		s.claim(t, "fast", name, noise(uint64(name[0]), mebi), map[string]string{"team": "shop", "machine": "m1"})
	}
	s.claim(t, "fast", "other", noise(9, mebi), map[string]string{"team": "other"})
	s.run(t, plans.Capture, `
    - {id: volumes, uses: capture-volumes, with: {tags: {team: shop}, groupBy: machine, atomic: true, mode: both}}
    - {id: seal, uses: seal-recovery-point, needs: [volumes]}
`)
	layers := s.manifest(t).Volumes
	if len(layers) != 3 {
		t.Fatalf("%d volumes were captured", len(layers))
	}
	for _, layer := range layers {
		if layer.Group != "machine/m1" || !layer.Instant.Equal(layers[0].Instant) || layer.SkewSeconds != 0 || layer.PVC != "" || len(layer.Snapshot) == 0 {
			t.Errorf("%+v", layer)
		}
	}
}

// TestCaptureTellsWhatItLeaves: claims of other storages, and volumes that are gone.
func TestCaptureTellsWhatItLeaves(t *testing.T) {
	s := newVolumeSite(t, "volumes-left", "fast", "hidden")
	s.claim(t, "fast", "here", noise(1, mebi), nil)
	gone := s.claim(t, "fast", "gone", noise(2, mebi), nil)
	if err := s.backends["fast"].RemoveVolume(t.Context(), gone.ID); err != nil {
		t.Fatal(err)
	}
	report, err := s.start(t, plans.Capture, strings.Replace(s.captureSteps(), "namespaces:", "storage: [fast], namespaces:", 1))
	if err != nil {
		t.Fatal(err)
	}
	left := s.manifest(t).VolumesLeft
	if len(left) != 1 || left[0].Subject != s.namespace+"/gone" {
		t.Errorf("left: %v", left)
	}
	if !slices.ContainsFunc(report.Findings, func(f orchestrator.Finding) bool {
		return f.Severity == orchestrator.Lost && f.Subject == s.namespace+"/gone"
	}) {
		t.Errorf("findings: %+v", report.Findings)
	}
}

// TestCaptureGoesOnAfterTrouble: a provider that breaks off in the middle of reading is asked for the
// rest; one that keeps failing fails the run, whose undo leaves no snapshot.
func TestCaptureGoesOnAfterTrouble(t *testing.T) {
	s := newVolumeSite(t, "volumes-trouble", "fast")
	content := noise(1, 24*mebi)
	a := s.claim(t, "fast", "a", content, nil)
	s.backends["fast"].Fail(mem.Fault{Call: "Read", At: "middle", Times: 3, Kind: "transient"})
	s.run(t, plans.Capture, s.captureSteps())
	if layer := s.layer(t, a.ID); layer.ReadBytes != 24*mebi {
		t.Errorf("%d bytes were read", layer.ReadBytes)
	}
	before := len(s.snapshots(t))
	s.backends["fast"].Fail(mem.Fault{Call: "Read", Kind: "denied"})
	s.write(t, "fast", a, 0, noise(5, mebi))
	_, err := s.start(t, plans.Capture, strings.Replace(s.captureSteps(), "uses: capture-volumes,", "uses: capture-volumes, onFailure: undo,", 1))
	wantFault(t, err, fault.Denied, "")
	s.backends["fast"].Heal()
	if after := len(s.snapshots(t)); after != before {
		t.Errorf("%d snapshots before, %d after a run that was undone", before, after)
	}
}

// TestRestoreWithoutStorage: what has no place in the target is lost, and said so; the rest comes back.
func TestRestoreWithoutStorage(t *testing.T) {
	s := newVolumeSite(t, "volumes-no-place", "fast", "slow")
	s.claim(t, "fast", "a", noise(1, mebi), nil)
	s.claim(t, "slow", "b", noise(2, mebi), nil)
	s.run(t, plans.Capture, s.captureSteps())
	delete(s.backends, "slow")
	report := s.run(t, plans.Migrate, `
    - {id: volumes, uses: restore-volumes, with: {from: repository}}
`)
	if report.Complete() || len(report.Findings) != 1 || report.Findings[0].Subject != s.namespace+"/b" {
		t.Errorf("findings %+v, layers %+v", report.Findings, report.Layers)
	}
}

// TestClassesAreMapped: the claim and its PersistentVolume get another class, and are found in the recovery point
// when an earlier attempt has died between two objects.
func TestClassesAreMapped(t *testing.T) {
	s := newVolumeSite(t, "volumes-classes", "fast")
	s.class = "old"
	content := noise(1, mebi)
	s.claim(t, "fast", "a", content, nil)
	s.run(t, plans.Capture, `
    - {id: apps, uses: capture-namespaces}
    - {id: volumes, uses: capture-volumes, with: {namespaces: [volumes-classes]}}
    - {id: seal, uses: seal-recovery-point, needs: [apps, volumes]}
`)
	claims := s.client.CoreV1().PersistentVolumeClaims(s.namespace)
	before, err := claims.Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	bind := func() {
		t.Helper()
		report := s.run(t, plans.Migrate, `
    - {id: volumes, uses: restore-volumes, with: {from: repository}}
    - {id: bind, uses: bind-volumes, needs: [volumes], with: {storageClasses: {old: new}}}
`)
		if !report.Complete() {
			t.Errorf("findings: %+v", report.Findings)
		}
		pv, err := s.client.CoreV1().PersistentVolumes().Get(t.Context(), s.pv("a"), metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		claim, err := claims.Get(t.Context(), "a", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if pv.Spec.StorageClassName != "new" || *claim.Spec.StorageClassName != "new" || claim.Spec.VolumeName != pv.Name || pv.Spec.ClaimRef.UID != claim.UID {
			t.Errorf("claim of class %s for %q, volume of class %s", *claim.Spec.StorageClassName, claim.Spec.VolumeName, pv.Spec.StorageClassName)
		}
		if claim.Labels["app"] != before.Labels["app"] || claim.UID == before.UID || !claim.Spec.Resources.Requests.Storage().Equal(*before.Spec.Resources.Requests.Storage()) {
			t.Errorf("the claim is %+v", claim)
		}
		restored, err := s.of(t, "fast").Match(t.Context(), pv)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "a", s.content(t, "fast", restored), content)
	}
	bind()
	bind()
	for _, drop := range []func() error{
		func() error { return claims.Delete(t.Context(), "a", metav1.DeleteOptions{}) },
		func() error {
			return s.client.CoreV1().PersistentVolumes().Delete(t.Context(), s.pv("a"), metav1.DeleteOptions{})
		},
	} {
		if err := drop(); err != nil {
			t.Fatal(err)
		}
		s.letGo(t, "a")
		bind()
	}
	_, err = s.start(t, plans.Migrate, `
    - {id: volumes, uses: restore-volumes, with: {from: repository}}
    - {id: bind, uses: bind-volumes, needs: [volumes], with: {storageClasses: {old: new, new: newer}}}
`)
	wantFault(t, err, fault.Invalid, "mapped themselves")
}
