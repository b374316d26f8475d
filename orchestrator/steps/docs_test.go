package steps

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/musterdr/muster/orchestrator/secret"
	"github.com/musterdr/muster/plans"
)

// fields lists the settings of a step as users write them: "pod.name".
func fields(of reflect.Type, before string) []string {
	var names []string
	for i := range of.NumField() {
		field := of.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if options == "inline" {
			names = append(names, fields(field.Type, before)...)
			continue
		}
		inner := field.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && inner != reflect.TypeFor[secret.Reference]() && name != "undo" {
			names = append(names, fields(inner, before+name+".")...)
			continue
		}
		names = append(names, before+name)
	}
	return names
}

// TestDocumentation: every setting stands in its step's table, and every example is a plan's.
func TestDocumentation(t *testing.T) {
	raw, err := os.ReadFile("../../docs/steps.md")
	if err != nil {
		t.Fatal(err)
	}
	for id, of := range map[string]reflect.Type{
		"run-command": reflect.TypeFor[RunCommand](), "call-http": reflect.TypeFor[CallHTTP](),
		"wait-for": reflect.TypeFor[WaitFor](), "notify": reflect.TypeFor[Notify](),
	} {
		_, section, found := strings.Cut(string(raw), "\n## "+id+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		if !found {
			t.Errorf("%s has no section", id)
		}
		for _, name := range fields(of, "") {
			if !regexp.MustCompile("(?m)^\\|[^|]*`" + regexp.QuoteMeta(name) + "`").MatchString(section) {
				t.Errorf("%s: %s stands in no table", id, name)
			}
		}
		example, _, _ := strings.Cut(strings.SplitN(section, "```yaml\n", 2)[1], "```")
		text := "apiVersion: muster.dev/v1alpha1\nkind: Plan\nmetadata: {name: p}\nspec:\n  purpose: drill\n  steps:\n    " + strings.ReplaceAll(example, "\n", "\n    ")
		set, err := plans.Read("docs/steps.md", strings.NewReader(text))
		if err != nil {
			t.Errorf("%s: %v", id, err)
			continue
		}
		if _, err := plans.CheckSteps(set, "p", vocabulary()); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}
