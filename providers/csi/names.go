package csi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/musterdr/muster/providers"
)

// Labels and annotations of what this provider makes. Tags stand in the record: their values need not be
// valid labels.
const (
	labelManaged = "app.kubernetes.io/managed-by"
	labelKind    = "muster.dev/kind"
	labelToken   = "muster.dev/token-digest"
	labelGroup   = "muster.dev/group"

	annotationRecord  = "muster.dev/record"
	annotationTouch   = "muster.dev/touch"
	annotationDeleted = "muster.dev/deleted" // a member of a group that waits for the others

	managedBy = "muster"
)

// The kinds of things in labelKind.
const (
	kindSnapshot = "snapshot"
	kindGroup    = "group-snapshot"
	kindImport   = "import"
	kindVolume   = "volume"
	kindAlias    = "alias"
	kindMover    = "mover"
)

// digest is short enough for a label and a name, and long enough never to meet another.
func digest(parts ...string) string {
	h := sha256.New()
	for _, part := range parts {
		h.Write([]byte(strconv.Itoa(len(part)) + ":" + part))
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// nameOf derives an object's name from what it is for, never from the attempt.
func nameOf(kind string, parts ...string) string {
	return "muster-" + digest(append([]string{kind}, parts...)...)
}

func labelsOf(kind, token string) map[string]string {
	out := map[string]string{labelManaged: managedBy, labelKind: kind}
	if token != "" {
		out[labelToken] = digest(token)
	}
	return out
}

func selectorOf(kind, token string) metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: labels.Set(labelsOf(kind, token)).String()}
}

// record is what an object of ours remembers, in an annotation.
type record struct {
	Request    string            `json:"request"` // digest of the request: a token serves one request
	Token      string            `json:"token"`
	Index      int               `json:"index,omitempty"`
	Count      int               `json:"count,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Volume     *volumeState      `json:"volume,omitempty"` // what the snapshot is of
	Group      string            `json:"group,omitempty"`  // name of the VolumeGroupSnapshot
	Namespace  string            `json:"namespace,omitempty"`
	Incomplete bool              `json:"incomplete,omitempty"` // a volume that is still being filled
}

func (r record) encode() string {
	raw, err := json.Marshal(r)
	if err != nil { // strings, numbers and maps of strings always encode
		panic(err)
	}
	return string(raw)
}

// recordOf is an object's record; ok tells whether it has a readable one.
func recordOf(object metav1.Object) (r record, ok bool) {
	raw, has := object.GetAnnotations()[annotationRecord]
	return r, has && json.Unmarshal([]byte(raw), &r) == nil
}

// tagsOf are a request's tags with the token.
func tagsOf(tags map[string]string, token string) map[string]string {
	out := map[string]string{providers.TagToken: token}
	for key, value := range tags {
		out[key] = value
	}
	return out
}

// matches tells whether tags satisfy a query's.
func matches(tags, wanted map[string]string) bool {
	for key, value := range wanted {
		if have, ok := tags[key]; !ok || value != "*" && have != value {
			return false
		}
	}
	return true
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

func quantityText(n int64) string { return strconv.FormatInt(n, 10) }
