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

const opMachines = "discover machines"

// The parameters of a machine.
const (
	machineImage     = "image"
	machineType      = "type"
	machineSubnet    = "subnet"
	machineGroups    = "securityGroups" // with commas between them
	machineProfile   = "iamProfile"     // ARN
	machineUserData  = "userData"       // base64
	machineKey       = "keyName"
	machineIP        = "privateIP"
	machineArch      = "architecture"
	machineBoot      = "bootMode"
	machineRoot      = "rootDevice"
	machineOptimized = "ebsOptimized"
	machineCheck     = "sourceDestCheck" // "false" when it routes for others
	machineTokens    = "metadataTokens"
	machineEndpoint  = "metadataEndpoint"
	machineHops      = "metadataHopLimit"
	machineMetaTags  = "metadataTags"
	machineDevices   = "devices" // JSON: a list of device
)

// device is an entry of machineDevices.
type device struct {
	Name       string `json:"name"`
	GiB        int32  `json:"gib,omitempty"`
	Type       string `json:"type,omitempty"`
	IOPS       int32  `json:"iops,omitempty"`
	Throughput int32  `json:"throughput,omitempty"`
	Encrypted  bool   `json:"encrypted,omitempty"`
	KMSKey     string `json:"kmsKey,omitempty"`
	// Own says that it is deleted with the machine, and made with it.
	Own bool `json:"own,omitempty"`
	// Volume is the one that is there.
	Volume string `json:"volume,omitempty"`
	// Snapshot gives the new one its content.
	Snapshot string `json:"snapshot,omitempty"`
}

// living are the states of instances that are there.
var living = []string{"pending", "running", "stopping", "stopped"}

// DiscoverMachines implements providers.Machines.
func (p *provider) DiscoverMachines(ctx context.Context, query providers.Query, each func(providers.Machine) error) error {
	if err := p.ready(opMachines); err != nil {
		return err
	}
	ids := query.IDs
	if query.Machine != "" {
		ids = append(slices.Clone(ids), query.Machine)
	}
	for _, some := range portions(ids) {
		filters := append(tagFilters(query.Tags), filter("instance-state-name", living...))
		if len(some) > 0 {
			filters = append(filters, filter("instance-id", some...))
		}
		err := p.home.eachMachine(ctx, opMachines, p, filters, func(i types.Instance) error {
			if !matches(fromEC2(i.Tags), query.Tags) {
				return nil
			}
			m, err := p.machine(ctx, opMachines, p.home, i)
			if err != nil {
				return err
			}
			return each(m)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *place) eachMachine(ctx context.Context, op string, p *provider, filters []types.Filter, each func(types.Instance) error) error {
	input := &ec2.DescribeInstancesInput{Filters: filters, MaxResults: aws.Int32(pageSize)}
	for {
		out, err := l.ec2.DescribeInstances(ctx, input)
		if err != nil {
			return p.fail(op, l.region, err)
		}
		for _, reservation := range out.Reservations {
			for _, i := range reservation.Instances {
				if err := each(i); err != nil {
					return err
				}
			}
		}
		if aws.ToString(out.NextToken) == "" {
			return nil
		}
		input.NextToken = out.NextToken
	}
}

func (p *provider) describeMachine(ctx context.Context, op string, at *place, id string) (types.Instance, error) {
	out, err := at.ec2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
	if err != nil {
		return types.Instance{}, p.fail(op, id, err)
	}
	if len(out.Reservations) == 0 || len(out.Reservations[0].Instances) == 0 {
		return types.Instance{}, fault.Newf(op, fault.NotFound, id, "there is no such instance in %s", at.region)
	}
	return out.Reservations[0].Instances[0], nil
}

// machine is ours of AWS's, with all that is needed to make it again.
func (p *provider) machine(ctx context.Context, op string, at *place, i types.Instance) (providers.Machine, error) {
	tags := fromEC2(i.Tags)
	m := providers.Machine{
		Handle: at.handle(aws.ToString(i.InstanceId)), ID: aws.ToString(i.InstanceId), Name: tags[tagName], Address: aws.ToString(i.PrivateIpAddress), Tags: tags,
	}
	if m.Name == "" {
		m.Name = aws.ToString(i.PrivateDnsName)
	}
	if i.Placement != nil {
		m.Zone = aws.ToString(i.Placement.AvailabilityZone)
	}
	if i.State != nil {
		m.State = string(i.State.Name)
	}
	devices, err := p.devices(ctx, op, at, i)
	if err != nil {
		return m, err
	}
	for _, d := range devices {
		m.VolumeIDs = append(m.VolumeIDs, d.Volume)
	}
	m.Parameters = machineParameters(i)
	if len(devices) > 0 {
		text, err := json.Marshal(devices)
		if err != nil {
			return m, fault.New(op, fault.Internal, m.ID, err)
		}
		m.Parameters[machineDevices] = string(text)
	}
	if p.settings.OmitUserData {
		return m, nil
	}
	out, err := at.ec2.DescribeInstanceAttribute(ctx, &ec2.DescribeInstanceAttributeInput{InstanceId: i.InstanceId, Attribute: types.InstanceAttributeNameUserData})
	if err != nil {
		return m, p.fail(op, m.ID, err)
	}
	if out.UserData != nil && aws.ToString(out.UserData.Value) != "" {
		m.Parameters[machineUserData] = aws.ToString(out.UserData.Value)
	}
	return m, nil
}

// devices are the volumes of an instance, in the order of its mapping.
func (p *provider) devices(ctx context.Context, op string, at *place, i types.Instance) ([]device, error) {
	volumes := map[string]types.Volume{}
	err := at.eachVolume(ctx, op, p, []types.Filter{filter("attachment.instance-id", aws.ToString(i.InstanceId))}, func(v types.Volume) error {
		volumes[aws.ToString(v.VolumeId)] = v
		return nil
	})
	if err != nil {
		return nil, err
	}
	var all []device
	for _, mapping := range i.BlockDeviceMappings {
		if mapping.Ebs == nil {
			continue
		}
		v := volumes[aws.ToString(mapping.Ebs.VolumeId)]
		d := device{
			Name: aws.ToString(mapping.DeviceName), Volume: aws.ToString(mapping.Ebs.VolumeId), Own: aws.ToBool(mapping.Ebs.DeleteOnTermination),
			GiB: aws.ToInt32(v.Size), Type: string(v.VolumeType), Encrypted: aws.ToBool(v.Encrypted), KMSKey: aws.ToString(v.KmsKeyId),
		}
		if takesIOPS(v.VolumeType) {
			d.IOPS = aws.ToInt32(v.Iops)
		}
		if v.VolumeType == types.VolumeTypeGp3 {
			d.Throughput = aws.ToInt32(v.Throughput)
		}
		all = append(all, d)
	}
	return all, nil
}

func machineParameters(i types.Instance) map[string]string {
	all := map[string]string{
		machineImage: aws.ToString(i.ImageId), machineType: string(i.InstanceType), machineSubnet: aws.ToString(i.SubnetId), machineKey: aws.ToString(i.KeyName),
		machineIP: aws.ToString(i.PrivateIpAddress), machineArch: string(i.Architecture), machineBoot: string(i.BootMode), machineRoot: aws.ToString(i.RootDeviceName),
	}
	var groups []string
	for _, g := range i.SecurityGroups {
		groups = append(groups, aws.ToString(g.GroupId))
	}
	all[machineGroups] = strings.Join(groups, ",")
	if i.IamInstanceProfile != nil {
		all[machineProfile] = aws.ToString(i.IamInstanceProfile.Arn)
	}
	if aws.ToBool(i.EbsOptimized) {
		all[machineOptimized] = "true"
	}
	if i.SourceDestCheck != nil && !*i.SourceDestCheck {
		all[machineCheck] = "false"
	}
	if o := i.MetadataOptions; o != nil {
		all[machineTokens], all[machineEndpoint], all[machineMetaTags] = string(o.HttpTokens), string(o.HttpEndpoint), string(o.InstanceMetadataTags)
		if hops := aws.ToInt32(o.HttpPutResponseHopLimit); hops > 0 {
			all[machineHops] = strconv.Itoa(int(hops))
		}
	}
	for key, value := range all {
		if value == "" {
			delete(all, key)
		}
	}
	return all
}
