package secret

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/musterdr/muster/providers/fault"
)

// Reference says where a secret is. Exactly one field is set.
type Reference struct {
	// File is a path, taken as it stands: a relative one counts from the runner's working folder. Its
	// content is the secret, without line ends at its end. Other users must not be able to read it.
	File string `yaml:"file,omitempty" json:"file,omitempty"`
	// Env names an environment variable of the runner.
	Env string `yaml:"env,omitempty" json:"env,omitempty"`
}

const (
	// MaxBytes bounds a secret: keys and certificates are far shorter.
	MaxBytes = 64 << 10
	// MinBytes is the shortest secret that can be hidden: a shorter one stands in half of all words.
	MinBytes = 4
)

// errForm never shows what was read: somebody may have written the secret itself.
var errForm = errors.New("want {file: PATH} or {env: NAME}; a secret itself never stands in a document")

// UnmarshalYAML implements yaml.Unmarshaler, strictly: exactly one of the two fields, as text.
func (r *Reference) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind != yaml.MappingNode || len(node.Content) != 2 {
		return errForm
	}
	key, value := node.Content[0], node.Content[1]
	if value.Kind == yaml.AliasNode {
		value = value.Alias
	}
	if value.Kind != yaml.ScalarNode || value.ShortTag() != "!!str" || value.Value == "" {
		return errForm
	}
	switch key.Value {
	case "file":
		r.File = value.Value
	case "env":
		r.Env = value.Value
	default:
		return errForm
	}
	return nil
}

// String names the place, never the content.
func (r Reference) String() string {
	if r.File != "" {
		return "file " + r.File
	}
	return "variable " + r.Env
}

// Read returns the secret. Errors: NotFound when the place is empty or not there, Denied when it
// can't be read or other users can read it too, Invalid when the content can't be a secret.
func (r Reference) Read() (string, error) {
	text, err := r.content()
	if err != nil {
		return "", err
	}
	switch {
	case text == "":
		return "", fault.Newf("read secret", fault.NotFound, r.String(), "it is empty")
	case len(text) < MinBytes:
		return "", fault.Newf("read secret", fault.Invalid, r.String(), "it is shorter than %d bytes, too short to be kept out of output", MinBytes)
	case len(text) > MaxBytes:
		return "", fault.Newf("read secret", fault.Invalid, r.String(), "it is longer than %d bytes", MaxBytes)
	case strings.ContainsRune(text, 0):
		return "", fault.Newf("read secret", fault.Invalid, r.String(), "it holds a zero byte, which neither variables nor headers can carry")
	}
	return text, nil
}

func (r Reference) content() (string, error) {
	if r.File == "" {
		text, set := os.LookupEnv(r.Env)
		if !set {
			return "", fault.Newf("read secret", fault.NotFound, r.String(), "it is not set in the runner's environment")
		}
		return text, nil
	}
	f, err := os.Open(r.File)
	if err != nil {
		return "", fault.New("read secret", kindOf(err), r.String(), plain(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fault.New("read secret", kindOf(err), r.String(), plain(err))
	}
	if !info.Mode().IsRegular() {
		return "", fault.Newf("read secret", fault.Invalid, r.String(), "it is not a file")
	}
	if info.Mode().Perm()&0o007 != 0 {
		return "", fault.Newf("read secret", fault.Denied, r.String(), "every user of this machine can read it: chmod o= %s", r.File)
	}
	raw, err := io.ReadAll(io.LimitReader(f, MaxBytes+2))
	if err != nil {
		return "", fault.New("read secret", kindOf(err), r.String(), plain(err))
	}
	return strings.TrimRight(string(raw), "\r\n"), nil
}

func kindOf(err error) fault.Kind {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault.NotFound
	case errors.Is(err, fs.ErrPermission):
		return fault.Denied
	default:
		return fault.Transient
	}
}

// plain leaves out the path, which the fault's subject names already.
func plain(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// ReadAll reads several secrets and makes a mask of them. Nothing is returned unless all are there;
// the error names every one that is not, by the name it has in the map.
func ReadAll(references map[string]Reference) (map[string]string, *Mask, error) {
	values := make(map[string]string, len(references))
	var problems []error
	var known []string
	for name, reference := range references {
		value, err := reference.Read()
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", name, err))
			continue
		}
		values[name] = value
		known = append(known, value)
	}
	if len(problems) > 0 {
		return nil, nil, errors.Join(problems...)
	}
	return values, NewMask(known...), nil
}
