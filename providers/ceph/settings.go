//go:build cgo && ceph

package ceph

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/musterdr/muster/providers/fault"
)

//go:embed schema.json
var schema []byte

// access says how a cluster is reached.
type access struct {
	ConfigFile  string   `json:"configFile"`
	MonHosts    []string `json:"monHosts"`
	User        string   `json:"user"`
	KeyringFile string   `json:"keyringFile"`
	Pools       []string `json:"pools"`
	// Namespaces of the pools; nil: all that there are.
	Namespaces []string `json:"namespaces"`
}

// settings are what Configure takes; schema.json describes them for people.
type settings struct {
	access
	Filesystems  []string          `json:"filesystems"`
	ClusterIDs   map[string]string `json:"clusterIDs"` // of ceph-csi, to the RADOS namespace
	Drivers      drivers           `json:"drivers"`
	Timeout      duration          `json:"timeout"`
	MountFolder  string            `json:"mountFolder"`
	VolumeFolder string            `json:"volumeFolder"`
	Targets      map[string]access `json:"targets"`
}

// drivers are the names of the CSI drivers.
type drivers struct {
	RBD    []string `json:"rbd"`
	CephFS []string `json:"cephfs"`
}

type duration time.Duration

// UnmarshalJSON reads "30s".
func (d *duration) UnmarshalJSON(raw []byte) error {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return err
	}
	value, err := time.ParseDuration(text)
	*d = duration(value)
	return err
}

func defaults() settings {
	return settings{
		access:       access{User: "admin"},
		Drivers:      drivers{RBD: []string{"rbd.csi.ceph.com", "openshift-storage.rbd.csi.ceph.com"}, CephFS: []string{"cephfs.csi.ceph.com", "openshift-storage.cephfs.csi.ceph.com"}},
		Timeout:      duration(30 * time.Second),
		MountFolder:  "/run/muster/ceph",
		VolumeFolder: "/volumes/muster",
	}
}

func parse(raw json.RawMessage) (settings, error) {
	s := defaults()
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		return s, invalid(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return s, invalid(errors.New("something follows the settings' object"))
	}
	return s, s.check()
}

func (s settings) check() error {
	if len(s.Pools) == 0 && len(s.Filesystems) == 0 {
		return invalid(errors.New("neither pools nor filesystems are named: nothing else is touched"))
	}
	if s.Timeout < duration(time.Second) || s.Timeout > duration(10*time.Minute) {
		return invalid(errors.New("timeout is between 1s and 10m"))
	}
	if !filepath.IsAbs(s.MountFolder) || !filepath.IsAbs(s.VolumeFolder) || s.VolumeFolder == "/" {
		return invalid(errors.New("mountFolder and volumeFolder are absolute paths, and volumeFolder is not /"))
	}
	if err := s.access.check("settings"); err != nil {
		return err
	}
	for name, target := range s.Targets {
		if len(target.Pools) == 0 {
			return invalid(fmt.Errorf("target %q names no pools", name))
		}
		if err := target.check("target " + name); err != nil {
			return err
		}
	}
	return nil
}

func (a access) check(what string) error {
	if a.ConfigFile == "" && len(a.MonHosts) == 0 {
		return invalid(fmt.Errorf("%s: configFile or monHosts is needed", what))
	}
	if strings.HasPrefix(a.User, "client.") {
		return invalid(fmt.Errorf("%s: user is %q without \"client.\"", what, strings.TrimPrefix(a.User, "client.")))
	}
	for _, path := range []string{a.ConfigFile, a.KeyringFile} {
		if path == "" {
			continue
		}
		if _, err := os.Stat(path); err != nil {
			return invalid(fmt.Errorf("%s: %w", what, err))
		}
	}
	if slices.Contains(a.Pools, "") {
		return invalid(fmt.Errorf("%s: a pool has no name", what))
	}
	return nil
}

func invalid(err error) error { return fault.New("configure", fault.Invalid, name, err) }
