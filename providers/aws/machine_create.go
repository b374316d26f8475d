package aws

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

const opMachine = "create machine"

// machineKeys are all parameters of a machine.
var machineKeys = []string{
	machineImage, machineType, machineSubnet, machineGroups, machineProfile, machineUserData, machineKey, machineIP, machineArch, machineBoot, machineRoot,
	machineOptimized, machineCheck, machineTokens, machineEndpoint, machineHops, machineMetaTags, machineDevices,
}

// building is one CreateMachine at work.
type building struct {
	*provider
	request providers.MachineRequest
	sum     string
	devices []device
	hops    int32
}

// CreateMachine implements providers.Machines. With a root snapshot, an image is registered from it; it
// is deregistered with the machine. Devices that were made with the original, or that have a snapshot, are
// made; others are left to who attaches them.
func (p *provider) CreateMachine(ctx context.Context, request providers.MachineRequest) (providers.Machine, error) {
	if err := p.ready(opMachine); err != nil {
		return providers.Machine{}, err
	}
	b, err := p.newBuilding(request)
	if err != nil {
		return providers.Machine{}, err
	}
	defer p.lock(request.Token)()
	id, err := b.find(ctx)
	if err != nil {
		return providers.Machine{}, err
	}
	if id == "" {
		if id, err = b.run(ctx); err != nil {
			return providers.Machine{}, err
		}
	}
	return b.running(ctx, id)
}

func (p *provider) newBuilding(request providers.MachineRequest) (*building, error) {
	b := &building{provider: p, request: request, sum: digest("machine", request.Name, request.Root.State, request.Zone, request.Tags, request.Parameters, request.Disks)}
	if err := checkToken(opMachine, request.Token); err != nil {
		return nil, err
	}
	for key := range request.Parameters {
		if !slices.Contains(machineKeys, key) {
			return nil, fault.Newf(opMachine, fault.Invalid, key, "machines of EC2 have no such parameter; they have %s", strings.Join(machineKeys, ", "))
		}
	}
	if text := request.Parameters[machineDevices]; text != "" {
		if err := json.Unmarshal([]byte(text), &b.devices); err != nil {
			return nil, fault.New(opMachine, fault.Invalid, machineDevices, err)
		}
	}
	if err := b.fillDisks(); err != nil {
		return nil, err
	}
	if b.request.Root.IsZero() && request.Parameters[machineImage] == "" {
		return nil, fault.Newf(opMachine, fault.Invalid, request.Name, "neither a root snapshot nor the parameter image is given")
	}
	if text := request.Parameters[machineHops]; text != "" {
		hops, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return nil, fault.New(opMachine, fault.Invalid, machineHops, err)
		}
		b.hops = int32(hops)
	}
	return b, nil
}

// fillDisks gives the devices their snapshots; the root's becomes an image.
func (b *building) fillDisks() error {
	for i := range b.devices {
		d := &b.devices[i]
		snapshot, given := b.request.Disks[d.Volume]
		if !given {
			continue
		}
		id, err := open(opMachine, snapshot, snapshotID)
		if err != nil {
			return err
		}
		if id.Region != b.home.region {
			return fault.Newf(opMachine, fault.Invalid, id.ID, "this snapshot is in %s, and the machine shall be in %s: copy it there", id.Region, b.home.region)
		}
		if d.Name == b.rootDevice() && b.request.Root.IsZero() {
			b.request.Root = snapshot
			continue
		}
		d.Snapshot = id.ID
	}
	return nil
}

// find gives the instance that the token made.
func (b *building) find(ctx context.Context) (string, error) {
	id := ""
	filters := []types.Filter{byToken(b.request.Token), filter("instance-state-name", living...)}
	err := b.home.eachMachine(ctx, opMachine, b.provider, filters, func(i types.Instance) error {
		id = aws.ToString(i.InstanceId)
		if fromEC2(i.Tags)[tagRequest] != b.sum {
			return fault.Newf(opMachine, fault.Exists, id, "the token made this machine for another request: use a new token")
		}
		return nil
	})
	return id, err
}

func (b *building) run(ctx context.Context) (string, error) {
	image, own := b.request.Parameters[machineImage], map[string]string{}
	if !b.request.Root.IsZero() {
		var err error
		if image, err = b.image(ctx); err != nil {
			return "", err
		}
		own[tagImage] = image
	}
	input := b.input(image, own)
	for dead := ""; ; {
		input.ClientToken = aws.String(clientToken(b.request.Token, "machine", dead))
		out, err := b.home.ec2.RunInstances(ctx, input)
		if err != nil {
			return "", b.fail(opMachine, image, err)
		}
		id := aws.ToString(out.Instances[0].InstanceId)
		found, err := b.describeMachine(ctx, opMachine, b.home, id)
		if fault.Is(err, fault.NotFound) || err == nil && !ended(found) || id == dead {
			return id, nil // running waits until it is described
		}
		if err != nil {
			return "", err
		}
		dead = id // the token still names a machine that was terminated
	}
}

func ended(i types.Instance) bool {
	return i.State != nil && !slices.Contains(living, string(i.State.Name))
}

// input is the request for an instance like the original.
func (b *building) input(image string, own map[string]string) *ec2.RunInstancesInput {
	asked := b.request.Parameters
	tags := b.made(b.request.Tags, b.request.Token, b.sum, with(named(b.request.Name), own))
	volumeTags := b.made(b.request.Tags, b.request.Token, b.sum, nil)
	input := &ec2.RunInstancesInput{
		ImageId: aws.String(image), MinCount: aws.Int32(1), MaxCount: aws.Int32(1), InstanceType: types.InstanceType(asked[machineType]),
		SubnetId: text(asked[machineSubnet]), KeyName: text(asked[machineKey]), PrivateIpAddress: text(asked[machineIP]), UserData: text(asked[machineUserData]),
		BlockDeviceMappings: b.mappings(),
		TagSpecifications:   []types.TagSpecification{specify(types.ResourceTypeInstance, tags), specify(types.ResourceTypeVolume, volumeTags)},
	}
	if asked[machineGroups] != "" {
		input.SecurityGroupIds = strings.Split(asked[machineGroups], ",")
	}
	if asked[machineProfile] != "" {
		input.IamInstanceProfile = &types.IamInstanceProfileSpecification{Arn: aws.String(asked[machineProfile])}
	}
	if asked[machineOptimized] == "true" {
		input.EbsOptimized = aws.Bool(true)
	}
	if b.request.Zone != "" {
		input.Placement = &types.Placement{AvailabilityZone: aws.String(b.settings.zone(b.request.Zone))}
	}
	if asked[machineTokens] != "" || asked[machineEndpoint] != "" || b.hops > 0 || asked[machineMetaTags] != "" {
		input.MetadataOptions = &types.InstanceMetadataOptionsRequest{
			HttpTokens: types.HttpTokensState(asked[machineTokens]), HttpEndpoint: types.InstanceMetadataEndpointState(asked[machineEndpoint]),
			InstanceMetadataTags: types.InstanceMetadataTagsState(asked[machineMetaTags]),
		}
		if b.hops > 0 {
			input.MetadataOptions.HttpPutResponseHopLimit = aws.Int32(b.hops)
		}
	}
	return input
}

func text(s string) *string {
	if s == "" {
		return nil
	}
	return aws.String(s)
}

// rootDevice is the name of the root device.
func (b *building) rootDevice() string {
	if named := b.request.Parameters[machineRoot]; named != "" {
		return named
	}
	return "/dev/xvda"
}

// mappings are the devices that are made with the machine. The root's content comes from the image.
func (b *building) mappings() []types.BlockDeviceMapping {
	var all []types.BlockDeviceMapping
	for _, d := range b.devices {
		root := d.Name == b.rootDevice()
		if !root && !d.Own && d.Snapshot == "" {
			continue
		}
		volume := &types.EbsBlockDevice{VolumeType: types.VolumeType(d.Type), DeleteOnTermination: aws.Bool(d.Own || root), SnapshotId: text(d.Snapshot)}
		if d.GiB > 0 {
			volume.VolumeSize = aws.Int32(d.GiB)
		}
		if d.IOPS > 0 {
			volume.Iops = aws.Int32(d.IOPS)
		}
		if d.Throughput > 0 {
			volume.Throughput = aws.Int32(d.Throughput)
		}
		key := b.encryption(shape{kmsKey: d.KMSKey})
		if d.Encrypted || key != "" {
			volume.Encrypted, volume.KmsKeyId = aws.Bool(true), text(key)
		}
		all = append(all, types.BlockDeviceMapping{DeviceName: aws.String(d.Name), Ebs: volume})
	}
	return all
}

// running waits until the machine runs.
func (b *building) running(ctx context.Context, id string) (providers.Machine, error) {
	var found types.Instance
	misses := 0
	err := b.wait(ctx, opMachine, id, func() (bool, providers.Progress, error) {
		i, err := b.describeMachine(ctx, opMachine, b.home, id)
		if fault.Is(err, fault.NotFound) && misses < maxMisses {
			misses++
			return false, providers.Progress{Text: "not described yet"}, nil
		}
		if err != nil {
			return false, providers.Progress{}, err
		}
		if ended(i) {
			return false, providers.Progress{}, fault.Newf(opMachine, fault.Transient, id, "the instance ended while it was started: %s", stateReason(i))
		}
		found = i
		return i.State != nil && i.State.Name == types.InstanceStateNameRunning, providers.Progress{Text: "instance is started"}, nil
	})
	if err != nil {
		return providers.Machine{}, err
	}
	if b.request.Parameters[machineCheck] == "false" && aws.ToBool(found.SourceDestCheck) {
		_, err := b.home.ec2.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{
			InstanceId: aws.String(id), SourceDestCheck: &types.AttributeBooleanValue{Value: aws.Bool(false)},
		})
		if err != nil {
			return providers.Machine{}, b.fail(opMachine, id, err)
		}
	}
	return b.machine(ctx, opMachine, b.home, found)
}

func stateReason(i types.Instance) string {
	if i.StateReason == nil {
		return "AWS tells no reason"
	}
	return aws.ToString(i.StateReason.Message)
}
