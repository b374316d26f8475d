package host

import (
	"fmt"
	"strings"

	"github.com/musterdr/muster/orchestrator/secret"
)

// passed are the variables that every provider gets.
var passed = [...]string{"PATH", "HOME", "TMPDIR", "LANG"}

// sensitive are parts of names of variables whose values are hidden in logs.
var sensitive = [...]string{"KEY", "SECRET", "TOKEN", "PASSWORD", "PASSPHRASE", "CREDENTIAL"}

// environment is what a provider's process gets to see: a few harmless variables, those that the document
// names, and a hint about memory to Go's garbage collector. secrets are the values that must not be shown.
func (c Config) environment(names []string) (variables, secrets []string) {
	for _, name := range append(passed[:], names...) {
		value, set := c.Lookup(name)
		if !set {
			continue
		}
		variables = append(variables, name+"="+value)
		if isSensitive(name) {
			secrets = append(secrets, value)
		}
	}
	if c.Memory > 0 {
		variables = append(variables, fmt.Sprintf("GOMEMLIMIT=%d", c.Memory/2))
	}
	return variables, secrets
}

func isSensitive(name string) bool {
	for _, part := range sensitive {
		if strings.Contains(strings.ToUpper(name), part) {
			return true
		}
	}
	return false
}

// masks hide what any of them hides.
type masks []*secret.Mask

func (m masks) text(text string) string {
	for _, mask := range m {
		text = mask.Text(text)
	}
	return text
}

func (m masks) error(err error) error {
	for _, mask := range m {
		err = mask.Error(err)
	}
	return err
}
