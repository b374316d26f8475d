package csi

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"time"

	"github.com/musterdr/muster/providers/fault"
)

// Schema is the JSON Schema of the settings.
//
//go:embed settings.schema.json
var Schema []byte

// Settings are what a document's storage entry says for this provider; docs/providers-csi.md explains them.
type Settings struct {
	KubeconfigFile string   `json:"kubeconfigFile"`
	Context        string   `json:"context"`
	Drivers        []string `json:"drivers"` // empty: every CSI driver of the cluster
	// FileDrivers keep files rather than blocks: NFS, CephFS, SMB. Their volumes cannot be read as a device.
	FileDrivers []string `json:"fileDrivers"`

	SnapshotClasses map[string]string `json:"snapshotClasses"` // by driver
	GroupClasses    map[string]string `json:"groupClasses"`    // by driver
	StorageClass    string            `json:"storageClass"`    // for new volumes whose own class is not here

	Namespace      string            `json:"namespace"`
	Image          string            `json:"image"`
	NodeSelector   map[string]string `json:"nodeSelector"`
	ServiceAccount string            `json:"serviceAccount"` // whose tokens the SnapshotMetadata service takes
	// MetadataAddresses replace the address of a driver's SnapshotMetadataService, which often is a name that
	// only pods resolve. The certificate is still checked against the name in that object.
	MetadataAddresses map[string]string `json:"metadataAddresses"`

	SnapshotTimeout Duration `json:"snapshotTimeout"` // until the storage has taken a snapshot
	VolumeTimeout   Duration `json:"volumeTimeout"`   // until a volume is there, with its content
	DeleteTimeout   Duration `json:"deleteTimeout"`
	MoverIdle       Duration `json:"moverIdle"` // how long a mover waits for the next read
}

// Duration is a time.Duration written as "90s".
type Duration time.Duration

// UnmarshalJSON reads "90s".
func (d *Duration) UnmarshalJSON(raw []byte) error {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return err
	}
	parsed, err := time.ParseDuration(text)
	*d = Duration(parsed)
	return err
}

func parseSettings(raw json.RawMessage) (Settings, error) {
	settings := Settings{
		Namespace: "muster-volumes", Image: "busybox:stable", ServiceAccount: "muster-volumes",
		SnapshotTimeout: Duration(10 * time.Minute), VolumeTimeout: Duration(15 * time.Minute),
		DeleteTimeout: Duration(5 * time.Minute), MoverIdle: Duration(time.Minute),
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return settings, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&settings); err != nil {
		return settings, fault.New("configure", fault.Invalid, "settings", err)
	}
	for _, d := range []Duration{settings.SnapshotTimeout, settings.VolumeTimeout, settings.DeleteTimeout, settings.MoverIdle} {
		if d <= 0 {
			return settings, fault.Newf("configure", fault.Invalid, "settings", "a timeout must be longer than nothing")
		}
	}
	return settings, nil
}
