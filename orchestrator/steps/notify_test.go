package steps

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/providers/fault"
)

func TestNotify(t *testing.T) {
	s := newSite(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) })
	w := newWatched()
	w.Now = func() time.Time { return time.Unix(1767366245, 0) }
	step := settings[Notify](t, `{url: "`+s.URL+`/hook", text: "the drill <is> over", severity: warning, caFile: `+s.ca+`, signWith: {file: `+secretFile(t, planted)+`}}`)
	r := do[notifyReceipt](t, step, w.Run)
	got, body := s.last(t)
	if want := `{"run":"run-1","plan":"nightly","step":"own","text":"the drill \u003cis\u003e over","severity":"warning","time":"2026-01-02T15:04:05Z"}`; body != want {
		t.Errorf("body is %s", body)
	}
	// As docs/steps.md tells receivers to do it.
	mac := hmac.New(sha256.New, []byte(planted))
	mac.Write([]byte(got.Header.Get("X-Muster-Timestamp") + "." + body))
	if got.Header.Get("X-Muster-Signature") != "v1="+hex.EncodeToString(mac.Sum(nil)) || got.Header.Get("X-Muster-Timestamp") != "1767366245" ||
		got.Header.Get("Idempotency-Key") != token(w.Run, forDoing) || got.Method != "POST" {
		t.Errorf("asked %s %v", got.Method, got.Header)
	}
	if r.Status != 202 || !strings.HasPrefix(r.Host, "127.0.0.1:") || strings.Contains(mustJSON(t, r), "hook") {
		t.Errorf("%+v", r)
	}
	if again, err := step.Do(t.Context(), w.Run, json.RawMessage(`{"status":1}`)); err != nil || string(again) != `{"status":1}` || s.count() != 1 {
		t.Errorf("with a receipt: %s, %v, asked %d times", again, err, s.count())
	}
}

func TestNotifySlack(t *testing.T) {
	s := newSite(t, func(http.ResponseWriter, *http.Request) {})
	do[notifyReceipt](t, settings[Notify](t, `{url: "`+s.URL+`/hook", format: slack, text: "<!channel> a & b", severity: error, caFile: `+s.ca+`}`), newWatched().Run)
	var content map[string]string
	_, body := s.last(t)
	if err := json.Unmarshal([]byte(body), &content); err != nil || len(content) != 1 || content["text"] != "ERROR: &lt;!channel&gt; a &amp; b (run run-1, plan nightly)" {
		t.Errorf("body is %s, %v", body, err)
	}
}

// TestNotifyHidesItsURL: a receiver that repeats the URL in any form, and one that does not answer.
func TestNotifyHidesItsURL(t *testing.T) {
	answer := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "cannot POST "+r.URL.String()+" or "+r.URL.Path+" of "+planted)
	}
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) { answer(w, r) })
	step := settings[Notify](t, `{urlFrom: {file: `+secretFile(t, s.URL+"/services/T000/"+planted+"?key="+planted)+`}, text: hello, caFile: `+s.ca+`}`)
	w := newWatched()
	_, err := step.Do(t.Context(), w.Run, nil)
	wantFault(t, err, fault.NotFound, "notify 127.0.0.1:")
	noSecret(t, "error", err.Error())
	answer = func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/services/T000/"+planted+"/elsewhere", http.StatusFound)
	}
	_, err = step.Do(t.Context(), w.Run, nil)
	wantFault(t, err, fault.Invalid, "it answered 302")
	noSecret(t, "error", err.Error())
	answer = func(http.ResponseWriter, *http.Request) {}
	noSecret(t, "receipt", mustJSON(t, do[notifyReceipt](t, step, w.Run)))
	s.Close()
	_, err = step.Do(t.Context(), w.Run, nil)
	wantFault(t, err, fault.Transient, "connection refused")
	noSecret(t, "error", err.Error())
	noSecret(t, "log", w.said())
}

func TestNotifyCheck(t *testing.T) {
	for _, c := range []struct {
		with, text string
		kind       fault.Kind
	}{
		{`{text: a}`, "exactly one of url and urlFrom", fault.Invalid},
		{`{text: a, url: "https://h", urlFrom: {env: HOME}}`, "exactly one of url and urlFrom", fault.Invalid},
		{`{url: "https://h"}`, "text", fault.Invalid},
		{`{text: a, url: "https://h", format: telegram}`, "muster or slack", fault.Invalid},
		{`{text: a, url: "https://h", severity: grave}`, "info, warning or error", fault.Invalid},
		{`{text: a, url: "https://h", signWith: {env: MUSTER_TEST_NONE}}`, "not set", fault.NotFound},
		{`{text: a, urlFrom: {env: MUSTER_TEST_NONE}}`, "not set", fault.NotFound},
		{`{text: a, urlFrom: {file: ` + secretFile(t, "not a URL "+planted) + `}}`, "https://host", fault.Invalid},
		{`{text: a, urlFrom: {file: ` + secretFile(t, "http://host/"+planted) + `}}`, "must not travel over http", fault.Invalid},
		{`{text: a, url: "https://h", caFile: /none}`, "no such file", fault.NotFound},
	} {
		err := settings[Notify](t, c.with).Check(t.Context(), newWatched().Run)
		if wantFault(t, err, c.kind, c.text); err != nil {
			noSecret(t, "error", err.Error())
		}
	}
}
