package aws

import (
	"encoding/json"
	"strings"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

const handleVersion = 1

// identity is a handle's state.
type identity struct {
	ID      string `json:"id"`
	Region  string `json:"region"`
	Account string `json:"account"`
	Role    string `json:"role,omitempty"` // with which it is reached: a copy in another account
}

// The prefixes of IDs.
const (
	volumeID   = "vol-"
	snapshotID = "snap-"
	machineID  = "i-"
)

func (l *place) handle(id string) providers.Handle {
	state, err := json.Marshal(identity{ID: id, Region: l.region, Account: l.account, Role: l.role})
	if err != nil {
		return providers.Handle{} // strings alone are always encoded
	}
	return providers.Handle{Provider: name, Version: handleVersion, State: state}
}

// open reads a handle of something whose ID has the prefix.
func open(op string, h providers.Handle, prefix string) (identity, error) {
	var id identity
	if h.Provider != name {
		return id, fault.Newf(op, fault.Invalid, h.Provider, "this handle is of another provider")
	}
	if h.Version != handleVersion {
		return id, fault.Newf(op, fault.Invalid, name, "handle of version %d, and this program knows %d: update it", h.Version, handleVersion)
	}
	if err := json.Unmarshal(h.State, &id); err != nil {
		return id, fault.New(op, fault.Invalid, name, err)
	}
	if !strings.HasPrefix(id.ID, prefix) || id.Region == "" {
		return id, fault.Newf(op, fault.Invalid, id.ID, "this handle names something else than %s…", prefix)
	}
	return id, nil
}
