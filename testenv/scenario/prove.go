package scenario

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/workload"
)

// Proof is one thing that was looked at after a rebuild.
type Proof struct {
	Name     string `json:"name"`
	Expected string `json:"expected"`
	Found    string `json:"found"`
	Holds    bool   `json:"holds"`
}

func equal(name, expected, found string) Proof {
	return Proof{name, expected, found, expected == found}
}

// Rebuilt says what the cluster was rebuilt on.
type Rebuilt struct {
	Lab *testenv.Lab
	// Became maps the old machines to the new; machines that nothing replaced are left out.
	Became map[string]string
	// FirstControlPlane is one of the new machines.
	FirstControlPlane string
}

// Same is a rebuild on machines of the same names.
func (s *Scenario) Same(names []string) Rebuilt {
	r := Rebuilt{Lab: s.Lab, Became: map[string]string{}, FirstControlPlane: names[0]}
	for _, name := range names {
		r.Became[name] = name
	}
	return r
}

func (r Rebuilt) moved(members int) bool {
	for before, now := range r.Became {
		if before != now {
			return true
		}
	}
	return len(r.Became) != members
}

// readyWithin bounds the wait for the workloads' pods, which a lab starts in seconds.
const readyWithin = 3 * time.Minute

// Prove compares the rebuilt cluster with the captured one. The error says that it could not look.
func (s *Scenario) Prove(ctx context.Context, rebuilt Rebuilt) ([]Proof, error) {
	if err := rebuilt.Lab.FetchKubeconfig(ctx, rebuilt.FirstControlPlane); err != nil {
		return nil, err
	}
	client, err := kubeClient(rebuilt.Lab)
	if err != nil {
		return nil, err
	}
	var proofs []Proof
	for _, prove := range []func(context.Context, Rebuilt, kubernetes.Interface) ([]Proof, error){
		s.provePods, s.proveObjects, s.proveCut, s.proveRevisions, s.proveAdmission, s.proveFiles,
	} {
		found, err := prove(ctx, rebuilt, client)
		if err != nil {
			return proofs, err
		}
		proofs = append(proofs, found...)
	}
	s.tellProofs(proofs)
	return proofs, nil
}

func (s *Scenario) tellProofs(proofs []Proof) {
	for _, p := range proofs {
		s.say("%-44s %s", p.Name, map[bool]string{true: "holds", false: "FAILS: expected " + p.Expected + ", found " + p.Found}[p.Holds])
	}
}

func (s *Scenario) provePods(ctx context.Context, _ Rebuilt, client kubernetes.Interface) ([]Proof, error) {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	found := "all"
	if err := workload.Ready(ctx, client, s.Lost); err != nil {
		found = err.Error()
	}
	return []Proof{equal("pods of all workloads are ready", "all", found)}, nil
}

// followMachines are objects that belong to machines, and pods, which follow their nodes: they have
// no counterpart when machines are called otherwise.
var followMachines = []string{"/Node/", "/CSINode/", "/Pod/", "/ConfigMap/kube-system/kubeadm-config", "/ConfigMap/kube-system/kube-proxy", "/ConfigMap/kube-public/cluster-info"}

func (s *Scenario) proveObjects(ctx context.Context, rebuilt Rebuilt, _ kubernetes.Interface) ([]Proof, error) {
	config, err := restConfig(rebuilt.Lab)
	if err != nil {
		return nil, err
	}
	after, err := workload.List(ctx, config, "")
	if err != nil {
		return nil, err
	}
	before := s.Before
	name := fmt.Sprintf("digest of %d objects", len(before))
	if rebuilt.moved(len(s.marks)) {
		before, after = before.Without(followMachines...), after.Without(followMachines...)
		name = fmt.Sprintf("digest of %d objects that name no machine", len(before))
	}
	proof := equal(name, before.Digest(), after.Digest())
	if !proof.Holds {
		proof.Found += ": " + strings.Join(first(before.Diff(after), 10), "; ")
	}
	return []Proof{proof}, nil
}

func first(lines []string, n int) []string {
	if len(lines) > n {
		return append(lines[:n:n], fmt.Sprintf("and %d more", len(lines)-n))
	}
	return lines
}

// proveCut looks for what was written around the snapshot: what came after it must not be there, and
// what was deleted after it must be.
func (s *Scenario) proveCut(ctx context.Context, _ Rebuilt, client kubernetes.Interface) ([]Proof, error) {
	present, absent, count, err := s.writer.expected(s.Revision)
	if err != nil {
		return nil, err
	}
	list, err := client.CoreV1().ConfigMaps(writerNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	counted := ""
	for _, m := range list.Items {
		found[m.Name] = true
		if m.Name == counterName {
			counted = m.Data["count"]
		}
	}
	var wrong []string
	for name := range present {
		if !found[name] {
			wrong = append(wrong, name+" is missing")
		}
	}
	for name := range absent {
		if found[name] {
			wrong = append(wrong, name+" is there")
		}
	}
	return []Proof{
		equal("an object changed while the capture ran", count, counted),
		equal(fmt.Sprintf("%d objects around the cut", len(present)+len(absent)), "", strings.Join(first(wrong, 5), "; ")),
	}, nil
}

// proveRevisions goes on with a watch from before the loss, as a client does that outlived it: it
// must be told to list again, and the list must be newer than anything it has seen.
func (s *Scenario) proveRevisions(ctx context.Context, _ Rebuilt, client kubernetes.Interface) ([]Proof, error) {
	lastSeen := s.writer.changes[len(s.writer.changes)-1].revision
	told, err := resumeWatch(ctx, client, lastSeen)
	if err != nil {
		return nil, err
	}
	list, err := client.CoreV1().ConfigMaps(writerNamespace).List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return nil, err
	}
	revision, err := strconv.ParseInt(list.ResourceVersion, 10, 64)
	if err != nil {
		return nil, err
	}
	grew := Proof{"revisions only grew", fmt.Sprintf("more than %d", lastSeen), list.ResourceVersion, revision > lastSeen}
	return []Proof{equal("an old watch is told to list again", "expired", told), grew}, nil
}

func resumeWatch(ctx context.Context, client kubernetes.Interface, revision int64) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	w, err := client.CoreV1().ConfigMaps(writerNamespace).Watch(ctx, metav1.ListOptions{ResourceVersion: strconv.FormatInt(revision, 10)})
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return "expired", nil
	}
	if err != nil {
		return "", err
	}
	defer w.Stop()
	event, ok := <-w.ResultChan()
	if !ok {
		return "nothing", ctx.Err()
	}
	if event.Type != watch.Error {
		return fmt.Sprintf("an event of type %s", event.Type), nil
	}
	if err := apierrors.FromObject(event.Object); apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return "expired", nil
	}
	return "an error", nil
}

// proveAdmission asks the API server for something that only the webhook's pod can allow or refuse. The
// way to a pod that has just become ready takes kube-proxy a moment.
func (s *Scenario) proveAdmission(ctx context.Context, rebuilt Rebuilt, _ kubernetes.Interface) ([]Proof, error) {
	config, err := restConfig(rebuilt.Lab)
	if err != nil {
		return nil, err
	}
	const expected = "a good one allowed, a bad one refused"
	answer := ""
	err = wait.PollUntilContextTimeout(ctx, time.Second, readyWithin, true, func(ctx context.Context) (bool, error) {
		answer, err = workload.AskWebhook(ctx, config)
		return answer == expected, err
	})
	if wait.Interrupted(err) {
		err = nil // the answer speaks for itself
	}
	return []Proof{equal("the admission webhook answers", expected, answer)}, err
}

func (s *Scenario) proveFiles(ctx context.Context, rebuilt Rebuilt, _ kubernetes.Interface) ([]Proof, error) {
	var proofs []Proof
	for _, before := range slices.Sorted(maps.Keys(rebuilt.Became)) {
		after, err := digest(ctx, rebuilt.Lab, rebuilt.Became[before], "/opt/marker")
		if err != nil {
			return nil, err
		}
		proofs = append(proofs, equal("marker files of "+before, s.marks[before], after))
	}
	if s.disk == "" {
		return proofs, nil
	}
	machine, ok := rebuilt.Became[s.diskOn]
	if !ok {
		return nil, errors.New("no machine has the disk")
	}
	after, err := digest(ctx, rebuilt.Lab, machine, mountedAt)
	return append(proofs, equal("the attached disk's content", s.disk, after)), err
}
