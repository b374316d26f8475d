package gluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/musterdr/muster/providers/fault"
)

// Settings are what Configure takes, as JSON.
type Settings struct {
	// SSH is how peers are reached that say nothing of their own.
	SSH   *SSH   `json:"ssh,omitempty"`
	Peers []Peer `json:"peers"`
	// Bricks are folders, HOST:/PATH, under which bricks of volumes that Muster makes may lie.
	Bricks []string `json:"bricks,omitempty"`
	// Layout is what made volumes get whatever the captured one had; nil: as the request says.
	Layout *Layout `json:"layout,omitempty"`
	// Force makes volumes also where Gluster advises against it: bricks on a root filesystem, or several of
	// one set on one peer.
	Force bool `json:"force,omitempty"`
	// MountFolder is where volumes are mounted on this host.
	MountFolder string `json:"mountFolder,omitempty"`
	// MountOptions are given to the FUSE client: "direct-io-mode=enable".
	MountOptions []string `json:"mountOptions,omitempty"`
	// PingSeconds is after how long a silent brick counts as gone for mounts of Muster.
	PingSeconds int `json:"pingSeconds,omitempty"`
	// CommandSeconds bounds one command on a peer.
	CommandSeconds int `json:"commandSeconds,omitempty"`
	// Changes says whether changelogs of captured volumes are switched on: "changelog" (the default) or "none".
	Changes string `json:"changes,omitempty"`
	// Quota says whether sizes of made volumes become quotas: "limit" (the default) or "none".
	Quota string `json:"quota,omitempty"`
	// Endpoints are what in-tree PersistentVolumes name that Bind makes.
	Endpoints *Endpoints `json:"endpoints,omitempty"`
	// Drivers are further names of the CSI driver org.gluster.glusterfs.
	Drivers []string `json:"drivers,omitempty"`
}

// Peer is one machine of the pool.
type Peer struct {
	Address string `json:"address"`
	// Name is what Gluster calls it; empty: the address.
	Name string `json:"name,omitempty"`
	SSH  *SSH   `json:"ssh,omitempty"`
}

// SSH is how a peer is logged in to.
type SSH struct {
	User           string `json:"user,omitempty"` // root when empty
	Port           int    `json:"port,omitempty"` // 22 when 0
	KeyFile        string `json:"keyFile"`
	KnownHostsFile string `json:"knownHostsFile"`
	Sudo           bool   `json:"sudo,omitempty"`
}

// Endpoints names a Kubernetes object.
type Endpoints struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace,omitempty"`
}

const schema = `{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "A GlusterFS pool",
  "type": "object",
  "additionalProperties": false,
  "required": ["peers"],
  "$defs": {
    "ssh": {
      "type": "object", "additionalProperties": false, "required": ["keyFile", "knownHostsFile"],
      "properties": {
        "user": {"type": "string", "minLength": 1, "description": "default root"},
        "port": {"type": "integer", "minimum": 1, "maximum": 65535, "description": "default 22"},
        "keyFile": {"type": "string", "minLength": 1, "description": "private key without a passphrase"},
        "knownHostsFile": {"type": "string", "minLength": 1, "description": "holds the peer's host key; a peer that shows another is refused"},
        "sudo": {"type": "boolean", "description": "run commands by sudo -n"}
      }
    }
  },
  "properties": {
    "ssh": {"$ref": "#/$defs/ssh", "description": "how peers are reached that say nothing of their own"},
    "peers": {
      "type": "array", "minItems": 1, "description": "machines of the pool; commands run on the first that answers",
      "items": {
        "type": "object", "additionalProperties": false, "required": ["address"],
        "properties": {
          "address": {"type": "string", "minLength": 1},
          "name": {"type": "string", "minLength": 1, "description": "what gluster pool list calls it; default: the address"},
          "ssh": {"$ref": "#/$defs/ssh"}
        }
      }
    },
    "bricks": {"type": "array", "items": {"type": "string", "pattern": "^[^:/]+:/.+"}, "description": "HOST:/PATH of folders for bricks of volumes that Muster makes; without them it makes none"},
    "layout": {
      "type": "object", "additionalProperties": false, "description": "what made volumes get, whatever the captured one had",
      "properties": {
        "replica": {"type": "integer", "minimum": 2},
        "arbiter": {"type": "integer", "minimum": 0, "maximum": 1},
        "disperse": {"type": "integer", "minimum": 3},
        "redundancy": {"type": "integer", "minimum": 1},
        "subvolumes": {"type": "integer", "minimum": 1}
      }
    },
    "force": {"type": "boolean", "description": "also make volumes where Gluster advises against it"},
    "mountFolder": {"type": "string", "description": "default /var/lib/muster-gluster"},
    "mountOptions": {"type": "array", "items": {"type": "string"}, "description": "for the FUSE client"},
    "pingSeconds": {"type": "integer", "minimum": 1, "maximum": 120, "description": "default 10"},
    "commandSeconds": {"type": "integer", "minimum": 5, "maximum": 3600, "description": "default 120"},
    "changes": {"enum": ["changelog", "none"], "description": "default changelog: switched on for volumes that are captured"},
    "quota": {"enum": ["limit", "none"], "description": "default limit: the size of a made volume becomes its quota; none: it has no size"},
    "endpoints": {
      "type": "object", "additionalProperties": false, "required": ["name"], "description": "for in-tree PersistentVolumes",
      "properties": {"name": {"type": "string", "minLength": 1}, "namespace": {"type": "string"}}
    },
    "drivers": {"type": "array", "items": {"type": "string", "minLength": 1}, "description": "further names of the CSI driver org.gluster.glusterfs"}
  }
}`

func parse(raw json.RawMessage) (Settings, error) {
	var s Settings
	if raw = bytes.TrimSpace(raw); len(raw) == 0 || raw[0] != '{' {
		return s, refuseSettings("settings must be a JSON object")
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		return s, refuseSettings("settings: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return s, refuseSettings("settings: something follows the object")
	}
	s.fill()
	return s, s.check()
}

func refuseSettings(format string, args ...any) error {
	return fault.Newf("configure", fault.Invalid, Name, format, args...)
}

func (s *Settings) fill() {
	for i := range s.Peers {
		p := &s.Peers[i]
		if p.SSH == nil {
			p.SSH = s.SSH
		}
		if p.Name == "" {
			p.Name = p.Address
		}
		if p.SSH != nil {
			own := *p.SSH
			own.fill()
			p.SSH = &own
		}
	}
	if s.MountFolder == "" {
		s.MountFolder = "/var/lib/muster-gluster"
	}
	if s.PingSeconds == 0 {
		s.PingSeconds = 10
	}
	if s.CommandSeconds == 0 {
		s.CommandSeconds = 120
	}
	if s.Changes == "" {
		s.Changes = changesByChangelog
	}
	if s.Quota == "" {
		s.Quota = quotaAsLimit
	}
}

func (s *SSH) fill() {
	if s.User == "" {
		s.User = "root"
	}
	if s.Port == 0 {
		s.Port = 22
	}
}

const (
	changesByChangelog = "changelog"
	changesNone        = "none"
	quotaAsLimit       = "limit"
	quotaAsNothing     = "none"
)

var mountOption = regexp.MustCompile(`^[a-z][a-z0-9-]*(=[A-Za-z0-9._,:/*-]+)?$`)

func (s *Settings) check() error {
	if len(s.Peers) == 0 {
		return refuseSettings("peers: name at least one")
	}
	for _, p := range s.Peers {
		if p.Address == "" || strings.ContainsAny(p.Address+p.Name, " \t\n/") {
			return refuseSettings("peers: the address %q, or its name, is none", p.Address)
		}
		if p.SSH == nil || p.SSH.KeyFile == "" || p.SSH.KnownHostsFile == "" {
			return refuseSettings("peer %s: ssh needs keyFile and knownHostsFile", p.Address)
		}
	}
	for _, spec := range s.Bricks {
		if _, err := s.root(spec); err != nil {
			return refuseSettings("bricks: %w", err)
		}
	}
	if s.Layout != nil {
		if err := s.Layout.check(); err != nil {
			return refuseSettings("layout: %w", err)
		}
	}
	for _, option := range s.MountOptions {
		if !mountOption.MatchString(option) {
			return refuseSettings("mountOptions: %q is not of the form name or name=value", option)
		}
	}
	if s.Changes != changesByChangelog && s.Changes != changesNone {
		return refuseSettings("changes: %q is neither %q nor %q", s.Changes, changesByChangelog, changesNone)
	}
	if s.Quota != quotaAsLimit && s.Quota != quotaAsNothing {
		return refuseSettings("quota: %q is neither %q nor %q", s.Quota, quotaAsLimit, quotaAsNothing)
	}
	if s.PingSeconds < 1 || s.CommandSeconds < 5 {
		return refuseSettings("pingSeconds must be at least 1, commandSeconds at least 5")
	}
	if !filepath.IsAbs(s.MountFolder) {
		return refuseSettings("mountFolder %q: the path must be absolute", s.MountFolder)
	}
	return nil
}

// brickRoot is a folder of a peer under which bricks may lie.
type brickRoot struct {
	peer Peer
	path string
}

func (s *Settings) root(spec string) (brickRoot, error) {
	host, path, _ := strings.Cut(spec, ":")
	peer, ok := s.peer(host)
	if !ok {
		return brickRoot{}, fmt.Errorf("%q: no peer has this name or address", spec)
	}
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" || !plainPath.MatchString(path) {
		return brickRoot{}, fmt.Errorf("%q: want HOST:/PATH, the path clean and not the root", spec)
	}
	return brickRoot{peer, path}, nil
}

// plainPath is what Gluster takes as a brick's path, and is the same in every shell and listing.
var plainPath = regexp.MustCompile(`^[A-Za-z0-9._/-]+$`)

func (s *Settings) roots() []brickRoot {
	var roots []brickRoot
	for _, spec := range s.Bricks {
		if root, err := s.root(spec); err == nil { // check has seen them all
			roots = append(roots, root)
		}
	}
	return roots
}

// peer finds one by what Gluster or the settings call it.
func (s *Settings) peer(host string) (Peer, bool) {
	i := slices.IndexFunc(s.Peers, func(p Peer) bool { return host == p.Name || host == p.Address })
	if i < 0 {
		return Peer{}, false
	}
	return s.Peers[i], true
}

func (s *Settings) commandTime() time.Duration { return time.Duration(s.CommandSeconds) * time.Second }
