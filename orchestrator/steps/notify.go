package steps

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/secret"
	"github.com/musterdr/muster/providers/fault"
)

// Notify tells a webhook something. A message may come more than once, when a process or a connection
// dies before its receipt is kept: its Idempotency-Key is the same then.
type Notify struct {
	URL string `yaml:"url,omitempty"`
	// URLFrom says where the URL is, when it is a secret, as Slack's are.
	URLFrom  *secret.Reference `yaml:"urlFrom,omitempty"`
	Format   string            `yaml:"format,omitempty"` // muster (default) or slack
	Text     string            `yaml:"text"`
	Severity string            `yaml:"severity,omitempty"` // info (default), warning or error
	// SignWith is the key of the signature in X-Muster-Signature; docs/steps.md tells how to verify it.
	SignWith *secret.Reference `yaml:"signWith,omitempty"`
	CAFile   string            `yaml:"caFile,omitempty"`
}

const (
	formatMuster   = "muster"
	formatSlack    = "slack"
	maxMessage     = 16 << 10
	timestampField = "X-Muster-Timestamp"
	signatureField = "X-Muster-Signature"
)

// notifyReceipt is what notify leaves.
type notifyReceipt struct {
	Host   string    `json:"host"`
	Status int       `json:"status"`
	Sent   time.Time `json:"sent"`
	Token  string    `json:"token"` // its Idempotency-Key
}

// message is the body of format muster.
type message struct {
	Run      string    `json:"run"`
	Plan     string    `json:"plan"`
	Step     string    `json:"step"`
	Text     string    `json:"text"`
	Severity string    `json:"severity"`
	Time     time.Time `json:"time"`
}

// Check looks for the secrets and files; it sends nothing.
func (s *Notify) Check(_ context.Context, run *orchestrator.Run) error {
	if (s.URL != "") == (s.URLFrom != nil) {
		return invalid("url", "want exactly one of url and urlFrom")
	}
	if s.Text == "" || len(s.Text) > maxMessage {
		return invalid("text", "want 1 to %d bytes", maxMessage)
	}
	if !slices.Contains([]string{"", formatMuster, formatSlack}, s.Format) {
		return invalid("format", "%q: want %s or %s", s.Format, formatMuster, formatSlack)
	}
	if !slices.Contains([]string{"", "info", "warning", "error"}, s.Severity) {
		return invalid("severity", "%q: want info, warning or error", s.Severity)
	}
	if s.CAFile != "" {
		if _, err := authorities(s.CAFile); err != nil {
			return err
		}
	}
	_, err := s.call(run)
	return err
}

// address reads the URL. Its host is all of it that may be shown.
func (s *Notify) address() (text, host string, mask *secret.Mask, err error) {
	text = s.URL
	if s.URLFrom != nil {
		if text, err = s.URLFrom.Read(); err != nil {
			return "", "", nil, err
		}
	}
	if err := checkURL("url", text, s.URLFrom != nil); err != nil {
		return "", "", nil, err
	}
	u, err := url.Parse(text)
	if err != nil {
		return "", "", nil, invalid("url", "want https://host/path")
	}
	return text, u.Host, secret.NewMask(secretParts(u)...), nil
}

// secretParts are what a receiver may repeat of a URL: the whole, its path, and each long part of it.
func secretParts(u *url.URL) []string {
	const long = 8
	parts := []string{u.String(), u.RequestURI(), u.Path, u.RawQuery, u.Fragment}
	for _, part := range strings.FieldsFunc(u.Path+"&"+u.RawQuery, func(r rune) bool { return strings.ContainsRune("/&=", r) }) {
		if len(part) >= long {
			parts = append(parts, part)
		}
	}
	return parts
}

// call prepares the request.
func (s *Notify) call(run *orchestrator.Run) (call, error) {
	address, host, mask, err := s.address()
	if err != nil {
		return call{}, err
	}
	body, err := s.body(run)
	if err != nil {
		return call{}, err
	}
	c := call{
		op: "notify", method: http.MethodPost, url: address, subject: host, body: body, caFile: s.CAFile, maxBody: 4 << 10, mask: mask,
		header: http.Header{"User-Agent": {"muster"}, "Content-Type": {"application/json"}, idempotency: {token(run, forDoing)}},
	}
	if s.SignWith == nil {
		return c, nil
	}
	key, err := s.SignWith.Read()
	if err != nil {
		return call{}, err
	}
	timestamp := strconv.FormatInt(run.Now().Unix(), 10)
	c.header.Set(timestampField, timestamp)
	c.header.Set(signatureField, signature(key, timestamp, body))
	return c, nil
}

// signature covers the timestamp too, so that a receiver can refuse a message that somebody kept.
func signature(key, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(key))
	fmt.Fprintf(mac, "%s.%s", timestamp, body)
	return "v1=" + hex.EncodeToString(mac.Sum(nil))
}

func (s *Notify) severity() string {
	if s.Severity == "" {
		return "info"
	}
	return s.Severity
}

func (s *Notify) body(run *orchestrator.Run) ([]byte, error) {
	var content any = message{
		Run: run.ID, Plan: run.Plan, Step: run.Step, Text: s.Text, Severity: s.severity(), Time: run.Now().UTC(),
	}
	if s.Format == formatSlack {
		content = map[string]string{"text": s.slackText(run)}
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return nil, fault.New("notify", fault.Internal, run.Step, err)
	}
	return raw, nil
}

// slackText escapes what Slack would read as a mention or a link.
func (s *Notify) slackText(run *orchestrator.Run) string {
	text := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s.Text)
	if s.severity() != "info" {
		text = strings.ToUpper(s.severity()) + ": " + text
	}
	return fmt.Sprintf("%s (run %s, plan %s)", text, run.ID, run.Plan)
}

// Do sends the message, unless a receipt says that it was sent.
func (s *Notify) Do(ctx context.Context, run *orchestrator.Run, prior orchestrator.Receipt) (orchestrator.Receipt, error) {
	if len(prior) > 0 {
		return prior, nil
	}
	c, err := s.call(run)
	if err != nil {
		return nil, err
	}
	a, err := c.send(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.judge(ctx, a, nil); err != nil {
		return nil, err
	}
	return json.Marshal(notifyReceipt{Host: c.subject, Status: a.status, Sent: run.Now().UTC(), Token: token(run, forDoing)})
}

// Verify does nothing: the receiver has said that it took the message.
func (s *Notify) Verify(context.Context, *orchestrator.Run, orchestrator.Receipt) error { return nil }

// Undo does nothing: what was said stays said.
func (s *Notify) Undo(context.Context, *orchestrator.Run, orchestrator.Receipt) error { return nil }
