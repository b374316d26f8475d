package gluster

import (
	"encoding/xml"
	"fmt"
	"regexp"
	"strings"
)

// reply is what gluster --xml answers, as far as it is used here: each command fills its own part.
type reply struct {
	XMLName  xml.Name `xml:"cliOutput"`
	Result   *int     `xml:"opRet"`
	OpRet    int      `xml:"-"`
	OpErrno  int      `xml:"opErrno"`
	OpErrstr string   `xml:"opErrstr"`

	Volumes   []volumeInfo   `xml:"volInfo>volumes>volume"`
	Status    []volumeStatus `xml:"volStatus>volumes>volume"`
	Peers     []peerState    `xml:"peerStatus>peer"`
	Limits    []quotaLimit   `xml:"volQuota>limit"`
	Heal      []healState    `xml:"healInfo>bricks>brick"`
	Options   []gotOption    `xml:"volGetopts>Opt"`
	Snapshots []snapshotInfo `xml:"snapInfo>snapshots>snapshot"`
	Geo       []geoVolume    `xml:"geoRep>volume"`
}

type volumeInfo struct {
	Name       string `xml:"name"`
	ID         string `xml:"id"`
	Status     string `xml:"statusStr"`
	Snapshots  int    `xml:"snapshotCount"`
	BrickCount int    `xml:"brickCount"`
	Subvolumes int    `xml:"distCount"`
	Replica    int    `xml:"replicaCount"`
	Arbiter    int    `xml:"arbiterCount"`
	Disperse   int    `xml:"disperseCount"`
	Redundancy int    `xml:"redundancyCount"`
	Type       string `xml:"typeStr"`
	Transport  int    `xml:"transport"`

	Bricks  []brickInfo `xml:"bricks>brick"`
	Options []option    `xml:"options>option"`
}

type brickInfo struct {
	Name    string `xml:"name"` // host:/path
	Arbiter int    `xml:"isArbiter"`
}

type option struct {
	Name  string `xml:"name"`
	Value string `xml:"value"`
}

type gotOption struct {
	Name  string `xml:"Option"`
	Value string `xml:"Value"`
}

type volumeStatus struct {
	Name  string       `xml:"volName"`
	Nodes []nodeStatus `xml:"node"`
}

type nodeStatus struct {
	Host   string `xml:"hostname"`
	Path   string `xml:"path"`
	Online int    `xml:"status"`
}

type peerState struct {
	UUID      string   `xml:"uuid"`
	Host      string   `xml:"hostname"`
	Hosts     []string `xml:"hostnames>hostname"`
	Connected int      `xml:"connected"`
}

type quotaLimit struct {
	Path string `xml:"path"`
	Hard string `xml:"hard_limit"`
	Used string `xml:"used_space"`
}

type healState struct {
	Name       string `xml:"name"`
	Status     string `xml:"status"`
	Pending    string `xml:"numberOfEntriesInHealPending"` // "-" when the brick is not connected
	SplitBrain string `xml:"numberOfEntriesInSplitBrain"`
}

type snapshotInfo struct {
	Name        string       `xml:"name"`
	ID          string       `xml:"uuid"`
	Description string       `xml:"description"`
	Created     string       `xml:"createTime"`
	Volumes     []snapVolume `xml:"snapVolume"`
}

type snapVolume struct {
	Name   string `xml:"name"`
	Status string `xml:"status"`
	Origin string `xml:"originVolume>name"`
}

type geoVolume struct {
	Name     string       `xml:"name"`
	Sessions []geoSession `xml:"sessions>session"`
}

type geoSession struct {
	Pairs []struct {
		Status string `xml:"status"`
	} `xml:"pair"`
}

// Names as glusterd allows them.
var (
	volumeName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]{0,254}$`)
	uuid       = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
)

// check refuses names that no glusterd gives: what follows puts them into paths and commands.
func (r *reply) check() error {
	for _, v := range r.Volumes {
		if !volumeName.MatchString(v.Name) || !uuid.MatchString(v.ID) {
			return fmt.Errorf("volume %.60q with the ID %.60q: no glusterd gives such names", v.Name, v.ID)
		}
		for _, b := range v.Bricks {
			if _, path := b.split(); !strings.HasPrefix(path, "/") || strings.ContainsAny(b.Name, "\x00\n") {
				return fmt.Errorf("volume %s: brick %.80q is not HOST:/PATH", v.Name, b.Name)
			}
		}
	}
	for _, s := range r.Snapshots {
		if !volumeName.MatchString(s.Name) || !uuid.MatchString(s.ID) {
			return fmt.Errorf("snapshot %.60q with the ID %.60q: no glusterd gives such names", s.Name, s.ID)
		}
		for _, v := range s.Volumes {
			if !volumeName.MatchString(v.Name) {
				return fmt.Errorf("snapshot %s: volume %.60q: no glusterd gives such names", s.Name, v.Name)
			}
		}
	}
	return nil
}

// split is the brick's host and path. The path may hold colons, the host of IPv6 too.
func (b brickInfo) split() (host, path string) {
	i := strings.Index(b.Name, ":/")
	if i < 0 {
		return b.Name, ""
	}
	return b.Name[:i], b.Name[i+1:]
}

func (v volumeInfo) option(name string) string {
	for _, o := range v.Options {
		if o.Name == name {
			return o.Value
		}
	}
	return ""
}

// on reports whether an option is switched on.
func (v volumeInfo) on(name string) bool {
	switch strings.ToLower(v.option(name)) {
	case "on", "yes", "true", "enable", "1":
		return true
	}
	return false
}

func (v volumeInfo) started() bool { return v.Status == "Started" }
