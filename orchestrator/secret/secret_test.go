package secret

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"github.com/musterdr/muster/providers/fault"
)

func TestReferenceIsStrict(t *testing.T) {
	for text, want := range map[string]Reference{
		`{file: /run/token}`: {File: "/run/token"},
		`{env: TOKEN}`:       {Env: "TOKEN"},
	} {
		var got Reference
		if err := yaml.Unmarshal([]byte(text), &got); err != nil || got != want {
			t.Errorf("%s is %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{`swordfish`, `{}`, `[swordfish]`, `{file: a, env: b}`, `{file: ""}`, `{value: swordfish}`, `{file: [swordfish]}`, `{env: 3}`} {
		var got Reference
		err := yaml.Unmarshal([]byte(text), &got)
		if err == nil || strings.Contains(err.Error(), "swordfish") || !strings.Contains(err.Error(), "{file: PATH}") {
			t.Errorf("%s: error is %v", text, err)
		}
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string, mode os.FileMode) Reference {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return Reference{File: path}
	}
	t.Setenv("MUSTER_TEST_SECRET", "from the environment")
	for reference, want := range map[Reference]string{
		file("line", "swordfish\n", 0o600):     "swordfish",
		file("group", "two\nlines\r\n", 0o640): "two\nlines",
		{Env: "MUSTER_TEST_SECRET"}:            "from the environment",
	} {
		if got, err := reference.Read(); err != nil || got != want {
			t.Errorf("%s is %q, %v", reference, got, err)
		}
	}
	for _, c := range []struct {
		reference Reference
		kind      fault.Kind
		text      string
	}{
		{file("open", "swordfish", 0o604), fault.Denied, "chmod o= "},
		{file("empty", "\n", 0o600), fault.NotFound, "empty"},
		{file("short", "abc", 0o600), fault.Invalid, "too short"},
		{file("long", strings.Repeat("x", MaxBytes+1), 0o600), fault.Invalid, "longer"},
		{file("zero", "sword\x00fish", 0o600), fault.Invalid, "zero byte"},
		{Reference{File: dir}, fault.Invalid, "not a file"},
		{Reference{File: filepath.Join(dir, "none")}, fault.NotFound, "no such file"},
		{Reference{Env: "MUSTER_TEST_NONE"}, fault.NotFound, "not set"},
	} {
		_, err := c.reference.Read()
		if !fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "sword") {
			t.Errorf("%s: error is %v, want %s with %q", c.reference, err, c.kind, c.text)
		}
	}
}

func TestReadAllNamesEveryMissingOne(t *testing.T) {
	t.Setenv("MUSTER_TEST_SECRET", "swordfish")
	_, _, err := ReadAll(map[string]Reference{"A": {Env: "MUSTER_TEST_NONE"}, "B": {Env: "MUSTER_TEST_SECRET"}, "C": {File: "/none"}})
	if err == nil || !strings.Contains(err.Error(), "A: ") || !strings.Contains(err.Error(), "C: ") || strings.Contains(err.Error(), "B: ") {
		t.Errorf("error is %v", err)
	}
	values, mask, err := ReadAll(map[string]Reference{"B": {Env: "MUSTER_TEST_SECRET"}})
	if err != nil || values["B"] != "swordfish" || mask.Text("a swordfish") != "a ***" {
		t.Errorf("%v, %v", values, err)
	}
}

func TestMaskKnowsCommonForms(t *testing.T) {
	const secret = "pass\"word & <more>/+\nsecond line of it"
	mask := NewMask(secret, "swordfish", "swordfish-long")
	for _, form := range []string{
		secret, base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret)),
		`pass\"word & <more>/+\nsecond line of it`, `pass\"word \u0026 \u003cmore\u003e/+\nsecond line of it`,
		"pass%22word+%26+%3Cmore%3E%2F%2B%0Asecond+line+of+it", "second line of it", "swordfish", "swordfish-long",
	} {
		if got := mask.Text("a " + form + " b"); got != "a *** b" {
			t.Errorf("%q became %q", form, got)
		}
	}
	if got := mask.Text("swordfis"); got != "swordfis" {
		t.Errorf("a beginning became %q", got)
	}
	var none *Mask
	if got := none.Text("text"); got != "text" {
		t.Errorf("no mask: %q", got)
	}
}

func TestMaskOfErrors(t *testing.T) {
	mask := NewMask("swordfish")
	plain := fault.Newf("call", fault.Denied, "host", "refused")
	if got := mask.Error(plain); !errors.Is(got, plain) {
		t.Errorf("an error without secrets became %v", got)
	}
	for text, err := range map[string]error{
		"call host: refused ***":         fault.Newf("call", fault.Denied, "host", "refused swordfish"),
		"call ***: denied":               fault.New("call", fault.Denied, "swordfish", nil),
		"step x: call host: refused ***": fmt.Errorf("step x: %w", fault.Newf("call", fault.Denied, "host", "refused swordfish")),
	} {
		got := mask.Error(err)
		if !fault.Is(got, fault.Denied) || got.Error() != text {
			t.Errorf("%v became %v of kind %s, want %s", err, got, fault.KindOf(got), text)
		}
		for e := got; e != nil; e = errors.Unwrap(e) {
			if strings.Contains(e.Error(), "swordfish") {
				t.Errorf("the chain of %v holds %v", got, e)
			}
		}
	}
}

// TestStreamsHideAsTextDoes: in whatever pieces a text comes, the stream writes what the whole gives.
func TestStreamsHideAsTextDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		letters := rapid.StringOfN(rapid.RuneFrom([]rune("ab")), 4, 7, -1)
		secrets := rapid.SliceOfN(letters, 1, 3).Draw(t, "secrets")
		pieces := rapid.SliceOf(rapid.StringOfN(rapid.RuneFrom([]rune("abc")), 0, 9, -1)).Draw(t, "pieces")
		mask := NewMask(secrets...)
		var out bytes.Buffer
		w := mask.Writer(&out)
		for _, piece := range pieces {
			if _, err := w.Write([]byte(piece)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		whole := strings.Join(pieces, "")
		if want := mask.Text(whole); out.String() != want {
			t.Fatalf("%q in pieces gives %q, as a whole %q", whole, out.String(), want)
		}
		for _, secret := range secrets {
			if strings.Contains(out.String(), secret) {
				t.Fatalf("%q is in %q", secret, out.String())
			}
		}
	})
}
