package steps

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/orchestrator/volume"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// volumeGroup is one item of capture-volumes at work.
type volumeGroup struct {
	*CaptureVolumes
	run      *orchestrator.Run
	client   *cluster.Client // nil when tags choose
	backends []volume.Backend
	members  []*groupMember
	left     []repository.LeftOut
	still    *volume.Still // what is held still; nil when nothing is
	quiesced []string      // pods that were, as namespace/name
	skew     time.Duration

	held      []*heldDatabase               // whose writers wait
	databases []repository.QuiescedDatabase // whose writers waited all the time
}

// groupMember is a volume of the group. Without a snapshot it is read live.
type groupMember struct {
	volume.Claimed
	provider    providers.Provider
	info        providers.Info
	snapshot    *providers.Snapshot
	taken       time.Time
	consistency repository.Consistency
}

// folder is the volume's in the recovery point: volumes/<name>.
func (m *groupMember) folder() string { return repository.VolumePath(m.Storage, m.Volume.ID) }

// open finds the group's volumes. What an earlier attempt of this task made is deleted: whether its
// snapshots were taken while everything was held still, nobody knows any more.
func (s *CaptureVolumes) open(ctx context.Context, run *orchestrator.Run) (*volumeGroup, error) {
	backends, err := backendsOf(ctx, run, s.Storage)
	if err != nil {
		return nil, err
	}
	if err := abandonSnapshots(ctx, run, backends); err != nil {
		return nil, err
	}
	found, err := s.find(ctx, run, s.groupChoice(run.Item))
	if err != nil {
		return nil, err
	}
	g := &volumeGroup{CaptureVolumes: s, run: run, backends: backends}
	if len(s.Tags) == 0 {
		if g.client, err = clusterClient(ctx, run); err != nil {
			return nil, err
		}
	}
	for _, claimed := range s.GroupBy.Of(run.Item, found) {
		if err := g.add(ctx, claimed); err != nil {
			g.close()
			return nil, err
		}
	}
	return g, nil
}

func (g *volumeGroup) close() {
	_, _ = g.releaseDatabases() // where some are held yet, an error came before
	if g.client != nil {
		g.client.Close()
	}
}

func (g *volumeGroup) add(ctx context.Context, claimed volume.Claimed) error {
	subject := claimed.Namespace + "/" + claimed.Claim
	if claimed.Storage == "" {
		matched, err := volume.Match(ctx, g.backends, &claimed)
		if fault.Is(err, fault.NotFound) {
			g.leave(orchestrator.Lost, subject, "its volume is gone from its backend: "+err.Error())
			return nil
		}
		if err != nil {
			return err
		}
		if !matched {
			g.leave(orchestrator.Info, subject, "no storage of the inventory has volumes of its kind; what lies on a machine's own disk is captured with the machine")
			return nil
		}
	}
	member := &groupMember{Claimed: claimed, consistency: repository.CrashConsistent}
	for _, backend := range g.backends {
		if backend.Storage == claimed.Storage {
			member.provider = backend.Provider
		}
	}
	info, err := member.provider.Info(ctx)
	member.info = info
	g.members = append(g.members, member)
	return err
}

// leave records a volume that is not captured.
func (g *volumeGroup) leave(severity orchestrator.Severity, subject, reason string) {
	g.left = append(g.left, repository.LeftOut{Subject: subject, Reason: reason})
	g.run.Progress.Report(orchestrator.Finding{Severity: severity, Layer: "volumes", Subject: subject, Text: "not captured: " + reason})
}

// snapshot takes the group's snapshots between quiesce and release. Volumes that have none stay held
// still, for a while, until move has read them.
func (g *volumeGroup) snapshot(ctx context.Context) error {
	if len(g.members) == 0 {
		return nil
	}
	if err := g.quiesce(ctx); err != nil {
		return err // close lets databases go
	}
	err := g.takeAll(ctx)
	if err != nil || !g.live() {
		err = errors.Join(err, g.tolerate(g.release(ctx)))
	}
	if err != nil {
		return errors.Join(err, abandonSnapshots(context.WithoutCancel(ctx), g.run, g.backends))
	}
	return nil
}

func (g *volumeGroup) live() bool {
	return slices.ContainsFunc(g.members, func(m *groupMember) bool { return m.snapshot == nil })
}

// quiesce holds databases before the filesystems under them, on which a server could wait.
func (g *volumeGroup) quiesce(ctx context.Context) error {
	if err := g.tolerate(g.holdDatabases(ctx)); err != nil {
		return err
	}
	actions, err := g.actions(ctx)
	if err == nil && len(actions) > 0 {
		g.run.Progress.Status("quiesce " + g.run.Item)
		g.still, err = volume.Quiesce(ctx, g.client, actions)
		for _, action := range actions {
			g.quiesced = append(g.quiesced, action.Namespace+"/"+action.Pod)
		}
	}
	if g.still != nil && err == nil {
		for _, m := range g.members {
			m.consistency = repository.ApplicationConsistent
		}
	}
	return g.tolerate(err)
}

// tolerate turns a stillness that did not hold into a line of the report, where the plan allows it.
func (g *volumeGroup) tolerate(err error) error {
	if err == nil || !g.Quiesce.Optional {
		return err
	}
	g.run.Progress.Report(orchestrator.Finding{Severity: orchestrator.Info, Layer: "volumes", Subject: g.run.Item, Text: "not held still all the time: " + err.Error()})
	return nil
}

// release lets everything go on. When the time was over before the instant, the snapshots are worth no
// more than others.
func (g *volumeGroup) release(ctx context.Context) error {
	err := g.releaseStill(ctx)
	var failed error
	g.databases, failed = g.releaseDatabases()
	return errors.Join(err, failed)
}

func (g *volumeGroup) releaseStill(ctx context.Context) error {
	if g.still == nil {
		return nil
	}
	err := g.still.Release(ctx)
	g.still = nil
	if err == nil {
		return nil
	}
	for _, m := range g.members {
		m.consistency = repository.CrashConsistent
	}
	return err
}

// actions are what holds the group still: hooks first, then the filesystems below.
func (g *volumeGroup) actions(ctx context.Context) ([]volume.Action, error) {
	if g.client == nil {
		return nil, nil
	}
	within := g.Quiesce.within()
	var actions []volume.Action
	for _, hook := range g.Quiesce.Hooks {
		for _, namespace := range g.hookNamespaces(hook) {
			pods, err := g.client.Kubernetes().CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: hook.Selector, FieldSelector: "status.phase=Running"})
			if err != nil {
				return nil, fault.New("find pods to quiesce", fault.Transient, namespace, err)
			}
			for _, pod := range pods.Items {
				actions = append(actions, volume.Action{Namespace: namespace, Pod: pod.Name, Container: hook.Container, Pre: hook.Pre, Post: hook.Post, Within: within})
			}
		}
	}
	if !g.Quiesce.Freeze {
		return actions, nil
	}
	frozen := map[string]bool{}
	for _, m := range g.members {
		for _, mount := range m.Mounts {
			if key := m.folder() + "@" + mount.Node; !frozen[key] { // one filesystem, however many pods share it
				frozen[key] = true
				actions = append(actions, volume.Freeze(m.Namespace, mount, within))
			}
		}
	}
	return actions, nil
}

func (g *volumeGroup) hookNamespaces(hook QuiesceHook) []string {
	if hook.Namespace != "" {
		return []string{hook.Namespace}
	}
	namespaces := map[string]bool{}
	for _, m := range g.members {
		namespaces[m.Namespace] = true
	}
	return slices.Sorted(maps.Keys(namespaces))
}

// takeAll asks each backend once for all of the group's volumes that it has.
func (g *volumeGroup) takeAll(ctx context.Context) error {
	for _, backend := range g.backends {
		var members []*groupMember
		for _, m := range g.members {
			if m.Storage == backend.Storage {
				members = append(members, m)
			}
		}
		if len(members) == 0 {
			continue
		}
		if err := g.take(ctx, backend, members); err != nil {
			return err
		}
	}
	return g.measure()
}

// snapshotTries is how often a snapshot is asked for while everything is held still.
const snapshotTries = 3

func (g *volumeGroup) take(ctx context.Context, backend volume.Backend, members []*groupMember) error {
	g.run.Progress.Status("snapshots of " + g.run.Item + " at " + backend.Storage)
	request := providers.SnapshotRequest{Tags: tagsOf(g.run), Atomic: g.Atomic}
	ids := []string{backend.Storage}
	for _, m := range members {
		request.Volumes = append(request.Volumes, m.Volume.Handle)
		ids = append(ids, m.Volume.ID)
	}
	request.Token = tokenOf(g.run, ids...)
	set, err := backend.Provider.Snapshot(ctx, request)
	for try := 1; err != nil && try < snapshotTries && ctx.Err() == nil && fault.KindOf(err).Retryable(); try++ {
		set, err = backend.Provider.Snapshot(ctx, request)
	}
	if fault.Is(err, fault.Unsupported) && g.mayReadLive(members) {
		for _, m := range members {
			m.taken, m.consistency = g.run.Now().UTC(), repository.Live
		}
		return nil
	}
	if err != nil {
		return err
	}
	for i, m := range members {
		m.snapshot, m.taken = &set.Snapshots[i], set.Snapshots[i].Instant.UTC()
	}
	return nil
}

func (g *volumeGroup) mayReadLive(members []*groupMember) bool {
	return !g.RefuseLive && !g.Atomic && !slices.ContainsFunc(members, func(m *groupMember) bool {
		return m.Volume.Content != providers.ContentFiles || g.Mode == repository.VolumeSnapshot
	})
}

// measure tells how far the group's snapshots lie apart, and refuses what should have been one instant.
func (g *volumeGroup) measure() error {
	byTime := func(a, b *groupMember) int { return a.taken.Compare(b.taken) }
	first, last := slices.MinFunc(g.members, byTime), slices.MaxFunc(g.members, byTime)
	g.skew = last.taken.Sub(first.taken)
	if g.Atomic && first.Storage != last.Storage {
		return fault.Newf("capture group", fault.Unsupported, g.run.Item, "its volumes are at %s and %s, which share no instant: group them apart, or leave out atomic", first.Storage, last.Storage)
	}
	return nil
}

// describe is what the manifest says of a member, but for where its content is.
func (g *volumeGroup) describe(m *groupMember) (repository.VolumeLayer, error) {
	layer := repository.VolumeLayer{
		ID: m.Volume.ID, Path: m.folder(), Storage: m.Storage, Provider: m.info.Name, Version: m.info.Version,
		Content: string(m.Volume.Content), Size: m.Volume.Size, Machine: m.Volume.Machine, Zone: m.Volume.Zone, Tags: m.Volume.Tags,
		Workload: m.Workload, Mode: g.mode(), Group: g.run.Item, SkewSeconds: g.skew.Seconds(), Quiesced: g.quiesced,
		Instant: m.taken, Consistency: m.consistency, Parameters: m.Volume.Parameters,
	}
	if m.PV != nil {
		layer.PV, layer.PVC, layer.StorageClass = m.PV.Name, m.Namespace+"/"+m.Claim, m.PV.Spec.StorageClassName
	}
	if m.snapshot == nil {
		return layer, nil
	}
	layer.Size, layer.Parameters = m.snapshot.Size, m.snapshot.Parameters
	encoded, err := json.Marshal(m.snapshot)
	layer.Snapshot = encoded
	return layer, err
}

func (g *volumeGroup) mode() repository.VolumeMode {
	if g.Mode == "" {
		return repository.VolumeRepository
	}
	return g.Mode
}
