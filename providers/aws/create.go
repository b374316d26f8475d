package aws

import (
	"context"
	"maps"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Create implements providers.Volumes.
func (p *provider) Create(ctx context.Context, request providers.CreateRequest) (providers.Volume, error) {
	const op = "create volume"
	if err := p.ready(op); err != nil {
		return providers.Volume{}, err
	}
	if err := checkCreate(op, request); err != nil {
		return providers.Volume{}, err
	}
	defer p.lock(request.Token)()
	sum := digest("create", request.Name, request.Size, request.Snapshot.State, request.Zone, request.Tags, request.Parameters)
	if found, ok, err := p.volumeOf(ctx, op, request.Token, sum); ok || err != nil {
		return found, err
	}
	snapshot := ""
	if !request.Snapshot.IsZero() {
		s, err := p.SnapshotOf(ctx, request.Snapshot)
		if err != nil {
			return providers.Volume{}, err
		}
		if request.Size, err = sizeFrom(op, request.Size, s); err != nil {
			return providers.Volume{}, err
		}
		snapshot = s.ID
	}
	return p.makeVolume(ctx, op, request, snapshot, sum)
}

// sizeFrom is the size of a volume that is made from a snapshot.
func sizeFrom(op string, asked int64, s providers.Snapshot) (int64, error) {
	if !s.Ready {
		return 0, fault.Newf(op, fault.Busy, s.ID, "the snapshot is not completed yet")
	}
	if asked == 0 {
		return s.Size, nil
	}
	if asked < s.Size {
		return 0, fault.Newf(op, fault.Invalid, s.ID, "%d bytes are less than the snapshot's %d", asked, s.Size)
	}
	return asked, nil
}

func checkCreate(op string, request providers.CreateRequest) error {
	if err := checkToken(op, request.Token); err != nil {
		return err
	}
	if request.Content != providers.ContentBlocks && request.Content != "" {
		return fault.Newf(op, fault.Unsupported, string(request.Content), "EBS volumes hold blocks")
	}
	if request.Size < 0 || request.Size == 0 && request.Snapshot.IsZero() {
		return fault.Newf(op, fault.Invalid, name, "a size of %d bytes", request.Size)
	}
	if request.Size > 64<<40 {
		return fault.Newf(op, fault.Invalid, name, "EBS volumes have at most 64 TiB")
	}
	_, err := shapeOf(op, request.Parameters)
	return err
}

// volumeOf finds what an earlier call of the token made, and waits until it is complete.
func (p *provider) volumeOf(ctx context.Context, op, token, sum string) (providers.Volume, bool, error) {
	var found []types.Volume
	err := p.home.eachVolume(ctx, op, p, []types.Filter{byToken(token)}, func(v types.Volume) error {
		found = append(found, v)
		return nil
	})
	if err != nil || len(found) == 0 {
		return providers.Volume{}, false, err
	}
	first := found[0]
	if fromEC2(first.Tags)[tagRequest] != sum {
		return providers.Volume{}, false, fault.Newf(op, fault.Exists, aws.ToString(first.VolumeId), "the token made this volume for another request: use a new token")
	}
	v, err := p.available(ctx, op, aws.ToString(first.VolumeId))
	return v, err == nil, err
}

// makeVolume makes a volume: AWS heeds the client token, so that two calls at once make one.
func (p *provider) makeVolume(ctx context.Context, op string, request providers.CreateRequest, snapshot, sum string) (providers.Volume, error) {
	zone, err := p.targetZone(ctx, op, request.Zone)
	if err != nil {
		return providers.Volume{}, err
	}
	shape, err := shapeOf(op, request.Parameters)
	if err != nil {
		return providers.Volume{}, err
	}
	input := &ec2.CreateVolumeInput{
		AvailabilityZone: aws.String(zone), Size: aws.Int32(p.whole(request.Size)),
		TagSpecifications: []types.TagSpecification{specify(types.ResourceTypeVolume, p.made(request.Tags, request.Token, sum, named(request.Name)))},
	}
	if snapshot != "" {
		input.SnapshotId = aws.String(snapshot)
	}
	shape.apply(input, p.encryption(shape))
	for dead := ""; ; {
		input.ClientToken = aws.String(clientToken(request.Token, "volume", dead))
		out, err := p.home.ec2.CreateVolume(ctx, input)
		if code(err) == "IdempotentParameterMismatch" {
			// Another process of the same token may have made it meanwhile, from another snapshot of the content.
			if made, ok, findErr := p.volumeOf(ctx, op, request.Token, sum); ok || findErr != nil {
				return made, findErr
			}
		}
		if err != nil {
			return providers.Volume{}, p.fail(op, zone, err)
		}
		id := aws.ToString(out.VolumeId)
		v, err := p.available(ctx, op, id)
		if !fault.Is(err, fault.NotFound) || id == dead {
			return v, err
		}
		dead = id // the token still names a volume that was deleted
	}
}

// available waits until a new volume can be used.
func (p *provider) available(ctx context.Context, op, id string) (providers.Volume, error) {
	var ready providers.Volume
	misses := 0
	err := p.wait(ctx, op, id, func() (bool, providers.Progress, error) {
		v, err := p.describeVolume(ctx, op, p.home, id)
		if fault.Is(err, fault.NotFound) && misses < maxMisses {
			misses++
			return false, providers.Progress{Text: "not described yet"}, nil
		}
		if err != nil {
			return false, providers.Progress{}, err
		}
		if v.State == types.VolumeStateError {
			return false, providers.Progress{}, fault.Newf(op, fault.Transient, id, "AWS could not make the volume (often its key cannot be used): delete it and look at the KMS key's policy")
		}
		ready = p.home.volume(v)
		return v.State != types.VolumeStateCreating, providers.Progress{Text: string(v.State)}, nil
	})
	return ready, err
}

// targetZone is where a volume is made: the zone that is asked for, mapped; else the region's first.
func (p *provider) targetZone(ctx context.Context, op, asked string) (string, error) {
	if asked != "" {
		return p.settings.zone(asked), nil
	}
	zones, _, err := p.home.zones(ctx)
	if err != nil {
		return "", p.fail(op, p.home.region, err)
	}
	if len(zones) == 0 {
		return "", fault.Newf(op, fault.Transient, p.home.region, "no zone of the region is available")
	}
	return zones[0], nil
}

// whole is a size in GiB, rounded up: EBS knows no smaller unit.
func (p *provider) whole(size int64) int32 { return int32((size + p.config.unit - 1) / p.config.unit) }

func named(text string) map[string]string {
	if text == "" {
		return nil
	}
	return map[string]string{tagName: text}
}

// shape is a volume's parameters, read.
type shape struct {
	kind        types.VolumeType
	iops        int32
	throughput  int32
	encrypted   bool
	kmsKey      string
	multiAttach bool
}

func shapeOf(op string, parameters map[string]string) (shape, error) {
	var s shape
	for key, value := range parameters {
		var err error
		switch key {
		case paramType:
			s.kind = types.VolumeType(value)
		case paramIOPS:
			s.iops, err = parse32(value)
		case paramThroughput:
			s.throughput, err = parse32(value)
		case paramEncrypted:
			s.encrypted, err = strconv.ParseBool(value)
		case paramKMSKey:
			s.kmsKey = value
		case paramMultiAttach:
			s.multiAttach, err = strconv.ParseBool(value)
		default:
			return s, fault.Newf(op, fault.Invalid, key, "EBS volumes have no such parameter; they have type, iops, throughput, encrypted, kmsKey and multiAttach")
		}
		if err != nil {
			return s, fault.New(op, fault.Invalid, key, err)
		}
	}
	return s, nil
}

func parse32(text string) (int32, error) {
	n, err := strconv.ParseInt(text, 10, 32)
	return int32(n), err
}

// apply puts a shape into a request. kmsKey is "" for none, or for the account's own.
func (s shape) apply(input *ec2.CreateVolumeInput, kmsKey string) {
	input.VolumeType = s.kind
	if s.iops > 0 {
		input.Iops = aws.Int32(s.iops)
	}
	if s.throughput > 0 {
		input.Throughput = aws.Int32(s.throughput)
	}
	if s.multiAttach {
		input.MultiAttachEnabled = aws.Bool(true)
	}
	if s.encrypted || kmsKey != "" {
		input.Encrypted = aws.Bool(true)
	}
	if kmsKey != "" {
		input.KmsKeyId = aws.String(kmsKey)
	}
}

// encryption is the key for something new: the settings' key; else the original's, when it is of this
// region; else "", which means the account's default where encryption is asked for.
func (p *provider) encryption(s shape) string {
	if p.settings.KMSKeyID != "" {
		return p.settings.KMSKeyID
	}
	if strings.Contains(s.kmsKey, ":"+p.settings.Region+":") {
		return s.kmsKey
	}
	return ""
}

// with is a copy of a map with more in it.
func with(all map[string]string, more map[string]string) map[string]string {
	out := maps.Clone(all)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, more)
	return out
}
