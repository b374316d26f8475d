package aws

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

const opCopy = "copy snapshot"

// The keys of CopyRequest.Target.
const (
	targetRegion = "region"
	targetKMSKey = "kmsKey"
	targetRole   = "roleARN"
)

// CopySnapshot implements providers.Snapshots. Into another account it goes by a role there
// (target.roleARN): the snapshot is shared with that account while AWS copies it, and no longer. With
// target.kmsKey the copy is encrypted by that key; without, an encrypted snapshot's copy is encrypted by the
// target's default key.
func (p *provider) CopySnapshot(ctx context.Context, request providers.CopyRequest) (providers.Snapshot, error) {
	if err := checkToken(opCopy, request.Token); err != nil {
		return providers.Snapshot{}, err
	}
	id, err := open(opCopy, request.Snapshot, snapshotID)
	if err != nil {
		return providers.Snapshot{}, err
	}
	for key := range request.Target {
		if !slices.Contains([]string{targetRegion, targetKMSKey, targetRole}, key) {
			return providers.Snapshot{}, fault.Newf(opCopy, fault.Invalid, key, "a target has region, kmsKey and roleARN")
		}
	}
	from, err := p.placeOf(ctx, opCopy, id)
	if err != nil {
		return providers.Snapshot{}, err
	}
	region := request.Target[targetRegion]
	if region == "" {
		region = from.region
	}
	to, err := p.place(ctx, region, request.Target[targetRole])
	if err != nil {
		return providers.Snapshot{}, err
	}
	defer p.lock(request.Token)()
	c := &copying{provider: p, request: request, source: id.ID, from: from, to: to, sum: digest("copy", id, request.Target, request.Tags)}
	return c.copy(ctx)
}

// copying is one CopySnapshot at work.
type copying struct {
	*provider
	request  providers.CopyRequest
	source   string
	from, to *place
	sum      string
}

func (c *copying) copy(ctx context.Context) (providers.Snapshot, error) {
	made, err := c.find(ctx)
	if err != nil {
		return providers.Snapshot{}, err
	}
	if made == "" {
		if err := c.begin(ctx); err != nil {
			return providers.Snapshot{}, err
		}
		if made, err = c.begun(ctx); err != nil {
			return providers.Snapshot{}, err
		}
	}
	ready, err := c.completed(ctx, opCopy, c.to, []string{made})
	if err != nil {
		return providers.Snapshot{}, err
	}
	if err := c.share(ctx, false); err != nil {
		return providers.Snapshot{}, err
	}
	return ready[0], c.speedUp(ctx, opCopy, c.to, []string{made})
}

// find gives the copy that the token made, the earliest when there are several, and deletes the rest and
// those that failed.
func (c *copying) find(ctx context.Context) (string, error) {
	var all []types.Snapshot
	err := c.to.eachSnapshot(ctx, opCopy, c.provider, []types.Filter{byToken(c.request.Token)}, func(s types.Snapshot) error {
		if fromEC2(s.Tags)[tagRequest] != c.sum {
			return fault.Newf(opCopy, fault.Exists, aws.ToString(s.SnapshotId), "the token made this snapshot for another request: use a new token")
		}
		all = append(all, s)
		return nil
	})
	if err != nil {
		return "", err
	}
	slices.SortFunc(all, func(a, b types.Snapshot) int {
		if d := aws.ToTime(a.StartTime).Compare(aws.ToTime(b.StartTime)); d != 0 {
			return d
		}
		return slices.Compare([]byte(aws.ToString(a.SnapshotId)), []byte(aws.ToString(b.SnapshotId)))
	})
	found := ""
	for _, s := range all {
		if found == "" && s.State != types.SnapshotStateError {
			found = aws.ToString(s.SnapshotId)
			continue
		}
		if err := c.dropSnapshot(ctx, opCopy, c.to, aws.ToString(s.SnapshotId)); err != nil {
			return "", err
		}
	}
	return found, nil
}

func (c *copying) begin(ctx context.Context) error {
	original, err := c.describeSnapshot(ctx, opCopy, c.from, c.source)
	if err != nil {
		return err
	}
	if original.State != types.SnapshotStateCompleted {
		return fault.Newf(opCopy, fault.Busy, c.source, "AWS copies a snapshot when it is completed; this one is %s", original.State)
	}
	if err := c.share(ctx, true); err != nil {
		return err
	}
	more := map[string]string{}
	if volume := fromEC2(original.Tags)[tagVolume]; volume != "" {
		more[tagVolume] = volume
	}
	input := &ec2.CopySnapshotInput{
		SourceRegion: aws.String(c.from.region), SourceSnapshotId: aws.String(c.source), Description: aws.String("Muster: copy of " + c.source),
		TagSpecifications: []types.TagSpecification{specify(types.ResourceTypeSnapshot, c.made(c.request.Tags, c.request.Token, c.sum, more))},
	}
	if key := c.request.Target[targetKMSKey]; key != "" {
		input.Encrypted, input.KmsKeyId = aws.Bool(true), aws.String(key)
	} else if aws.ToBool(original.Encrypted) {
		input.Encrypted = aws.Bool(true)
	}
	_, err = c.to.ec2.CopySnapshot(ctx, input)
	return c.fail(opCopy, c.source, err)
}

// begun looks until the copy that was just begun is described.
func (c *copying) begun(ctx context.Context) (string, error) {
	made, misses := "", 0
	err := c.wait(ctx, opCopy, c.source, func() (bool, providers.Progress, error) {
		var err error
		if made, err = c.find(ctx); err != nil {
			return false, providers.Progress{}, err
		}
		if misses++; made == "" && misses > maxMisses {
			return false, providers.Progress{}, fault.Newf(opCopy, fault.Transient, c.source, "the copy is gone while it is made")
		}
		return made != "", providers.Progress{Text: "copy not described yet"}, nil
	})
	return made, err
}

// share lets the target's account use the snapshot, or no longer.
func (c *copying) share(ctx context.Context, allow bool) error {
	if c.to.account == c.from.account {
		return nil
	}
	permission := []types.CreateVolumePermission{{UserId: aws.String(c.to.account)}}
	change := &types.CreateVolumePermissionModifications{Add: permission}
	if !allow {
		change = &types.CreateVolumePermissionModifications{Remove: permission}
	}
	_, err := c.from.ec2.ModifySnapshotAttribute(ctx, &ec2.ModifySnapshotAttributeInput{
		SnapshotId: aws.String(c.source), Attribute: types.SnapshotAttributeNameCreateVolumePermission, CreateVolumePermission: change,
	})
	if !allow && isNotFound(err) {
		return nil
	}
	return c.fail(opCopy, c.source, err)
}
