package aws

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// SnapshotOf implements providers.Snapshots.
func (p *provider) SnapshotOf(ctx context.Context, snapshot providers.Handle) (providers.Snapshot, error) {
	const op = "describe snapshot"
	id, err := open(op, snapshot, snapshotID)
	if err != nil {
		return providers.Snapshot{}, err
	}
	at, err := p.placeOf(ctx, op, id)
	if err != nil {
		return providers.Snapshot{}, err
	}
	s, err := p.describeSnapshot(ctx, op, at, id.ID)
	if err != nil {
		return providers.Snapshot{}, err
	}
	return at.snapshot(s), nil
}

func (p *provider) describeSnapshot(ctx context.Context, op string, at *place, id string) (types.Snapshot, error) {
	out, err := at.ec2.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{id}})
	if err != nil {
		return types.Snapshot{}, p.fail(op, id, err)
	}
	if len(out.Snapshots) == 0 {
		return types.Snapshot{}, fault.Newf(op, fault.NotFound, id, "there is no such snapshot in %s", at.region)
	}
	return out.Snapshots[0], nil
}

// snapshot is ours of AWS's.
func (l *place) snapshot(s types.Snapshot) providers.Snapshot {
	tags := fromEC2(s.Tags)
	volume, parameters := unpackParameters(tags[tagVolume])
	if volume == "" {
		volume = aws.ToString(s.VolumeId)
	}
	if aws.ToBool(s.Encrypted) {
		parameters[paramEncrypted] = "true"
	}
	if key := aws.ToString(s.KmsKeyId); key != "" {
		parameters[paramKMSKey] = key
	}
	return providers.Snapshot{
		Handle: l.handle(aws.ToString(s.SnapshotId)), ID: aws.ToString(s.SnapshotId), VolumeID: volume, Content: providers.ContentBlocks,
		Size: int64(aws.ToInt32(s.VolumeSize)) * l.unit, Instant: aws.ToTime(s.StartTime), Ready: s.State == types.SnapshotStateCompleted,
		Region: l.region, Tags: tags, Parameters: parameters,
	}
}

// eachSnapshot pages through our own snapshots.
func (l *place) eachSnapshot(ctx context.Context, op string, p *provider, filters []types.Filter, each func(types.Snapshot) error) error {
	input := &ec2.DescribeSnapshotsInput{OwnerIds: []string{l.account}, Filters: filters, MaxResults: aws.Int32(pageSize)}
	for {
		out, err := l.ec2.DescribeSnapshots(ctx, input)
		if err != nil {
			return p.fail(op, l.region, err)
		}
		for _, s := range out.Snapshots {
			if err := each(s); err != nil {
				return err
			}
		}
		if aws.ToString(out.NextToken) == "" {
			return nil
		}
		input.NextToken = out.NextToken
	}
}

// ListSnapshots implements providers.Snapshots: those of the settings' region. Snapshots in the state error
// and those that a Write is filling are listed as not ready, so that they are found and deleted.
func (p *provider) ListSnapshots(ctx context.Context, query providers.Query, each func(providers.Snapshot) error) error {
	const op = "list snapshots"
	if err := p.ready(op); err != nil {
		return err
	}
	wanted := with(query.Tags, nil)
	if wanted[providers.TagRun] == "" {
		wanted[providers.TagRun] = "*"
	}
	volumes, err := p.machineVolumes(ctx, op, query.Machine)
	if err != nil {
		return err
	}
	return p.home.eachSnapshot(ctx, op, p, tagFilters(wanted), func(s types.Snapshot) error {
		made := p.home.snapshot(s)
		// The filter volume-id would miss copies, whose volume AWS calls vol-ffffffff.
		if !matches(made.Tags, wanted) || len(query.IDs) > 0 && !slices.Contains(query.IDs, made.VolumeID) {
			return nil
		}
		if query.Machine != "" && !volumes[made.VolumeID] {
			return nil
		}
		return each(made)
	})
}

func (p *provider) machineVolumes(ctx context.Context, op, machine string) (map[string]bool, error) {
	if machine == "" {
		return nil, nil
	}
	found := map[string]bool{}
	err := p.home.eachVolume(ctx, op, p, []types.Filter{filter("attachment.instance-id", machine)}, func(v types.Volume) error {
		found[aws.ToString(v.VolumeId)] = true
		return nil
	})
	return found, err
}

// DeleteSnapshot implements providers.Snapshots.
func (p *provider) DeleteSnapshot(ctx context.Context, snapshot providers.Handle) error {
	const op = "delete snapshot"
	id, err := open(op, snapshot, snapshotID)
	if err != nil {
		return err
	}
	at, err := p.placeOf(ctx, op, id)
	if err != nil {
		return err
	}
	s, err := p.describeSnapshot(ctx, op, at, id.ID)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if fromEC2(s.Tags)[providers.TagRun] == "" {
		return fault.Newf(op, fault.Denied, id.ID, "it has no tag %s: Muster did not make it, and does not delete it", providers.TagRun)
	}
	return p.dropSnapshot(ctx, op, at, id.ID)
}

// dropSnapshot deletes what is known to be ours. A snapshot of an image is in use: fault.Busy.
func (p *provider) dropSnapshot(ctx context.Context, op string, at *place, id string) error {
	_, err := at.ec2.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{SnapshotId: aws.String(id)})
	if err != nil && !isNotFound(err) {
		return p.fail(op, id, err)
	}
	p.known.drop(id)
	return nil
}

// completed waits until snapshots can be read, and returns them in the order of ids.
func (p *provider) completed(ctx context.Context, op string, at *place, ids []string) ([]providers.Snapshot, error) {
	ready := make([]providers.Snapshot, len(ids))
	misses := 0
	err := p.wait(ctx, op, strings.Join(ids, ","), func() (bool, providers.Progress, error) {
		found := map[string]types.Snapshot{}
		for _, some := range portions(ids) {
			err := at.eachSnapshot(ctx, op, p, []types.Filter{filter("snapshot-id", some...)}, func(s types.Snapshot) error {
				found[aws.ToString(s.SnapshotId)] = s
				return nil
			})
			if err != nil {
				return false, providers.Progress{}, err
			}
		}
		percent := 0
		for i, id := range ids {
			s, ok := found[id]
			if !ok {
				misses++
				if misses > maxMisses {
					return false, providers.Progress{}, fault.Newf(op, fault.NotFound, id, "somebody has deleted the snapshot while it was made")
				}
				continue
			}
			if s.State == types.SnapshotStateError {
				return false, providers.Progress{}, fault.Newf(op, fault.Transient, id, "AWS could not make the snapshot: %s", aws.ToString(s.StateMessage))
			}
			ready[i] = at.snapshot(s)
			percent += progressOf(s)
		}
		done := len(found) == len(ids) && !slices.ContainsFunc(ready, func(s providers.Snapshot) bool { return !s.Ready })
		return done, providers.Progress{Done: int64(percent), Total: int64(100 * len(ids)), Text: "snapshots in progress"}, nil
	})
	return ready, err
}

func progressOf(s types.Snapshot) int {
	if s.State == types.SnapshotStateCompleted {
		return 100
	}
	n, _ := strconv.Atoi(strings.TrimSuffix(aws.ToString(s.Progress), "%")) // AWS leaves it out at first
	return min(n, 99)
}

// speedUp switches fast snapshot restore on where the settings ask for it.
func (p *provider) speedUp(ctx context.Context, op string, at *place, ids []string) error {
	var zones []string
	for _, zone := range p.settings.FastRestore {
		if strings.HasPrefix(zone, at.region) {
			zones = append(zones, zone)
		}
	}
	if len(zones) == 0 {
		return nil
	}
	out, err := at.ec2.EnableFastSnapshotRestores(ctx, &ec2.EnableFastSnapshotRestoresInput{SourceSnapshotIds: ids, AvailabilityZones: zones})
	if err != nil {
		return p.fail(op, strings.Join(ids, ","), err)
	}
	for _, refused := range out.Unsuccessful {
		for _, state := range refused.FastSnapshotRestoreStateErrors {
			kind, advice := kindOf(aws.ToString(state.Error.Code))
			return fault.Newf(op, kind, aws.ToString(refused.SnapshotId), "fast snapshot restore in %s: %s: %s", aws.ToString(state.AvailabilityZone), aws.ToString(state.Error.Message), advice)
		}
	}
	return nil
}
