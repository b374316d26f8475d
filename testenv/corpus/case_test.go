package corpus

import (
	"slices"
	"strings"
	"testing"
)

func allCases(t *testing.T) []Case {
	t.Helper()
	cases, err := Cases()
	if err != nil {
		t.Fatal(err)
	}
	return cases
}

// TestCasesDoNotMeet holds what lets all cases live in one cluster: their names are in what they make.
func TestCasesDoNotMeet(t *testing.T) {
	cases := allCases(t)
	if len(cases) < 60 {
		t.Fatalf("%d cases", len(cases))
	}
	owners := map[Ref]string{}
	for _, c := range cases {
		if len(c.Source) == 0 {
			t.Errorf("%s has no source", c.Name)
		}
		for _, o := range slices.Concat(c.Source, c.Target) {
			ref := o.ref()
			if !carries(ref, c.Name) {
				t.Errorf("%s: %s does not carry the case's name", c.Name, ref)
			}
			if ref.Namespace == "" && clusterScoped(ref.Kind) && owners[ref] != "" && owners[ref] != c.Name {
				t.Errorf("%s and %s both have %s", c.Name, owners[ref], ref)
			}
			owners[ref] = c.Name
		}
		for _, other := range cases {
			if c.Replay != nil && strings.HasPrefix(other.Name, c.Name+"-") {
				t.Errorf("the replay of %s takes namespaces of %s", c.Name, other.Name)
			}
		}
	}
}

// carries reports what is in a namespace of the case, or has the case's name in its own. OpenShift gives
// the one OAuth object its name.
func carries(ref Ref, name string) bool {
	if ref.Namespace != "" && ref.Namespace != "default" {
		return ref.Namespace == name || strings.HasPrefix(ref.Namespace, name+"-")
	}
	own := ref.Namespace == "" && !clusterScoped(ref.Kind)
	return own || ref.Kind == "OAuth" || strings.Contains(ref.Name, name)
}

func clusterScoped(kind string) bool {
	return strings.HasPrefix(kind, "Cluster") && kind != "ClusterServiceVersion" || strings.HasSuffix(kind, "Class") ||
		strings.HasSuffix(kind, "WebhookConfiguration") || slices.Contains([]string{
		"Namespace", "Node", "CSINode", "VolumeAttachment", "CertificateSigningRequest", "FlowSchema", "PriorityLevelConfiguration",
		"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "PersistentVolume", "CustomResourceDefinition", "APIService", "SecurityContextConstraints", "Project", "OAuth", "Group", "Tenant",
	}, kind)
}

func TestCarries(t *testing.T) {
	for ref, want := range map[Ref]bool{
		{Kind: "ConfigMap", Name: "x"}:                          true,
		{Kind: "ConfigMap", Name: "x", Namespace: "case"}:       true,
		{Kind: "ConfigMap", Name: "x", Namespace: "case-b"}:     true,
		{Kind: "ConfigMap", Name: "x", Namespace: "casement"}:   false,
		{Kind: "ConfigMap", Name: "x", Namespace: "default"}:    false,
		{Kind: "ConfigMap", Name: "case", Namespace: "default"}: true,
		{Kind: "ClusterRole", Name: "case-reader"}:              true,
		{Kind: "ClusterRole", Name: "reader"}:                   false,
		{Kind: "Namespace", Name: "other"}:                      false,
	} {
		if carries(ref, "case") != want {
			t.Errorf("%+v: %t", ref, !want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                     "no documents",
		"case: a\nwant: [{kind: Pod}]":         "a head has case, why",
		"case: a\nwhy: b":                      "want or absent",
		"case: a\nwhy: b\nwants: [{}]":         "unknown field",
		"case: a\nwhy: b\nwhy: c":              `key "why" already set`,
		"case: a\nwhy: b\nwant: [{}]\n---\n[]": "document 2",
	} {
		if _, err := parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestParse(t *testing.T) {
	c, err := parse([]byte("# why\ncase: a\nwhy: b\nwant: [{spec: {count: 9007199254740993}}]\nlost: [{kind: Pod, name: x, reason: Quota}]\n---\n# nothing\n---\nkind: Pod\n"))
	if err != nil {
		t.Fatal(err)
	}
	if count := c.Want[0]["spec"].(map[string]any)["count"]; count != int64(9007199254740993) {
		t.Errorf("the number is %v of %+v", count, c)
	}
	if len(c.Source) != 1 || c.Source[0].ref().Kind != "Pod" {
		t.Errorf("the source is %v", c.Source)
	}
	if want := (Outcome{Ref: Ref{Kind: "Pod", Name: "x"}, Outcome: "lost", Reason: "Quota"}); !slices.Equal(c.Outcomes, []Outcome{want}) {
		t.Errorf("the outcomes are %+v", c.Outcomes)
	}
}

func TestReplays(t *testing.T) {
	replays, err := Replays([]Case{{Name: "a"}, {Name: "b", Replay: map[string]any{"onConflict": "skip"}}, {Name: "c", Replay: map[string]any{"include": []string{"x"}}}})
	if err != nil {
		t.Fatal(err)
	}
	want := []Replay{
		{Shared, `{"exclude":["b","b-*","c","c-*"],"wait":"30s"}`},
		{"b", `{"clusterResources":"needed","include":["b","b-*"],"onConflict":"skip","wait":"5s"}`},
		{"c", `{"clusterResources":"needed","include":["x"],"wait":"5s"}`},
	}
	if !slices.Equal(replays, want) {
		t.Errorf("%+v", replays)
	}
}
