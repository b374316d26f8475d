package csi

import (
	"encoding/json"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Name is the provider's name in handles and documents.
const Name = "csi"

const handleVersion = 1

// volumeState is what a volume's handle holds: enough to mount it in another cluster.
type volumeState struct {
	Source      corev1.CSIPersistentVolumeSource    `json:"source"`
	Mode        corev1.PersistentVolumeMode         `json:"mode"`
	AccessModes []corev1.PersistentVolumeAccessMode `json:"accessModes,omitempty"`
	Size        int64                               `json:"size"`
	Class       string                              `json:"class,omitempty"`
	Affinity    *corev1.VolumeNodeAffinity          `json:"affinity,omitempty"`
}

func (v volumeState) id() string { return volumeID(v.Source.Driver, v.Source.VolumeHandle) }

func volumeID(driver, handle string) string { return driver + "/" + handle }

// snapshotState is what a snapshot's handle holds: enough to import it into another cluster.
type snapshotState struct {
	Driver     string                      `json:"driver"`
	Snapshot   string                      `json:"snapshot"` // the CSI snapshot handle
	Volume     string                      `json:"volume"`   // the CSI volume handle
	Content    string                      `json:"content"`  // names where it was taken
	Namespace  string                      `json:"namespace"`
	Name       string                      `json:"name"`
	Group      string                      `json:"group,omitempty"`
	Mode       corev1.PersistentVolumeMode `json:"mode"`
	Size       int64                       `json:"size"`
	Instant    time.Time                   `json:"instant"`
	Class      string                      `json:"class,omitempty"` // the volume's storage class
	Files      bool                        `json:"files,omitempty"`
	Parameters map[string]string           `json:"parameters,omitempty"`
}

func (s snapshotState) id() string { return s.Driver + "/" + s.Snapshot }

func encodeHandle(op string, state any) (providers.Handle, error) {
	raw, err := json.Marshal(state)
	if err != nil {
		return providers.Handle{}, fault.New(op, fault.Internal, "", err)
	}
	if len(raw) > providers.MaxHandle {
		return providers.Handle{}, fault.Newf(op, fault.Unsupported, "", "the volume's attributes take %d bytes; a handle has room for %d", len(raw), providers.MaxHandle)
	}
	return providers.Handle{Provider: Name, Version: handleVersion, State: raw}, nil
}

func decodeHandle(op string, handle providers.Handle, state any) error {
	if handle.Provider != Name {
		return fault.Newf(op, fault.Invalid, handle.Provider, "this is a handle of another provider")
	}
	if handle.Version != handleVersion {
		return fault.Newf(op, fault.Invalid, Name, "handle version %d is not known here; use the Muster that made it, or a newer one", handle.Version)
	}
	if err := json.Unmarshal(handle.State, state); err != nil {
		return fault.New(op, fault.Invalid, "handle", err)
	}
	return nil
}

func decodeVolume(op string, handle providers.Handle) (volumeState, error) {
	var state volumeState
	if err := decodeHandle(op, handle, &state); err != nil {
		return state, err
	}
	if state.Source.Driver == "" || state.Source.VolumeHandle == "" {
		return state, fault.Newf(op, fault.Invalid, "handle", "it does not name a volume")
	}
	return state, nil
}

func decodeSnapshot(op string, handle providers.Handle) (snapshotState, error) {
	var state snapshotState
	if err := decodeHandle(op, handle, &state); err != nil {
		return state, err
	}
	if state.Driver == "" || state.Snapshot == "" {
		return state, fault.Newf(op, fault.Invalid, "handle", "it does not name a snapshot")
	}
	return state, nil
}
