package aws

import (
	"context"
	"slices"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// gib is the unit of EBS's sizes.
const gib = 1 << 30

// pageSize is what one page of a list may hold.
const pageSize = 500

// Discover implements providers.Volumes.
func (p *provider) Discover(ctx context.Context, query providers.Query, each func(providers.Volume) error) error {
	const op = "discover volumes"
	if err := p.ready(op); err != nil {
		return err
	}
	filters := tagFilters(query.Tags)
	if query.Machine != "" {
		filters = append(filters, filter("attachment.instance-id", query.Machine))
	}
	for _, ids := range portions(query.IDs) {
		chosen := slices.Clone(filters)
		if len(ids) > 0 {
			chosen = append(chosen, filter("volume-id", ids...))
		}
		err := p.home.eachVolume(ctx, op, p, chosen, func(v types.Volume) error {
			if !matches(fromEC2(v.Tags), query.Tags) {
				return nil
			}
			return each(p.home.volume(v))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// eachVolume pages through the volumes that live.
func (l *place) eachVolume(ctx context.Context, op string, p *provider, filters []types.Filter, each func(types.Volume) error) error {
	input := &ec2.DescribeVolumesInput{Filters: filters, MaxResults: aws.Int32(pageSize)}
	for {
		out, err := l.ec2.DescribeVolumes(ctx, input)
		if err != nil {
			return p.fail(op, l.region, err)
		}
		for _, v := range out.Volumes {
			if v.State == types.VolumeStateDeleting || v.State == types.VolumeStateDeleted || v.State == types.VolumeStateError {
				continue
			}
			if err := each(v); err != nil {
				return err
			}
		}
		if aws.ToString(out.NextToken) == "" {
			return nil
		}
		input.NextToken = out.NextToken
	}
}

// volume is ours of AWS's.
func (l *place) volume(v types.Volume) providers.Volume {
	made := providers.Volume{
		Handle: l.handle(aws.ToString(v.VolumeId)), ID: aws.ToString(v.VolumeId), Content: providers.ContentBlocks, Size: int64(aws.ToInt32(v.Size)) * l.unit, Used: -1,
		Zone: aws.ToString(v.AvailabilityZone), ChangedBlocks: true, Tags: fromEC2(v.Tags), Parameters: volumeParameters(v),
	}
	for _, attachment := range v.Attachments {
		if made.Machine == "" && attachment.State != types.VolumeAttachmentStateDetached {
			made.Machine = aws.ToString(attachment.InstanceId)
		}
	}
	return made
}

// The parameters of a volume.
const (
	paramType        = "type"
	paramIOPS        = "iops"
	paramThroughput  = "throughput"
	paramEncrypted   = "encrypted"
	paramKMSKey      = "kmsKey"
	paramMultiAttach = "multiAttach"
)

func volumeParameters(v types.Volume) map[string]string {
	all := map[string]string{paramType: string(v.VolumeType)}
	// AWS tells the IOPS of types that take none, too.
	if takesIOPS(v.VolumeType) && aws.ToInt32(v.Iops) > 0 {
		all[paramIOPS] = strconv.Itoa(int(aws.ToInt32(v.Iops)))
	}
	if v.VolumeType == types.VolumeTypeGp3 && aws.ToInt32(v.Throughput) > 0 {
		all[paramThroughput] = strconv.Itoa(int(aws.ToInt32(v.Throughput)))
	}
	if aws.ToBool(v.Encrypted) {
		all[paramEncrypted] = "true"
	}
	if key := aws.ToString(v.KmsKeyId); key != "" {
		all[paramKMSKey] = key
	}
	if aws.ToBool(v.MultiAttachEnabled) {
		all[paramMultiAttach] = "true"
	}
	return all
}

func takesIOPS(t types.VolumeType) bool {
	return t == types.VolumeTypeGp3 || t == types.VolumeTypeIo1 || t == types.VolumeTypeIo2
}

// Volume implements providers.Volumes.
func (p *provider) Volume(ctx context.Context, volume providers.Handle) (providers.Volume, error) {
	const op = "describe volume"
	id, err := open(op, volume, volumeID)
	if err != nil {
		return providers.Volume{}, err
	}
	at, err := p.placeOf(ctx, op, id)
	if err != nil {
		return providers.Volume{}, err
	}
	v, err := p.describeVolume(ctx, op, at, id.ID)
	if err != nil {
		return providers.Volume{}, err
	}
	return at.volume(v), nil
}

func (p *provider) describeVolume(ctx context.Context, op string, at *place, id string) (types.Volume, error) {
	out, err := at.ec2.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{id}})
	if err != nil {
		return types.Volume{}, p.fail(op, id, err)
	}
	if len(out.Volumes) == 0 || gone(out.Volumes[0].State) {
		return types.Volume{}, fault.Newf(op, fault.NotFound, id, "there is no such volume in %s", at.region)
	}
	return out.Volumes[0], nil
}

func gone(state types.VolumeState) bool {
	return state == types.VolumeStateDeleting || state == types.VolumeStateDeleted
}

// DeleteVolume implements providers.Volumes.
func (p *provider) DeleteVolume(ctx context.Context, volume providers.Handle) error {
	const op = "delete volume"
	id, err := open(op, volume, volumeID)
	if err != nil {
		return err
	}
	at, err := p.placeOf(ctx, op, id)
	if err != nil {
		return err
	}
	v, err := p.describeVolume(ctx, op, at, id.ID)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if fromEC2(v.Tags)[providers.TagRun] == "" {
		return fault.Newf(op, fault.Denied, id.ID, "it has no tag %s: Muster did not make it, and does not delete it", providers.TagRun)
	}
	if _, err := at.ec2.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: aws.String(id.ID)}); err != nil && !isNotFound(err) {
		return p.fail(op, id.ID, err)
	}
	return nil
}
