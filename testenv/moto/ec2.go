package moto

import (
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/musterdr/muster/testenv/ebsdirect"
)

// ec2 carries out a call of EC2 or STS: by moto, corrected where moto differs from AWS's reference.
func (f *Front) ec2(w http.ResponseWriter, q *request) error {
	switch q.Action {
	case "DescribeVolumes":
		return f.describe(w, q, "volumeSet")
	case "DescribeSnapshots":
		return f.describe(w, q, "snapshotSet")
	case "DescribeImages":
		return f.describe(w, q, "imagesSet")
	case "DescribeInstances":
		return f.describe(w, q, "reservationSet")
	}
	if strings.HasPrefix(q.Action, "Describe") || q.Service != "ec2" {
		return f.pass(w, q)
	}
	f.work.Lock()
	defer f.work.Unlock()
	switch q.Action {
	case "CreateSnapshot":
		return f.createSnapshot(w, q)
	case "CreateSnapshots":
		return f.createSnapshots(w, q)
	case "CopySnapshot":
		return f.copySnapshot(w, q)
	case "DeleteSnapshot":
		return f.deleteSnapshot(w, q)
	case "ModifySnapshotAttribute":
		return f.share(w, q)
	case "EnableFastSnapshotRestores":
		return f.enableFast(w, q)
	case "CreateVolume":
		return f.once(w, q, f.createVolume)
	case "DeleteVolume":
		return f.deleteVolume(w, q)
	case "RegisterImage":
		return f.registerImage(w, q)
	case "DeregisterImage":
		return f.deregisterImage(w, q)
	case "RunInstances":
		return f.once(w, q, f.runInstances)
	}
	return f.pass(w, q)
}

func (f *Front) pass(w http.ResponseWriter, q *request) error {
	answer, err := f.forward(w, q)
	if err != nil || answer == nil {
		return err
	}
	return send(w, answer)
}

// describe pages a list, which moto gives as a whole, and says of snapshots and images what moto does not
// know.
func (f *Front) describe(w http.ResponseWriter, q *request, set string) error {
	form := url.Values{}
	for name, values := range q.Form {
		form[name] = values
	}
	form.Del("NextToken")
	form.Del("MaxResults")
	if set == "reservationSet" && !form.Has("InstanceId.1") {
		form.Set("MaxResults", "100000")
	}
	if q.Form.Has("MaxResults") && (form.Has("InstanceId.1") || form.Has("VolumeId.1") || form.Has("SnapshotId.1")) {
		return &Refusal{Code: "InvalidParameterCombination", Message: "MaxResults cannot be used with IDs", Status: http.StatusBadRequest}
	}
	f.work.Lock() // what is half made is not described
	defer f.work.Unlock()
	answer, err := f.forward(w, q.with(form))
	if err != nil || answer == nil {
		return err
	}
	items := answer.child(set)
	if items == nil {
		return send(w, answer)
	}
	next, err := f.cut(q.Form, items)
	if err != nil {
		return err
	}
	for _, item := range items.children {
		f.correct(item)
	}
	if next != "" {
		answer.set("nextToken", next)
	}
	return send(w, answer)
}

// cut leaves one page in a list.
func (f *Front) cut(form url.Values, items *node) (string, error) {
	f.mu.Lock()
	limit := f.page
	f.mu.Unlock()
	size, from := 1000, 0
	if text := form.Get("MaxResults"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 5 || n > 1000 {
			return "", &Refusal{Code: "InvalidParameterValue", Message: "MaxResults is out of range", Status: http.StatusBadRequest}
		}
		size = n
	}
	if limit > 0 {
		size = min(size, limit)
	}
	if text, ok := strings.CutPrefix(form.Get("NextToken"), "page-"); ok {
		from, _ = strconv.Atoi(text)
	}
	from = min(from, len(items.children))
	to := min(from+size, len(items.children))
	next := ""
	if to < len(items.children) {
		next = "page-" + strconv.Itoa(to)
	}
	items.children = items.children[from:to]
	return next, nil
}

// timeFormat is how EC2 writes moments.
const timeFormat = "2006-01-02T15:04:05.000Z"

// correct says of a snapshot or an image what it is. It needs f.work.
func (f *Front) correct(item *node) {
	if image := item.value("imageId"); image != "" && f.world.images[image] != "" {
		for _, mapping := range item.child("blockDeviceMapping").children {
			mapping.child("ebs").set("snapshotId", f.world.images[image])
		}
	}
	id := item.value("snapshotId")
	if item.child("startTime") == nil {
		return // no snapshot, but what was made from one
	}
	if state, _, known := f.Content.Describe(id); known {
		item.set("status", string(state))
		if state == ebsdirect.Pending {
			item.set("progress", "42%")
		}
	}
	if started := f.Content.Started(id); !started.IsZero() { // moto's has no fractions of a second
		item.set("startTime", started.UTC().Format(timeFormat))
	}
	if f.world.copies[id] {
		item.set("volumeId", "vol-ffffffff")
	}
	if key := f.world.keys[id]; key != "" {
		item.set("kmsKeyId", key)
	}
}

// once heeds a client token: the same request gets the first answer again.
func (f *Front) once(w http.ResponseWriter, q *request, do func(http.ResponseWriter, *request) (*node, error)) error {
	account, err := f.account(q.http.Context(), q.Access)
	if err != nil {
		return err
	}
	key := account + q.Region + q.Action + q.Form.Get("ClientToken")
	if earlier, ok := f.world.tokens[key]; ok && q.Form.Get("ClientToken") != "" {
		if earlier.form != q.Form.Encode() {
			return &Refusal{Code: "IdempotentParameterMismatch", Message: "the token was used for another request", Status: http.StatusBadRequest}
		}
		w.Header().Set("Content-Type", "text/xml")
		_, err := io.WriteString(w, earlier.answer)
		return err
	}
	answer, err := do(w, q)
	if err != nil || answer == nil {
		return err
	}
	f.world.tokens[key] = remembered{q.Form.Encode(), answer.String()}
	return send(w, answer)
}

func (f *Front) createSnapshot(w http.ResponseWriter, q *request) error {
	answer, err := f.forward(w, q)
	if err != nil || answer == nil {
		return err
	}
	if err := f.own(q, answer.value("snapshotId")); err != nil {
		return err
	}
	gib, err := strconv.ParseInt(answer.value("volumeSize"), 10, 64)
	if err != nil {
		return err
	}
	now := f.now()
	answer.set("startTime", now.UTC().Format(timeFormat))
	f.Content.Take(now, ebsdirect.Taken{Snapshot: answer.value("snapshotId"), Volume: answer.value("volumeId"), Region: q.Region, GiB: gib})
	answer.set("status", "pending")
	return send(w, answer)
}

func (f *Front) own(q *request, snapshot string) error {
	account, err := f.account(q.http.Context(), q.Access)
	f.world.owners[snapshot] = account
	return err
}

// createSnapshots is ours: moto's leaves ExcludeDataVolumeIds alone.
func (f *Front) createSnapshots(w http.ResponseWriter, q *request) error {
	ctx, client := q.http.Context(), f.client(q.Region, q.Access)
	machine := q.Form.Get("InstanceSpecification.InstanceId")
	volumes, err := client.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{
		Filters: []types.Filter{{Name: aws.String("attachment.instance-id"), Values: []string{machine}}},
	})
	if err != nil {
		return err
	}
	described, err := client.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{machine}})
	if err != nil {
		return err
	}
	root := aws.ToString(described.Reservations[0].Instances[0].RootDeviceName)
	excluded := list(q.Form, "InstanceSpecification.ExcludeDataVolumeId")
	if len(excluded) > 40 {
		return &Refusal{Code: "InvalidParameterValue", Message: "too many volumes are excluded", Status: http.StatusBadRequest}
	}
	var taken []ebsdirect.Taken
	set, now := element("snapshotSet"), f.now()
	for _, v := range volumes.Volumes {
		id, isRoot := aws.ToString(v.VolumeId), aws.ToString(v.Attachments[0].Device) == root
		if isRoot && slices.Contains(excluded, id) {
			return &Refusal{Code: "InvalidParameterValue", Message: "the root volume is excluded as a data volume", Status: http.StatusBadRequest}
		}
		if isRoot && q.Form.Get("InstanceSpecification.ExcludeBootVolume") == "true" || slices.Contains(excluded, id) {
			continue
		}
		made, err := client.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{
			VolumeId: v.VolumeId, Description: aws.String(q.Form.Get("Description")), TagSpecifications: specification(formTags(q.Form)),
		})
		if err != nil {
			return err
		}
		if err := f.own(q, aws.ToString(made.SnapshotId)); err != nil {
			return err
		}
		taken = append(taken, ebsdirect.Taken{Snapshot: aws.ToString(made.SnapshotId), Volume: id, Region: q.Region, GiB: int64(aws.ToInt32(v.Size))})
		set.add(element("item", leaf("snapshotId", aws.ToString(made.SnapshotId)), leaf("volumeId", id), leaf("state", "pending"),
			leaf("startTime", now.UTC().Format(timeFormat)), leaf("volumeSize", strconv.Itoa(int(aws.ToInt32(v.Size))))))
	}
	f.Content.Take(now, taken...)
	return send(w, element("CreateSnapshotsResponse", leaf("requestId", "req-front"), set))
}

// formTags are the tags of the first TagSpecification.
func formTags(form url.Values) []ebsdirect.Tag {
	var tags []ebsdirect.Tag
	for i := 1; form.Has(indexed("TagSpecification.1.Tag", i) + ".Key"); i++ {
		name := indexed("TagSpecification.1.Tag", i)
		tags = append(tags, ebsdirect.Tag{Key: form.Get(name + ".Key"), Value: form.Get(name + ".Value")})
	}
	return tags
}

// copySnapshot is ours: moto copies within an account, and without a look at who may.
func (f *Front) copySnapshot(w http.ResponseWriter, q *request) error {
	source := q.Form.Get("SourceSnapshotId")
	account, err := f.account(q.http.Context(), q.Access)
	if err != nil {
		return err
	}
	missing := &Refusal{Code: "InvalidSnapshot.NotFound", Message: "The snapshot '" + source + "' does not exist.", Status: http.StatusBadRequest}
	owner, known := f.world.owners[source]
	if !known || !slices.Contains(f.Content.Snapshots(q.Form.Get("SourceRegion")), source) {
		return missing
	}
	if owner != account && !f.world.shared[source][account] {
		return missing
	}
	gib, err := f.Content.GiB(source)
	if err != nil {
		return err
	}
	id, _, err := f.makeSnapshot(q.http.Context(), q.Region, q.Access, ebsdirect.Start{
		GiB: gib, Description: q.Form.Get("Description"), KMSKey: q.Form.Get("KmsKeyId"),
		Encrypted: q.Form.Get("Encrypted") == "true", Tags: formTags(q.Form),
	})
	if err != nil {
		return err
	}
	f.Content.Copy(f.now(), source, id, q.Region)
	return send(w, element("CopySnapshotResponse", leaf("requestId", "req-front"), leaf("snapshotId", id)))
}

func (f *Front) deleteSnapshot(w http.ResponseWriter, q *request) error {
	id := q.Form.Get("SnapshotId")
	for image, root := range f.world.images {
		if root == id {
			return &Refusal{Code: "InvalidSnapshot.InUse", Message: "The snapshot " + id + " is currently in use by " + image, Status: http.StatusBadRequest}
		}
	}
	answer, err := f.forward(w, q)
	if err != nil || answer == nil {
		return err
	}
	f.Content.DropSnapshot(id)
	return send(w, answer)
}

func (f *Front) share(w http.ResponseWriter, q *request) error {
	answer, err := f.forward(w, q)
	if err != nil || answer == nil {
		return err
	}
	id := q.Form.Get("SnapshotId")
	for _, prefix := range []string{"CreateVolumePermission.Add", "CreateVolumePermission.Remove", "UserId"} {
		for i := 1; ; i++ {
			account := q.Form.Get(indexed(prefix, i) + ".UserId")
			if prefix == "UserId" {
				account = q.Form.Get(indexed(prefix, i))
			}
			if account == "" {
				break
			}
			if f.world.shared[id] == nil {
				f.world.shared[id] = map[string]bool{}
			}
			if strings.HasSuffix(prefix, "Remove") || q.Form.Get("OperationType") == "remove" {
				delete(f.world.shared[id], account)
			} else {
				f.world.shared[id][account] = true
			}
		}
	}
	return send(w, answer)
}

// enableFast is ours: moto has none of it.
func (f *Front) enableFast(w http.ResponseWriter, q *request) error {
	done := element("successful")
	for _, id := range list(q.Form, "SourceSnapshotId") {
		for _, zone := range list(q.Form, "AvailabilityZone") {
			if f.world.fast[id] == nil {
				f.world.fast[id] = map[string]string{}
			}
			f.world.fast[id][zone] = "enabling"
			done.add(element("item", leaf("snapshotId", id), leaf("availabilityZone", zone), leaf("state", "enabling")))
		}
	}
	return send(w, element("EnableFastSnapshotRestoresResponse", leaf("requestId", "req-front"), done, element("unsuccessful")))
}
