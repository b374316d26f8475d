package aws

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// operation is an operation of AWS's that the code calls, with what its caller must be allowed.
type operation struct {
	name   string // "ec2:CreateSnapshot"
	rights []right
}

// right is an action on resources, under a condition.
type right struct {
	action    string
	resources []string
	condition condition
}

// condition narrows a right: test → key → value.
type condition map[string]map[string]any

var (
	everything = []string{"*"} // for actions that know no resources

	volumes   = []string{"arn:aws:ec2:*:*:volume/*"}
	snapshots = []string{"arn:aws:ec2:*::snapshot/*"}
	instances = []string{"arn:aws:ec2:*:*:instance/*"}
	images    = []string{"arn:aws:ec2:*::image/*"}
	tagged    = []string{"arn:aws:ec2:*::snapshot/*", "arn:aws:ec2:*:*:volume/*", "arn:aws:ec2:*:*:instance/*", "arn:aws:ec2:*::image/*"}
	launched  = []string{
		"arn:aws:ec2:*::image/*", "arn:aws:ec2:*:*:instance/*", "arn:aws:ec2:*:*:key-pair/*", "arn:aws:ec2:*:*:network-interface/*",
		"arn:aws:ec2:*:*:security-group/*", "arn:aws:ec2:*::snapshot/*", "arn:aws:ec2:*:*:subnet/*", "arn:aws:ec2:*:*:volume/*",
	}

	// Muster's own: what carries providers.TagRun.
	mine = condition{"Null": {"aws:ResourceTag/muster.dev/run": "false"}}
	// To become Muster's own.
	marked = condition{"Null": {"aws:RequestTag/muster.dev/run": "false"}}
	// Tags of something that is being made.
	making = condition{"StringEquals": {"ec2:CreateAction": []string{"CreateSnapshot", "CreateSnapshots", "CopySnapshot", "CreateVolume", "RunInstances", "RegisterImage"}}}
	// A role that machines have, and nothing else.
	forEC2 = condition{"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}
	// Keys by way of EBS alone.
	forEBS = condition{"StringLike": {"kms:ViaService": "ec2.*.amazonaws.com"}}
	// Grants to AWS's own services alone.
	granting = condition{"Bool": {"kms:GrantIsForAWSResource": "true"}}

	keys  = []string{"arn:aws:kms:*:*:key/*"}
	roles = []string{"arn:aws:iam::*:role/*"}

	tagging = right{"ec2:CreateTags", tagged, making}
	// What AWS does with a key when something encrypted is made or copied.
	encrypting = []right{
		{"kms:DescribeKey", keys, nil}, {"kms:CreateGrant", keys, granting}, {"kms:Decrypt", keys, forEBS},
		{"kms:GenerateDataKeyWithoutPlaintext", keys, forEBS}, {"kms:ReEncryptFrom", keys, forEBS}, {"kms:ReEncryptTo", keys, forEBS},
	}
)

func call(name string, rights ...right) operation { return operation{name, rights} }

// look is an operation that only looks.
func look(name string) operation { return call(name, right{name, everything, nil}) }

// operations are all that the code calls. TestPolicy holds it to them.
func operations() []operation {
	return []operation{
		call("sts:GetCallerIdentity"), // it needs no right
		call("sts:AssumeRole", right{"sts:AssumeRole", []string{"arn:aws:iam::*:role/muster-*"}, nil}),

		look("ec2:DescribeAvailabilityZones"),
		look("ec2:DescribeVolumes"),
		look("ec2:DescribeSnapshots"),
		look("ec2:DescribeInstances"),
		look("ec2:DescribeInstanceAttribute"),
		look("ec2:DescribeImages"),

		call("ec2:CreateSnapshot", right{"ec2:CreateSnapshot", volumes, nil}, right{"ec2:CreateSnapshot", snapshots, marked}, tagging),
		call("ec2:CreateSnapshots", right{"ec2:CreateSnapshots", slices.Concat(instances, volumes), nil}, right{"ec2:CreateSnapshots", snapshots, marked}, tagging),
		call("ec2:CreateTags", right{"ec2:CreateTags", snapshots, mine}),
		call("ec2:CopySnapshot", append([]right{{"ec2:CopySnapshot", snapshots, nil}, tagging}, encrypting...)...),
		call("ec2:DeleteSnapshot", right{"ec2:DeleteSnapshot", snapshots, mine}),
		call("ec2:ModifySnapshotAttribute", right{"ec2:ModifySnapshotAttribute", snapshots, mine}),
		call("ec2:EnableFastSnapshotRestores", right{"ec2:EnableFastSnapshotRestores", snapshots, mine}),

		call("ec2:CreateVolume", append([]right{{"ec2:CreateVolume", volumes, marked}, {"ec2:CreateVolume", snapshots, nil}, tagging}, encrypting...)...),
		call("ec2:DeleteVolume", right{"ec2:DeleteVolume", volumes, mine}),

		call("ec2:RegisterImage", right{"ec2:RegisterImage", slices.Concat(images, snapshots), nil}, tagging),
		call("ec2:DeregisterImage", right{"ec2:DeregisterImage", images, mine}),
		call("ec2:RunInstances", right{"ec2:RunInstances", launched, nil}, tagging, right{"iam:PassRole", roles, forEC2}),
		call("ec2:ModifyInstanceAttribute", right{"ec2:ModifyInstanceAttribute", instances, mine}),
		call("ec2:TerminateInstances", right{"ec2:TerminateInstances", instances, mine}),

		call("ebs:ListSnapshotBlocks", right{"ebs:ListSnapshotBlocks", snapshots, nil}),
		call("ebs:ListChangedBlocks", right{"ebs:ListChangedBlocks", snapshots, nil}),
		call("ebs:GetSnapshotBlock", right{"ebs:GetSnapshotBlock", snapshots, nil}, right{"kms:Decrypt", keys, nil}),
		call("ebs:StartSnapshot", right{"ebs:StartSnapshot", snapshots, marked}, right{"ec2:CreateTags", snapshots, condition{"StringEquals": {"ec2:CreateAction": []string{"StartSnapshot"}}}},
			right{"kms:GenerateDataKeyWithoutPlaintext", keys, nil}, right{"kms:GenerateDataKey", keys, nil}),
		call("ebs:PutSnapshotBlock", right{"ebs:PutSnapshotBlock", snapshots, mine}, right{"kms:GenerateDataKey", keys, nil}),
		call("ebs:CompleteSnapshot", right{"ebs:CompleteSnapshot", snapshots, mine}),
	}
}

// statement is one of an IAM policy. The fields stand in the order of AWS's documents.
type statement struct {
	Sid       string
	Effect    string
	Action    []string
	Resource  []string
	Condition condition `json:",omitempty"`
}

// Policy is the IAM policy that allows what the code calls, and no more: JSON.
func Policy() ([]byte, error) {
	var all []*statement
	for _, o := range operations() {
		for _, r := range o.rights {
			if err := admit(&all, r); err != nil {
				return nil, err
			}
		}
	}
	for i, s := range all {
		slices.Sort(s.Action)
		s.Sid = "Muster" + string(rune('A'+i))
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(struct {
		Version   string
		Statement []*statement
	}{"2012-10-17", all})
	return out.Bytes(), err
}

// admit adds a right to the statement of the same resources and condition.
func admit(all *[]*statement, r right) error {
	text, err := json.Marshal(r.condition)
	if err != nil {
		return err
	}
	for _, s := range *all {
		other, err := json.Marshal(s.Condition)
		if err != nil {
			return err
		}
		if strings.Join(s.Resource, " ") != strings.Join(r.resources, " ") || !bytes.Equal(text, other) {
			continue
		}
		if !slices.Contains(s.Action, r.action) {
			s.Action = append(s.Action, r.action)
		}
		return nil
	}
	*all = append(*all, &statement{Effect: "Allow", Action: []string{r.action}, Resource: r.resources, Condition: r.condition})
	return nil
}
