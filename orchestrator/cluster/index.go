package cluster

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"k8s.io/apimachinery/pkg/api/validate/content"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// Entry is one line of objects.jsonl: see docs/formats/objects.md.
type Entry struct {
	Group           string        `json:"group"`
	Version         string        `json:"version"`
	Resource        string        `json:"resource"`
	Kind            string        `json:"kind"`
	Namespace       string        `json:"namespace,omitempty"`
	Name            string        `json:"name"`
	UID             string        `json:"uid,omitempty"`
	ResourceVersion string        `json:"resourceVersion"`
	Digest          string        `json:"digest"` // see Digest
	ID              repository.ID `json:"id"`     // of the YAML file's content
	Size            int64         `json:"size"`   // of the YAML file, bytes

	created time.Time // of the object; a capture gives it to the file
}

// Key names the entry's object.
func (e Entry) Key() Key {
	return Key{Group: e.Group, Resource: e.Resource, Namespace: e.Namespace, Name: e.Name}
}

// Path is where the object's YAML file stands in a recovery point.
func (e Entry) Path() string {
	if e.Namespace == "" {
		return "cluster/" + e.pathInTree()
	}
	return "namespaces/" + e.pathInTree()
}

// check makes sure that the entry's words can stand in a path as one segment each, as API servers want of
// names: a replay makes requests of them. Errors are Corrupt.
func (e Entry) check() error {
	fits := isSegment(e.Version) && isSegment(e.Resource) && isName(e.Name) && e.Kind != "" &&
		(e.Group == "" || isSegment(e.Group)) && (e.Namespace == "" || isSegment(e.Namespace))
	if fits {
		return nil
	}
	return fault.Newf("read index", fault.Corrupt, e.Path(), "no API server can hold what it names: verify the recovery point")
}

func isSegment(text string) bool { return isName(text) && !strings.Contains(text, "\t") }

// isName reports whether an object can have a name. Those of roles may hold almost anything; of control
// characters, which would rule the terminals that show them, a tab alone is let through.
func isName(text string) bool {
	ruling := func(r rune) bool { return unicode.IsControl(r) && r != '\t' }
	return text != "" && len(content.IsPathSegmentName(text)) == 0 && !strings.ContainsFunc(text, ruling)
}

// names makes sure that an object is the one that the entry speaks of: whoever wrote one could have
// written the other, and a replay goes by the entry. Errors are Corrupt.
func (e Entry) names(o Object) error {
	resource := Resource{Group: e.Group, Version: e.Version}
	if o.name() == e.Name && o.namespace() == e.Namespace && o.kind() == e.Kind && o.text("apiVersion") == resource.apiVersion() {
		return nil
	}
	return fault.Newf("read object", fault.Corrupt, e.Path(), "it holds another object than its index says: verify the recovery point")
}

func (e Entry) pathInTree() string {
	file := pathSegment(groupDir(e.Group)) + "/" + pathSegment(e.Kind) + "/" + fileName(e.Name)
	if e.Namespace == "" {
		return file
	}
	return pathSegment(e.Namespace) + "/" + file
}

const extension = ".yaml"

// fileName gives an object's file name. One that would be longer than the 255 bytes a file system
// takes is cut, and ends with "~" and the first 16 hexadecimal digits of the SHA-256 of the name;
// the whole name then stands in the file and in the index alone.
func fileName(name string) string {
	segment := pathSegment(name)
	if len(segment)+len(extension) <= 255 {
		return segment + extension
	}
	sum := sha256.Sum256([]byte(name))
	return strings.TrimRight(segment[:230], "%") + "~" + hex.EncodeToString(sum[:8]) + extension
}

// pathSegment escapes every byte that some file system refuses or treats specially as %XX.
// url.PathUnescape is the inverse.
func pathSegment(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if letter(c) || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' && i > 0 {
			b.WriteByte(c)
			continue
		}
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}

// WriteIndex writes entries as objects.jsonl; they must be sorted: see SortEntries.
func WriteIndex(w io.Writer, entries []Entry) error {
	buffered := bufio.NewWriterSize(w, 64<<10)
	encoder := json.NewEncoder(buffered)
	encoder.SetEscapeHTML(false)
	for i := range entries {
		if err := encoder.Encode(&entries[i]); err != nil {
			return err
		}
	}
	return buffered.Flush()
}

// ReadIndex reads objects.jsonl. A line that is no entry, or that is out of order, is Corrupt.
func ReadIndex(r io.Reader) ([]Entry, error) {
	var entries []Entry
	words := map[string]string{}
	decoder := json.NewDecoder(bufio.NewReaderSize(r, 64<<10))
	for {
		var entry Entry
		err := decoder.Decode(&entry)
		if err == io.EOF {
			return entries, nil
		}
		if err != nil {
			return nil, fault.New("read objects.jsonl", fault.Corrupt, fmt.Sprintf("line %d", len(entries)+1), err)
		}
		if n := len(entries); n > 0 && entries[n-1].Key().Compare(entry.Key()) >= 0 {
			return nil, fault.Newf("read objects.jsonl", fault.Corrupt, fmt.Sprintf("line %d", n+1), "it is out of order")
		}
		for _, word := range []*string{&entry.Group, &entry.Version, &entry.Resource, &entry.Kind, &entry.Namespace} {
			*word = same(words, *word)
		}
		entries = append(entries, entry)
	}
}

// same gives equal words the same memory: an index repeats a few in each of its lines.
func same(words map[string]string, word string) string {
	if known, found := words[word]; found {
		return known
	}
	words[word] = word
	return word
}

// SortEntries sorts entries by key.
func SortEntries(entries []Entry) {
	slices.SortFunc(entries, func(a, b Entry) int { return a.Key().Compare(b.Key()) })
}

// IndexDigest is the digest of a cut: SHA-256 over the lines "<key> <object digest>\n" in the order
// of the index.
func IndexDigest(entries []Entry) string {
	sum := sha256.New()
	for _, entry := range entries {
		addLine(sum, entry)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func addLine(sum hash.Hash, entry Entry) {
	// A hash never fails to write.
	_, _ = io.WriteString(sum, entry.Key().String()+" "+entry.Digest+"\n")
}

// summarize counts sorted entries by kind.
func summarize(entries []Entry) []repository.KindSummary {
	var kinds []repository.KindSummary
	for start := 0; start < len(entries); {
		end := start
		for end < len(entries) && entries[end].Group == entries[start].Group && entries[end].Resource == entries[start].Resource {
			end++
		}
		first := entries[start]
		kinds = append(kinds, repository.KindSummary{
			Group: first.Group, Version: first.Version, Resource: first.Resource, Kind: first.Kind,
			Count: end - start, Digest: IndexDigest(entries[start:end]),
		})
		start = end
	}
	return kinds
}
