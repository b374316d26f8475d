package moto

import (
	"context"
	"net/http"
	"net/url"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func (f *Front) createVolume(w http.ResponseWriter, q *request) (*node, error) {
	answer, err := f.forward(w, q)
	if err != nil || answer == nil {
		return nil, err
	}
	if snapshot := q.Form.Get("SnapshotId"); snapshot != "" {
		f.Content.VolumeFrom(answer.value("volumeId"), snapshot)
	}
	return answer, nil
}

func (f *Front) deleteVolume(w http.ResponseWriter, q *request) error {
	answer, err := f.forward(w, q)
	if err != nil || answer == nil {
		return err
	}
	f.Content.DropVolume(q.Form.Get("VolumeId"))
	return send(w, answer)
}

// registerImage keeps the snapshot that the image is made from, and its tags: moto makes a snapshot of its
// own, and leaves the tags out.
func (f *Front) registerImage(w http.ResponseWriter, q *request) error {
	name := q.Region + "/" + q.Form.Get("Name")
	if _, taken := f.world.names[name]; taken {
		return &Refusal{Code: "InvalidAMIName.Duplicate", Message: "AMI name " + q.Form.Get("Name") + " is already in use", Status: http.StatusBadRequest}
	}
	answer, err := f.forward(w, q)
	if err != nil || answer == nil {
		return err
	}
	id := answer.value("imageId")
	f.world.names[name], f.world.images[id] = id, q.Form.Get("BlockDeviceMapping.1.Ebs.SnapshotId")
	if all := specification(formTags(q.Form)); all != nil { // moto leaves them out
		_, err := f.client(q.Region, q.Access).CreateTags(q.http.Context(), &ec2.CreateTagsInput{Resources: []string{id}, Tags: all[0].Tags})
		if err != nil {
			return err
		}
	}
	return send(w, answer)
}

func (f *Front) deregisterImage(w http.ResponseWriter, q *request) error {
	answer, err := f.forward(w, q)
	if err != nil || answer == nil {
		return err
	}
	id := q.Form.Get("ImageId")
	for name, image := range f.world.names {
		if image == id {
			delete(f.world.names, name)
		}
	}
	delete(f.world.images, id)
	return send(w, answer)
}

// runInstances makes the root volume from the image's snapshot, and gives every volume its content.
func (f *Front) runInstances(w http.ResponseWriter, q *request) (*node, error) {
	form := url.Values{}
	for name, values := range q.Form {
		form[name] = values
	}
	if root := f.world.images[q.Form.Get("ImageId")]; root != "" {
		if err := f.injectRoot(q, form, root); err != nil {
			return nil, err
		}
	}
	answer, err := f.forward(w, q.with(form))
	if err != nil || answer == nil {
		return nil, err
	}
	for _, instance := range answer.child("instancesSet").children {
		if err := f.fillVolumes(q, instance.value("instanceId")); err != nil {
			return nil, err
		}
	}
	return answer, nil
}

func (f *Front) injectRoot(q *request, form url.Values, snapshot string) error {
	device, err := f.rootDevice(q.http.Context(), q)
	if err != nil {
		return err
	}
	i := 1
	for ; form.Has(indexed("BlockDeviceMapping", i) + ".DeviceName"); i++ {
		if form.Get(indexed("BlockDeviceMapping", i)+".DeviceName") == device {
			break
		}
	}
	name := indexed("BlockDeviceMapping", i)
	form.Set(name+".DeviceName", device)
	form.Set(name+".Ebs.SnapshotId", snapshot)
	if !form.Has(name + ".Ebs.DeleteOnTermination") {
		form.Set(name+".Ebs.DeleteOnTermination", "true")
	}
	return nil
}

func (f *Front) rootDevice(ctx context.Context, q *request) (string, error) {
	out, err := f.client(q.Region, q.Access).DescribeImages(ctx, &ec2.DescribeImagesInput{ImageIds: []string{q.Form.Get("ImageId")}})
	if err != nil || len(out.Images) == 0 {
		return "", err
	}
	return aws.ToString(out.Images[0].RootDeviceName), nil
}

func (f *Front) fillVolumes(q *request, machine string) error {
	out, err := f.client(q.Region, q.Access).DescribeVolumes(q.http.Context(), &ec2.DescribeVolumesInput{
		Filters: []types.Filter{{Name: aws.String("attachment.instance-id"), Values: []string{machine}}},
	})
	if err != nil {
		return err
	}
	for _, v := range out.Volumes {
		if snapshot := aws.ToString(v.SnapshotId); snapshot != "" {
			f.Content.VolumeFrom(aws.ToString(v.VolumeId), snapshot)
		}
	}
	return nil
}
