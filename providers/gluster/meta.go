package gluster

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"maps"
	"regexp"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// metaOption is the volume option that holds meta. Gluster keeps options named user.* and does nothing
// with them.
const metaOption = "user.muster"

// meta is what Muster writes on what it makes.
type meta struct {
	Token  string            `json:"token"`
	Digest string            `json:"digest"` // of the request
	Tags   map[string]string `json:"tags,omitempty"`
}

// newMeta is that of a request; the tags are kept apart from what the digest covers only in name: they are
// part of the request.
func newMeta(token string, tags map[string]string, request any) (meta, error) {
	raw, err := json.Marshal(request)
	if err != nil {
		return meta{}, err
	}
	sum := sha256.Sum256(raw)
	return meta{Token: token, Digest: hex.EncodeToString(sum[:8]), Tags: tags}, nil
}

// maxMeta keeps to what a line of glusterd's own files may hold.
const maxMeta = 3000

func (m meta) encode(op string) (string, error) {
	raw, err := json.Marshal(m)
	if err != nil {
		return "", fault.New(op, fault.Internal, m.Token, err)
	}
	text := base64.RawURLEncoding.EncodeToString(raw)
	if len(text) > maxMeta {
		return "", fault.Newf(op, fault.Invalid, m.Token, "token and tags are too long for Gluster: %d bytes of at most %d", len(text), maxMeta)
	}
	return text, nil
}

// decodeMeta is nil when there is none, or none of ours.
func decodeMeta(text string) *meta {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) == 0 {
		return nil
	}
	var m meta
	if json.Unmarshal(raw, &m) != nil || m.Token == "" {
		return nil
	}
	return &m
}

func (m *meta) tags() map[string]string {
	if m == nil {
		return nil
	}
	tags := map[string]string{providers.TagToken: m.Token}
	maps.Copy(tags, m.Tags)
	return tags
}

// same tells whether m was made by the same request; fault.Exists when by another of the same token.
func (m *meta) same(op, subject string, other meta) error {
	if m.Token != other.Token || m.Digest != other.Digest {
		return fault.Newf(op, fault.Exists, subject, "the token was used for a different request")
	}
	return nil
}

// key is short, and derived from the token alone.
func key(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:6])
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9_-]+`)

// nameFor is the name of what a token makes; ours recognises it.
func nameFor(wanted, token string) string {
	wanted = notInNames.ReplaceAllString(wanted, "-")
	if wanted == "" || wanted[0] == '-' {
		wanted = "v" + wanted
	}
	return wanted[:min(len(wanted), 200)] + "-muster-" + key(token)
}

var ours = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]*-muster-[0-9a-f]{12}$`)

// matches reports whether tags hold what a query asks.
func matches(tags map[string]string, wanted map[string]string) bool {
	for name, value := range wanted {
		have, ok := tags[name]
		if !ok || value != "*" && value != have {
			return false
		}
	}
	return true
}
