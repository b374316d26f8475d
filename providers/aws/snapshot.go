package aws

import (
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

const opSnapshot = "snapshot volumes"

// attempt is a group of snapshots that one call of AWS made, all at one instant.
type attempt struct {
	id        string
	snapshots map[string]types.Snapshot // by volume
	started   time.Time
}

// shot is one Snapshot call at work.
type shot struct {
	*provider
	request providers.SnapshotRequest
	at      *place
	sum     string
	ids     []string // of the volumes, in the order of the request
}

// Snapshot implements providers.Snapshots. Volumes of one machine are taken by one CreateSnapshots, at one
// instant; others one by one. AWS has no client token for either, so that what a call made is found by
// its tags: a call that finds too much, because two ran at once, keeps the earliest and deletes the others.
func (p *provider) Snapshot(ctx context.Context, request providers.SnapshotRequest) (providers.SnapshotSet, error) {
	if err := p.ready(opSnapshot); err != nil {
		return providers.SnapshotSet{}, err
	}
	if err := checkToken(opSnapshot, request.Token); err != nil {
		return providers.SnapshotSet{}, err
	}
	if len(request.Volumes) == 0 {
		return providers.SnapshotSet{}, fault.Newf(opSnapshot, fault.Invalid, name, "no volume is named")
	}
	s := &shot{provider: p, request: request, at: p.home}
	for _, volume := range request.Volumes {
		id, err := open(opSnapshot, volume, volumeID)
		if err != nil {
			return providers.SnapshotSet{}, err
		}
		if id.Region != p.home.region || id.Account != p.home.account {
			return providers.SnapshotSet{}, fault.Newf(opSnapshot, fault.Invalid, id.ID, "it is in %s of account %s, and the provider is set to %s of %s", id.Region, id.Account, p.home.region, p.home.account)
		}
		if slices.Contains(s.ids, id.ID) {
			return providers.SnapshotSet{}, fault.Newf(opSnapshot, fault.Invalid, id.ID, "the volume is named twice")
		}
		s.ids = append(s.ids, id.ID)
	}
	defer p.lock(request.Token)()
	s.sum = digest("snapshot", s.ids, request.Tags, request.Atomic)
	return s.take(ctx)
}

func (s *shot) take(ctx context.Context) (providers.SnapshotSet, error) {
	chosen, err := s.settle(ctx)
	if err != nil {
		return providers.SnapshotSet{}, err
	}
	if len(chosen) < len(s.ids) {
		if err := s.makeMissing(ctx, chosen); err != nil {
			return providers.SnapshotSet{}, s.takeBack(ctx, err)
		}
		if chosen, err = s.settled(ctx); err != nil {
			return providers.SnapshotSet{}, s.takeBack(ctx, err)
		}
	}
	if err := s.describeOriginals(ctx, chosen); err != nil {
		return providers.SnapshotSet{}, s.takeBack(ctx, err)
	}
	ids := make([]string, len(s.ids))
	attempts := map[string]bool{}
	for i, volume := range s.ids {
		ids[i] = aws.ToString(chosen[volume].SnapshotId)
		attempts[fromEC2(chosen[volume].Tags)[tagAttempt]] = true
	}
	ready, err := s.completed(ctx, opSnapshot, s.at, ids)
	if err != nil {
		return providers.SnapshotSet{}, s.takeBack(ctx, err)
	}
	if err := s.speedUp(ctx, opSnapshot, s.at, ids); err != nil {
		return providers.SnapshotSet{}, err
	}
	return setOf(ready, len(attempts) == 1), nil
}

func setOf(ready []providers.Snapshot, atomic bool) providers.SnapshotSet {
	set := providers.SnapshotSet{Snapshots: ready, Atomic: atomic}
	if atomic {
		return set
	}
	byTime := func(a, b providers.Snapshot) int { return a.Instant.Compare(b.Instant) }
	set.Skew = slices.MaxFunc(ready, byTime).Instant.Sub(slices.MinFunc(ready, byTime).Instant)
	return set
}

// find gives the attempts of the token, the earliest first.
func (s *shot) find(ctx context.Context) ([]*attempt, error) {
	byID := map[string]*attempt{}
	err := s.at.eachSnapshot(ctx, opSnapshot, s.provider, []types.Filter{byToken(s.request.Token)}, func(found types.Snapshot) error {
		tags := fromEC2(found.Tags)
		if tags[tagRequest] != s.sum {
			return fault.Newf(opSnapshot, fault.Exists, aws.ToString(found.SnapshotId), "the token made this snapshot for another request: use a new token")
		}
		a, ok := byID[tags[tagAttempt]]
		if !ok {
			a = &attempt{id: tags[tagAttempt], snapshots: map[string]types.Snapshot{}, started: aws.ToTime(found.StartTime)}
			byID[a.id] = a
		}
		if aws.ToTime(found.StartTime).Before(a.started) {
			a.started = aws.ToTime(found.StartTime)
		}
		a.snapshots[aws.ToString(found.VolumeId)] = found
		return nil
	})
	if err != nil {
		return nil, err
	}
	var all []*attempt
	for _, a := range byID {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b *attempt) int {
		if c := a.started.Compare(b.started); c != 0 {
			return c
		}
		return strings.Compare(a.id, b.id)
	})
	return all, nil
}

// settle chooses among what is there: whole attempts, the earliest for each volume, and without those that
// failed. It deletes the rest.
func (s *shot) settle(ctx context.Context) (map[string]types.Snapshot, error) {
	all, err := s.find(ctx)
	if err != nil {
		return nil, err
	}
	chosen := map[string]types.Snapshot{}
	var extra []string
	for _, a := range all {
		if s.useful(a, chosen) {
			for volume, snapshot := range a.snapshots {
				chosen[volume] = snapshot
			}
			continue
		}
		for _, snapshot := range a.snapshots {
			extra = append(extra, aws.ToString(snapshot.SnapshotId))
		}
	}
	for _, id := range extra {
		if err := s.dropSnapshot(ctx, opSnapshot, s.at, id); err != nil {
			return nil, err
		}
	}
	return chosen, nil
}

// useful reports whether an attempt gives what nobody has given yet. One that gives a part of the volumes
// of an atomic request does not, nor does one that lost a snapshot.
func (s *shot) useful(a *attempt, chosen map[string]types.Snapshot) bool {
	if s.request.Atomic && len(a.snapshots) != len(s.ids) {
		return false
	}
	for volume, snapshot := range a.snapshots {
		if _, have := chosen[volume]; have || snapshot.State == types.SnapshotStateError || !slices.Contains(s.ids, volume) {
			return false
		}
	}
	return true
}

// settled looks until all that was just made is described.
func (s *shot) settled(ctx context.Context) (map[string]types.Snapshot, error) {
	var chosen map[string]types.Snapshot
	misses := 0
	err := s.wait(ctx, opSnapshot, s.request.Token, func() (bool, providers.Progress, error) {
		var err error
		if chosen, err = s.settle(ctx); err != nil {
			return false, providers.Progress{}, err
		}
		if misses++; len(chosen) < len(s.ids) && misses > maxMisses {
			return false, providers.Progress{}, fault.Newf(opSnapshot, fault.Transient, s.at.region, "%d of %d snapshots are gone while they are made", len(s.ids)-len(chosen), len(s.ids))
		}
		return len(chosen) == len(s.ids), providers.Progress{Text: "snapshots not described yet"}, nil
	})
	return chosen, err
}

// group is volumes that are taken by one call.
type group struct {
	machine string // "" for a single volume
	volumes []types.Volume
}

// makeMissing takes snapshots of the volumes that have none yet.
func (s *shot) makeMissing(ctx context.Context, chosen map[string]types.Snapshot) error {
	groups, err := s.groups(ctx, chosen)
	if err != nil {
		return err
	}
	if s.request.Atomic && len(groups) > 1 {
		return fault.Newf(opSnapshot, fault.Unsupported, s.at.region, "AWS takes volumes at one instant when all are attached to one instance; these are not")
	}
	for _, g := range groups {
		if err := s.makeGroup(ctx, g); err != nil {
			return err
		}
	}
	return nil
}

func (s *shot) groups(ctx context.Context, chosen map[string]types.Snapshot) ([]group, error) {
	var groups []group
	for _, id := range s.ids {
		if _, have := chosen[id]; have {
			continue
		}
		v, err := s.describeVolume(ctx, opSnapshot, s.at, id)
		if err != nil {
			return nil, err
		}
		machine := s.at.volume(v).Machine
		at := slices.IndexFunc(groups, func(g group) bool { return machine != "" && g.machine == machine })
		if at < 0 {
			groups, at = append(groups, group{machine: machine}), len(groups)
		}
		groups[at].volumes = append(groups[at].volumes, v)
	}
	return groups, nil
}

func (s *shot) makeGroup(ctx context.Context, g group) error {
	mark := rand.Text()
	if len(g.volumes) == 1 {
		v := g.volumes[0]
		_, err := s.at.ec2.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{
			VolumeId: v.VolumeId, Description: aws.String("Muster"), TagSpecifications: []types.TagSpecification{s.tags(mark, volumeTag(v))},
		})
		return s.fail(opSnapshot, aws.ToString(v.VolumeId), err)
	}
	specification, err := s.exclude(ctx, g)
	if err != nil {
		return err
	}
	_, err = s.at.ec2.CreateSnapshots(ctx, &ec2.CreateSnapshotsInput{
		InstanceSpecification: specification, Description: aws.String("Muster"), TagSpecifications: []types.TagSpecification{s.tags(mark, nil)},
	})
	return s.fail(opSnapshot, g.machine, err)
}

func (s *shot) tags(mark string, more map[string]string) types.TagSpecification {
	return specify(types.ResourceTypeSnapshot, s.made(s.request.Tags, s.request.Token, s.sum, with(more, map[string]string{tagAttempt: mark})))
}

func volumeTag(v types.Volume) map[string]string {
	return map[string]string{tagVolume: packParameters(aws.ToString(v.VolumeId), volumeParameters(v))}
}

// describeOriginals tags each snapshot with what its volume was like: CreateSnapshots gives all the same
// tags.
func (s *shot) describeOriginals(ctx context.Context, chosen map[string]types.Snapshot) error {
	for _, volume := range s.ids {
		snapshot := chosen[volume]
		if fromEC2(snapshot.Tags)[tagVolume] != "" {
			continue
		}
		v, err := s.describeVolume(ctx, opSnapshot, s.at, volume)
		if fault.Is(err, fault.NotFound) {
			continue // deleted since: the snapshot stands for itself
		}
		if err != nil {
			return err
		}
		_, err = s.at.ec2.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{aws.ToString(snapshot.SnapshotId)}, Tags: toEC2(volumeTag(v))})
		if err != nil {
			return s.fail(opSnapshot, aws.ToString(snapshot.SnapshotId), err)
		}
	}
	return nil
}

// maxExcluded is how many volumes CreateSnapshots can leave out.
const maxExcluded = 40

// exclude says which of a machine's volumes are not wanted.
func (s *shot) exclude(ctx context.Context, g group) (*types.InstanceSpecification, error) {
	machine, err := s.describeMachine(ctx, opSnapshot, s.at, g.machine)
	if err != nil {
		return nil, err
	}
	specification := &types.InstanceSpecification{InstanceId: aws.String(g.machine)}
	for _, mapping := range machine.BlockDeviceMappings {
		if mapping.Ebs == nil {
			continue
		}
		id := aws.ToString(mapping.Ebs.VolumeId)
		if slices.ContainsFunc(g.volumes, func(v types.Volume) bool { return aws.ToString(v.VolumeId) == id }) {
			continue
		}
		if aws.ToString(mapping.DeviceName) == aws.ToString(machine.RootDeviceName) {
			specification.ExcludeBootVolume = aws.Bool(true)
			continue
		}
		specification.ExcludeDataVolumeIds = append(specification.ExcludeDataVolumeIds, id)
	}
	if n := len(specification.ExcludeDataVolumeIds); n > maxExcluded {
		return nil, fault.Newf(opSnapshot, fault.Unsupported, g.machine, "%d volumes of the instance would have to be left out, and AWS leaves out %d at most: snapshot more of them together", n, maxExcluded)
	}
	return specification, nil
}

// takeBack deletes what a failed call made, as far as it can; the error stays the first one. A call that
// was cancelled ends at once: the same token goes on with what is there.
func (s *shot) takeBack(ctx context.Context, cause error) error {
	if fault.Is(cause, fault.Exists) || ctx.Err() != nil {
		return cause
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	all, err := s.find(ctx)
	if err != nil {
		return cause
	}
	for _, a := range all {
		for _, snapshot := range a.snapshots {
			_ = s.dropSnapshot(ctx, opSnapshot, s.at, aws.ToString(snapshot.SnapshotId)) // the same token finds it again
		}
	}
	return cause
}
