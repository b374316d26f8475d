package steps

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// statuses are the HTTP statuses that are welcome: numbers, or classes such as "2xx". None means 2xx.
type statuses []statusRange

// statusRange is what one entry of statuses stands for.
type statusRange struct{ first, last int }

var errStatus = errors.New(`want a status such as 204, or a class such as "2xx"`)

// UnmarshalYAML implements yaml.Unmarshaler.
func (r *statusRange) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind != yaml.ScalarNode || len(node.Value) != 3 {
		return errStatus
	}
	if class, found := strings.CutSuffix(node.Value, "xx"); found && class >= "1" && class <= "5" {
		r.first = int(class[0]-'0') * 100
		r.last = r.first + 99
		return nil
	}
	status, err := strconv.Atoi(node.Value)
	if err != nil || status < 100 || status > 599 {
		return errStatus
	}
	r.first, r.last = status, status
	return nil
}

func (r statusRange) String() string {
	if r.first == r.last {
		return strconv.Itoa(r.first)
	}
	return fmt.Sprintf("%dxx", r.first/100)
}

func (s statuses) ranges() []statusRange {
	if len(s) == 0 {
		return []statusRange{{200, 299}}
	}
	return s
}

func (s statuses) include(status int) bool {
	for _, r := range s.ranges() {
		if status >= r.first && status <= r.last {
			return true
		}
	}
	return false
}

func (s statuses) String() string {
	var words []string
	for _, r := range s.ranges() {
		words = append(words, r.String())
	}
	return strings.Join(words, " or ")
}
