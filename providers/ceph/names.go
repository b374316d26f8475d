//go:build cgo && ceph

package ceph

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"regexp"
	"strings"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// name is the provider's.
const name = "ceph"

// prefix begins the names of what Muster makes.
const prefix = "muster-"

// handleVersion is that of the states below.
const handleVersion = 1

// place names an image, or a folder of a CephFS. ID is the image's, which no other image ever has.
type place struct {
	FSID      string `json:"fsid"`
	Pool      string `json:"pool,omitempty"`
	Namespace string `json:"ns,omitempty"`
	Image     string `json:"image,omitempty"`
	ID        string `json:"id,omitempty"`
	FS        string `json:"fs,omitempty"`
	Path      string `json:"path,omitempty"`
}

// String is the volume's ID: pool[/namespace]/image as rbd writes it, or filesystem:path.
func (p place) String() string {
	if p.FS != "" {
		return p.FS + ":" + p.Path
	}
	return p.pool() + "/" + p.Image
}

// pool is the pool with its namespace.
func (p place) pool() string {
	if p.Namespace == "" {
		return p.Pool
	}
	return p.Pool + "/" + p.Namespace
}

// moment names a snapshot of a place. ID is 0 for folders: their snapshots are known by inode.
type moment struct {
	place
	Snap   string `json:"snap"`
	SnapID uint64 `json:"snapID"`
}

func (m moment) String() string { return m.place.String() + "@" + m.Snap }

// handleOf makes the handle of a place, a moment or a mount.
func handleOf(state any) providers.Handle {
	raw, err := json.Marshal(state)
	if err != nil {
		panic(err) // strings and numbers
	}
	return providers.Handle{Provider: name, Version: handleVersion, State: raw}
}

func read(op string, h providers.Handle, into any) error {
	if h.IsZero() {
		return fault.Newf(op, fault.Invalid, "", "the handle is empty")
	}
	if h.Provider != name {
		return fault.Newf(op, fault.Invalid, "", "the handle is of provider %q, not of %q", h.Provider, name)
	}
	if h.Version != handleVersion {
		return fault.Newf(op, fault.Invalid, "", "the handle has version %d; this provider reads version %d: a newer one made it", h.Version, handleVersion)
	}
	if err := json.Unmarshal(h.State, into); err != nil {
		return fault.New(op, fault.Invalid, "", err)
	}
	return nil
}

func readVolume(op string, h providers.Handle) (place, error) {
	var at place
	if err := read(op, h, &at); err != nil {
		return at, err
	}
	if at.Image == "" && at.FS == "" {
		return at, fault.Newf(op, fault.Invalid, "", "the handle names no volume")
	}
	return at, nil
}

func readSnapshot(op string, h providers.Handle) (moment, error) {
	var at moment
	if err := read(op, h, &at); err != nil {
		return at, err
	}
	if at.Snap == "" || at.Image == "" && at.FS == "" {
		return at, fault.Newf(op, fault.Invalid, "", "the handle names no snapshot")
	}
	return at, nil
}

// nameOf derives a name from a token; wish stands before it when there is one.
func nameOf(wish, token string) string {
	sum := sha256.Sum256([]byte(token))
	derived := prefix + hex.EncodeToString(sum[:10])
	if wish == "" {
		return derived
	}
	return wish + "-" + derived
}

// ownName are names that nobody else makes: they hold 80 bits of a token's digest.
var ownName = regexp.MustCompile(`(^|-)` + prefix + `[0-9a-f]{20}$`)

func checkToken(op, token string) error {
	if token == "" {
		return fault.Newf(op, fault.Invalid, "", "a token is needed: a repeat finds by it what the first call made")
	}
	return nil
}

// checkName refuses names that Ceph would read as something else.
func checkName(op, wish string) error {
	if strings.ContainsAny(wish, "/@:\x00") || len(wish) > 96 || strings.HasPrefix(wish, ".") {
		return fault.Newf(op, fault.Invalid, wish, "a name has at most 96 characters, none of them '/', '@' or ':', and does not begin with '.'")
	}
	return nil
}

// digest tells one request from another.
func digest(request any) string {
	raw, err := json.Marshal(request)
	if err != nil {
		panic(err) // plain data
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:16])
}

// matches reports whether tags and the volume's ID are those that the query chooses.
func matches(q providers.Query, tags map[string]string, volumeID string) bool {
	if q.Machine != "" {
		return false
	}
	for key, want := range q.Tags {
		if got, there := tags[key]; !there || want != "*" && got != want {
			return false
		}
	}
	for _, id := range q.IDs {
		if id == volumeID {
			return true
		}
	}
	return len(q.IDs) == 0
}
