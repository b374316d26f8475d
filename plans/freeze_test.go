package plans

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/musterdr/muster/providers/fault"
)

func frozenFull(t *testing.T) (*Checked, []byte, string) {
	t.Helper()
	set := mustRead(t, "testdata/inventory.yaml", "testdata/show/full.yaml")
	checked, err := Check(set, "checked", vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	content, digest, err := Freeze(checked)
	if err != nil {
		t.Fatal(err)
	}
	return checked, content, digest
}

func TestThawGivesWhatWasFrozen(t *testing.T) {
	checked, _, _ := frozenFull(t)
	checked.Plan.Spec.Steps[3].With["big"] = int64(9007199254740993)
	checked.Plan.Spec.Steps[3].With["share"] = 0.25
	content, digest, err := Freeze(checked)
	if err != nil {
		t.Fatal(err)
	}
	thawed, err := Thaw(content)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(thawed, checked) {
		t.Errorf("got  %+v\nwant %+v", thawed.Plan, checked.Plan)
	}
	again, sameDigest, err := Freeze(thawed)
	if err != nil || !bytes.Equal(again, content) || sameDigest != digest {
		t.Errorf("freezing again gives other bytes: %v\n%s\n%s", err, again, content)
	}
}

func TestDigestFollowsContent(t *testing.T) {
	checked, _, before := frozenFull(t)
	if len(before) != 64 || strings.ToLower(before) != before {
		t.Errorf("%q is not SHA-256 in lower-case hexadecimal", before)
	}
	checked.Plan.Spec.Steps[0].Timeout++
	_, after, err := Freeze(checked)
	if err != nil || after == before {
		t.Errorf("another timeout has the same digest: %v", err)
	}
}

func TestThawRefuses(t *testing.T) {
	for content, want := range map[string]struct {
		kind fault.Kind
		text string
	}{
		``:                                {fault.Corrupt, "unexpected end"},
		`{"version":3,"plan":{},"new":1}`: {fault.Unsupported, "format 3"},
		`{"version":2,"plan":{},"new":1}`: {fault.Corrupt, "unknown field"},
		`{"version":1,"plan":{},"new":1}`: {fault.Corrupt, "unknown field"},
		`{"version":1}`:                   {fault.Corrupt, "no plan"},
		`{"plan":{}}`:                     {fault.Corrupt, "no plan"},
		`{"version":1,"plan":{}} {}`:      {fault.Corrupt, "after top-level value"},
		`{"version":1,"plan":{"spec":{"steps":[{"id":"a","needs":["a"]}]}}}`: {fault.Corrupt, "a needs a"},
	} {
		_, err := Thaw([]byte(content))
		if !fault.Is(err, want.kind) || !strings.Contains(err.Error(), want.text) {
			t.Errorf("%s: error is %v, want %s with %q", content, err, want.kind, want.text)
		}
	}
}
