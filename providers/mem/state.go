package mem

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// state is everything but content. Its maps' keys are IDs.
type state struct {
	Fingerprint string               `json:"fingerprint"`
	Volumes     map[string]*volume   `json:"volumes"`
	Snapshots   map[string]*snapshot `json:"snapshots"`
	Mounts      map[string]*mount    `json:"mounts"`
	Marks       map[string]*mark     `json:"marks"`
	Machines    map[string]*machine  `json:"machines"`
}

// made says by which request a thing was made.
type made struct {
	Token  string `json:"token,omitempty"`
	Digest string `json:"digest,omitempty"` // of the request
}

type volume struct {
	made
	ID         string            `json:"id"`
	Content    providers.Content `json:"content"`
	Size       int64             `json:"size"`
	Image      string            `json:"image,omitempty"` // of blocks; empty: zeros
	Tree       string            `json:"tree,omitempty"`  // of files
	Zone       string            `json:"zone,omitempty"`
	Machine    string            `json:"machine,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Parameters map[string]string `json:"parameters,omitempty"`
	// Overwritten is the last Write into it.
	Overwritten made `json:"overwritten"`
}

type snapshot struct {
	made
	ID         string            `json:"id"`
	Volume     string            `json:"volume"`
	Position   int               `json:"position"` // in its request
	Content    providers.Content `json:"content"`
	Size       int64             `json:"size"`
	Image      string            `json:"image,omitempty"`
	Tree       string            `json:"tree,omitempty"`
	Mark       string            `json:"mark,omitempty"`
	Instant    time.Time         `json:"instant"`
	Region     string            `json:"region,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Parameters map[string]string `json:"parameters,omitempty"`
}

// mount is a folder that somebody uses.
type mount struct {
	made
	ID      string    `json:"id"`
	Tree    string    `json:"tree"`
	Mark    string    `json:"mark,omitempty"`
	Instant time.Time `json:"instant"`
}

// mark is a file volume as it was, folder by folder; it lives as long as the volume.
type mark struct {
	Volume  string            `json:"volume"`
	Folders map[string]string `json:"folders"` // path: digest of its entries
}

type machine struct {
	made
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Zone       string            `json:"zone,omitempty"`
	Root       string            `json:"root,omitempty"` // the volume made for it
	Tags       map[string]string `json:"tags,omitempty"`
	Parameters map[string]string `json:"parameters,omitempty"`
}

func decode(raw []byte, s *state) error {
	*s = state{
		Volumes: map[string]*volume{}, Snapshots: map[string]*snapshot{}, Mounts: map[string]*mount{},
		Marks: map[string]*mark{}, Machines: map[string]*machine{},
	}
	if len(raw) == 0 {
		s.Fingerprint = "mem-" + random()
		return nil
	}
	if err := json.NewDecoder(bytes.NewReader(raw)).Decode(s); err != nil {
		return fault.New("read state", fault.Corrupt, Name, err)
	}
	return nil
}

func random() string {
	raw := make([]byte, 8)
	_, _ = rand.Read(raw) // never fails
	return hex.EncodeToString(raw)
}

// by says which request it is. Tokens are compared with what was asked for.
func by(token string, request any) made {
	raw, err := json.Marshal(request)
	if err != nil {
		panic(err) // requests are plain data
	}
	sum := sha256.Sum256(raw)
	return made{Token: token, Digest: hex.EncodeToString(sum[:12])}
}

// same reports whether a thing was made by a request; one of the same token for something else is an error.
func (m made) same(op string, other made) (bool, error) {
	if m.Token == "" || m.Token != other.Token {
		return false, nil
	}
	if m.Digest != other.Digest {
		return false, fault.Newf(op, fault.Exists, m.Token, "the token was used for a different request: take another token")
	}
	return true, nil
}

// tagged are the tags of something new.
func tagged(tags map[string]string, token string) map[string]string {
	all := maps.Clone(tags)
	if all == nil {
		all = map[string]string{}
	}
	if token != "" {
		all[providers.TagToken] = token
	}
	return all
}

// ours reports whether Muster made it.
func ours(tags map[string]string) bool { return tags[providers.TagRun] != "" }

func matches(query map[string]string, tags map[string]string) bool {
	for key, want := range query {
		got, there := tags[key]
		if !there || want != "*" && want != got {
			return false
		}
	}
	return true
}

// sorted are a map's values by their keys.
func sorted[V any](all map[string]V) []V {
	values := make([]V, 0, len(all))
	for _, key := range slices.Sorted(maps.Keys(all)) {
		values = append(values, all[key])
	}
	return values
}

// A handle's State is "kind:ID".
func handle(kind, id string) providers.Handle {
	return providers.Handle{Provider: Name, Version: 1, State: []byte(kind + ":" + id)}
}

func identify(op, kind string, h providers.Handle) (string, error) {
	if h.Provider != Name || h.Version != 1 {
		return "", fault.Newf(op, fault.Invalid, h.Provider, "not a handle of this provider, or one of a newer version (%d)", h.Version)
	}
	id, found := strings.CutPrefix(string(h.State), kind+":")
	if !found || id == "" {
		return "", fault.Newf(op, fault.Invalid, string(h.State), "the handle does not name a %s", kind)
	}
	return id, nil
}

func gone(op, id string) error {
	return fault.Newf(op, fault.NotFound, id, "there is no such thing; somebody may have deleted it")
}
