package aws

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// image registers an image from the root snapshot, or finds the one that an earlier call registered: its
// name derives from the token, and AWS allows a name once.
func (b *building) image(ctx context.Context) (string, error) {
	id, err := open(opMachine, b.request.Root, snapshotID)
	if err != nil {
		return "", err
	}
	if id.Region != b.home.region || id.Account != b.home.account {
		return "", fault.Newf(opMachine, fault.Invalid, id.ID, "the root snapshot is in %s: copy it to %s first", id.Region, b.home.region)
	}
	if found, err := b.imageOf(ctx); found != "" || err != nil {
		return found, err
	}
	asked := b.request.Parameters
	architecture := types.ArchitectureValues(asked[machineArch])
	if architecture == "" {
		architecture = types.ArchitectureValuesX8664
	}
	root := &types.EbsBlockDevice{SnapshotId: aws.String(id.ID), DeleteOnTermination: aws.Bool(true), VolumeType: types.VolumeTypeGp3}
	out, err := b.home.ec2.RegisterImage(ctx, &ec2.RegisterImageInput{
		Name: aws.String(b.imageName()), Description: aws.String("Muster: root of a machine that is made again"), Architecture: architecture,
		BootMode: types.BootModeValues(asked[machineBoot]), VirtualizationType: aws.String("hvm"), EnaSupport: aws.Bool(true), RootDeviceName: aws.String(b.rootDevice()),
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String(b.rootDevice()), Ebs: root}},
		TagSpecifications:   []types.TagSpecification{specify(types.ResourceTypeImage, b.made(b.request.Tags, b.request.Token, b.sum, nil))},
	})
	if code(err) == "InvalidAMIName.Duplicate" {
		return "", fault.Newf(opMachine, fault.Busy, b.imageName(), "the image is being registered and not described yet")
	}
	if err != nil {
		return "", b.fail(opMachine, id.ID, err)
	}
	return b.imageReady(ctx, aws.ToString(out.ImageId))
}

func (b *building) imageName() string { return "muster-" + clientToken(b.request.Token, "image")[:32] }

func (b *building) imageOf(ctx context.Context) (string, error) {
	out, err := b.home.ec2.DescribeImages(ctx, &ec2.DescribeImagesInput{Owners: []string{"self"}, Filters: []types.Filter{filter("name", b.imageName())}})
	if err != nil {
		return "", b.fail(opMachine, b.imageName(), err)
	}
	if len(out.Images) == 0 {
		return "", nil
	}
	id := aws.ToString(out.Images[0].ImageId) // names of one's own images are unique
	if fromEC2(out.Images[0].Tags)[tagRequest] != b.sum {
		return "", fault.Newf(opMachine, fault.Exists, id, "the token made this image for another request: use a new token")
	}
	return b.imageReady(ctx, id)
}

// imageReady waits until machines can be made of an image.
func (b *building) imageReady(ctx context.Context, id string) (string, error) {
	misses := 0
	err := b.wait(ctx, opMachine, id, func() (bool, providers.Progress, error) {
		out, err := b.home.ec2.DescribeImages(ctx, &ec2.DescribeImagesInput{ImageIds: []string{id}})
		if missing := isNotFound(err) || err == nil && len(out.Images) == 0; missing && misses < maxMisses {
			misses++
			return false, providers.Progress{Text: "image not described yet"}, nil
		}
		if err != nil {
			return false, providers.Progress{}, b.fail(opMachine, id, err)
		}
		if len(out.Images) == 0 || out.Images[0].State == types.ImageStateFailed || out.Images[0].State == types.ImageStateInvalid {
			return false, providers.Progress{}, fault.Newf(opMachine, fault.Transient, id, "AWS could not register the image")
		}
		return out.Images[0].State == types.ImageStateAvailable, providers.Progress{Text: "image is registered"}, nil
	})
	return id, err
}

// DeleteMachine implements providers.Machines. An image that was registered for the machine goes with it;
// the snapshot that it was made from stays.
func (p *provider) DeleteMachine(ctx context.Context, machine providers.Handle) error {
	const op = "delete machine"
	id, err := open(op, machine, machineID)
	if err != nil {
		return err
	}
	at, err := p.placeOf(ctx, op, id)
	if err != nil {
		return err
	}
	i, err := p.describeMachine(ctx, op, at, id.ID)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	tags := fromEC2(i.Tags)
	if tags[providers.TagRun] == "" {
		return fault.Newf(op, fault.Denied, id.ID, "it has no tag %s: Muster did not make it, and does not delete it", providers.TagRun)
	}
	if !ended(i) {
		if _, err := at.ec2.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{id.ID}}); err != nil && !isNotFound(err) {
			return p.fail(op, id.ID, err)
		}
	}
	if err := p.terminated(ctx, op, at, id.ID); err != nil {
		return err
	}
	if tags[tagImage] == "" {
		return nil
	}
	_, err = at.ec2.DeregisterImage(ctx, &ec2.DeregisterImageInput{ImageId: aws.String(tags[tagImage])})
	if isNotFound(err) || code(err) == "InvalidAMIID.Unavailable" {
		return nil
	}
	return p.fail(op, tags[tagImage], err)
}

func (p *provider) terminated(ctx context.Context, op string, at *place, id string) error {
	return p.wait(ctx, op, id, func() (bool, providers.Progress, error) {
		i, err := p.describeMachine(ctx, op, at, id)
		if fault.Is(err, fault.NotFound) {
			return true, providers.Progress{}, nil
		}
		if err != nil {
			return false, providers.Progress{}, err
		}
		return i.State != nil && i.State.Name == types.InstanceStateNameTerminated, providers.Progress{Text: "instance is terminated"}, nil
	})
}
