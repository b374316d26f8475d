package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/musterdr/muster/providers/fault"
)

// Hidden stands in the place of a secret.
const Hidden = "***"

// minLine is the shortest line of a secret of several lines that is hidden by itself.
const minLine = 8

// Mask finds secrets in text, as they are and in the forms that programs commonly write them in:
// escaped for JSON or a URL, in base64, and line by line. A nil Mask knows no secret. It is safe for
// concurrent use.
type Mask struct {
	forms   [][]byte // longest first
	begins  [256]bool
	longest int
}

// NewMask makes a mask of the given secrets; those shorter than MinBytes are not hidden.
func NewMask(secrets ...string) *Mask {
	m := &Mask{}
	seen := map[string]bool{}
	for _, secret := range secrets {
		for _, form := range formsOf(secret) {
			if len(form) < MinBytes || seen[form] {
				continue
			}
			seen[form] = true
			m.forms = append(m.forms, []byte(form))
			m.begins[form[0]] = true
			m.longest = max(m.longest, len(form))
		}
	}
	slices.SortStableFunc(m.forms, func(a, b []byte) int { return len(b) - len(a) })
	return m
}

func formsOf(secret string) []string {
	raw := []byte(secret)
	forms := []string{
		secret, url.QueryEscape(secret), url.PathEscape(secret),
		base64.StdEncoding.EncodeToString(raw), base64.RawStdEncoding.EncodeToString(raw),
		base64.URLEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw),
		inJSON(secret, true), inJSON(secret, false),
	}
	lines := strings.Split(secret, "\n")
	for _, line := range lines {
		if line = strings.TrimSpace(line); len(lines) > 1 && len(line) >= minLine {
			forms = append(forms, line)
		}
	}
	return forms
}

func inJSON(secret string, escapeHTML bool) string {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(escapeHTML)
	_ = encoder.Encode(secret) // text always encodes
	return strings.Trim(strings.TrimSuffix(out.String(), "\n"), `"`)
}

// none reports whether there is nothing to hide.
func (m *Mask) none() bool { return m == nil || len(m.forms) == 0 }

// Longest is the length of the longest form of a secret, in bytes.
func (m *Mask) Longest() int {
	if m.none() {
		return 0
	}
	return m.longest
}

// Text returns the text with every secret hidden.
func (m *Mask) Text(text string) string {
	if m.none() {
		return text
	}
	var out bytes.Buffer
	w := m.Writer(&out)
	_, _ = w.Write([]byte(text)) // a buffer takes everything
	_ = w.Close()
	return out.String()
}

// Error returns an error of the same kind whose text hides every secret; err itself when its text
// holds none.
func (m *Mask) Error(err error) error {
	if err == nil || m.none() || m.Text(err.Error()) == err.Error() {
		return err
	}
	kind := fault.KindOf(err)
	known, isFault := err.(*fault.Error) //nolint:errorlint // a wrapped one has other text
	if isFault && known.Err != nil {
		return fault.New(m.Text(known.Op), kind, m.Text(known.Subject), errors.New(m.Text(known.Err.Error())))
	}
	op, cause, _ := strings.Cut(m.Text(err.Error()), ": ")
	return fault.New(op, kind, "", errors.New(cause))
}

// match returns the length of the longest secret that the text begins with, 0 when there is none.
func (m *Mask) match(text []byte) int {
	if !m.begins[text[0]] {
		return 0
	}
	for _, form := range m.forms {
		if bytes.HasPrefix(text, form) {
			return len(form)
		}
	}
	return 0
}

// Writer hides secrets in a stream, also where one arrives in pieces: it keeps back as many bytes as
// the longest secret has, until Close. It is not safe for concurrent use.
type Writer struct {
	mask *Mask
	to   io.Writer
	held []byte
}

// Writer returns a stream that hands on to another.
func (m *Mask) Writer(to io.Writer) *Writer { return &Writer{mask: m, to: to} }

// Write hands on what can't be the beginning of a secret.
func (w *Writer) Write(p []byte) (int, error) {
	if w.mask.none() {
		return w.to.Write(p)
	}
	w.held = append(w.held, p...)
	return len(p), w.pass(w.mask.longest - 1)
}

// Close hands on the rest. It does not close what it writes to.
func (w *Writer) Close() error { return w.pass(0) }

// pass hands on all but the last `keep` bytes, which may belong to a secret that is still to come.
func (w *Writer) pass(keep int) error {
	if len(w.held) <= keep {
		return nil
	}
	out := make([]byte, 0, len(w.held))
	at := 0
	for at < len(w.held)-keep {
		if n := w.mask.match(w.held[at:]); n > 0 {
			out, at = append(out, Hidden...), at+n
			continue
		}
		out, at = append(out, w.held[at]), at+1
	}
	w.held = append(w.held[:0], w.held[at:]...)
	_, err := w.to.Write(out)
	return err
}
