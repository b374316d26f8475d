package aws

import (
	"bytes"
	_ "embed" // the schema
	"encoding/json"
	"net"
	"net/url"
	"strings"

	"github.com/musterdr/muster/providers/fault"
)

//go:embed schema.json
var schema []byte

const defaultDriver = "ebs.csi.aws.com"

// settings are what Configure takes; schema.json describes them.
type settings struct {
	Region             string            `json:"region"`
	Profile            string            `json:"profile"`
	AssumeRole         *role             `json:"assumeRole"`
	ExternalIDs        map[string]string `json:"externalIDs"`
	Endpoints          endpoints         `json:"endpoints"`
	KMSKeyID           string            `json:"kmsKeyID"`
	Tags               map[string]string `json:"tags"`
	ZoneMap            map[string]string `json:"zoneMap"`
	FastRestore        []string          `json:"fastRestore"`
	CSIDrivers         []string          `json:"csiDrivers"`
	Parallel           int               `json:"parallel"`
	KeepWriteSnapshots bool              `json:"keepWriteSnapshots"`
	OmitUserData       bool              `json:"omitUserData"`
}

type role struct {
	ARN         string `json:"arn"`
	ExternalID  string `json:"externalID"`
	SessionName string `json:"sessionName"`
}

type endpoints struct {
	EC2 string `json:"ec2"`
	EBS string `json:"ebs"`
	STS string `json:"sts"`
}

func parseSettings(raw []byte) (settings, error) {
	s := settings{Parallel: 16, CSIDrivers: []string{defaultDriver}}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		return s, fault.New(opConfigure, fault.Invalid, "settings", err)
	}
	if s.Region == "" {
		return s, fault.Newf(opConfigure, fault.Invalid, "settings", "region is missing: name the region of the volumes, such as eu-west-1")
	}
	if s.AssumeRole != nil && s.AssumeRole.ARN == "" {
		return s, fault.Newf(opConfigure, fault.Invalid, "settings", "assumeRole has no arn")
	}
	if s.Parallel < 0 || s.Parallel > 64 {
		return s, fault.Newf(opConfigure, fault.Invalid, "settings", "parallel is %d: give a number from 1 to 64", s.Parallel)
	}
	if s.Parallel == 0 {
		s.Parallel = 16
	}
	for name := range s.Tags {
		if strings.HasPrefix(name, "aws:") {
			return s, fault.Newf(opConfigure, fault.Invalid, name, "tags that begin with aws: are AWS's own; choose another name")
		}
	}
	for _, address := range []string{s.Endpoints.EC2, s.Endpoints.EBS, s.Endpoints.STS} {
		if err := checkEndpoint(address); err != nil {
			return s, err
		}
	}
	return s, nil
}

// checkEndpoint refuses an address that would take signed requests over a network in the clear.
func checkEndpoint(address string) error {
	if address == "" {
		return nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" || u.User != nil {
		return fault.Newf(opConfigure, fault.Invalid, "endpoints", "an endpoint must be a URL with a host and without credentials")
	}
	ip := net.ParseIP(u.Hostname())
	if u.Scheme == "https" || u.Scheme == "http" && ip != nil && ip.IsLoopback() {
		return nil
	}
	return fault.Newf(opConfigure, fault.Invalid, address, "an endpoint must be https; http is allowed for loopback addresses alone")
}

// zone is the zone in which something is made that was in another one.
func (s settings) zone(original string) string {
	if mapped, ok := s.ZoneMap[original]; ok {
		return mapped
	}
	return original
}
