package plans

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/musterdr/muster/providers/fault"
)

// maxFileSize bounds one file of documents, in bytes: an inventory of ten thousand machines fits.
const maxFileSize = 4 << 20

// The kinds of documents.
const (
	KindCluster    = "Cluster"
	KindRepository = "Repository"
	KindMachines   = "Machines"
	KindPlan       = "Plan"
	KindEngine     = "DatabaseEngine"
)

// Set holds documents by kind and name. A caller may add documents that it made itself; they have
// no source.
type Set struct {
	Clusters     map[string]*Cluster
	Repositories map[string]*Repository
	Machines     map[string]*Machines
	Plans        map[string]*Plan
	Engines      map[string]*Engine

	sources map[any]*source // by the document's pointer
}

// NewSet returns an empty set.
func NewSet() *Set {
	return &Set{
		Clusters: map[string]*Cluster{}, Repositories: map[string]*Repository{},
		Machines: map[string]*Machines{}, Plans: map[string]*Plan{}, Engines: map[string]*Engine{},
		sources: map[any]*source{},
	}
}

// Source returns where a document of this set (a *Cluster, *Plan, …) was read from, the zero
// Position when it was not read.
func (s *Set) Source(document any) Position { return s.sources[document].at() }

// ReadFiles reads all documents of all files into one set. Relative paths in a document are
// resolved against its file's folder and come out absolute. Errors are fault.NotFound or
// fault.Denied for a file that can't be opened, and fault.Invalid with Problems for what is wrong in
// the files, everything at once.
func ReadFiles(paths ...string) (*Set, error) {
	r := newReader()
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			return nil, fault.New("read documents", openKind(err), path, err)
		}
		err = errors.Join(r.read(path, file), file.Close())
		if err != nil {
			return nil, err
		}
	}
	return r.result()
}

func openKind(err error) fault.Kind {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault.NotFound
	case errors.Is(err, fs.ErrPermission):
		return fault.Denied
	default:
		return fault.Internal
	}
}

// Read reads all documents of one stream. name stands in positions, and its folder is what relative
// paths in the documents are resolved against. Errors are as for ReadFiles.
func Read(name string, content io.Reader) (*Set, error) {
	r := newReader()
	if err := r.read(name, content); err != nil {
		return nil, err
	}
	return r.result()
}

type reader struct {
	set      *Set
	problems Problems
}

func newReader() *reader { return &reader{set: NewSet()} }

func (r *reader) result() (*Set, error) {
	if len(r.problems) > 0 {
		return nil, fault.New("read documents", fault.Invalid, "", r.problems.sorted())
	}
	return r.set, nil
}

// read adds one file's documents and problems. The error it returns is about the stream alone.
func (r *reader) read(name string, content io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(content, maxFileSize+1))
	if err != nil {
		return fault.New("read documents", fault.Internal, name, err)
	}
	folder, err := filepath.Abs(filepath.Dir(name))
	if err != nil {
		return fault.New("read documents", fault.Internal, name, err)
	}
	if len(data) > maxFileSize {
		r.problems.add(Position{File: name}, "the file is larger than %d MiB; split it", maxFileSize>>20)
		return nil
	}
	decoder := newDecoder(name, &r.problems) // one for the file: its limits are the file's
	lines := strings.Split(string(data), "\n")
	stream := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var document yaml.Node
		err := stream.Decode(&document)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			r.problems = append(r.problems, syntaxProblem(name, err))
			return nil
		}
		if len(document.Content) == 1 && !isNull(document.Content[0]) {
			r.document(&source{name, document.Content[0], lines}, folder, decoder)
		}
	}
}

// syntaxLine finds the place in the library's messages: "yaml: line 3: did not find expected key".
// Those of parserError count lines from 0, all others from 1.
var (
	syntaxLine  = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?(.*)$`)
	parserError = regexp.MustCompile(`^did not find expected (key|'-' indicator|',' or '[]}]')$`)
)

func syntaxProblem(name string, err error) Problem {
	problem := Problem{Position: Position{File: name}, Text: err.Error()}
	if found := syntaxLine.FindStringSubmatch(problem.Text); found != nil {
		problem.Position.Line, _ = strconv.Atoi(found[1]) // empty or digits: no line is 0
		problem.Text = found[2]
	}
	if problem.Position.Line > 0 && parserError.MatchString(problem.Text) {
		problem.Position.Line++
	}
	if strings.HasPrefix(problem.Text, "unknown anchor") { // names it: a value that began with *
		problem.Text = "unknown anchor; put text that begins with * in quotes"
	}
	problem.Text = "not YAML: " + problem.Text
	return problem
}

// envelope is a whole document.
type envelope[T any] struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Document   T      `yaml:",inline"`
}

func (r *reader) document(from *source, folder string, decoder *decoder) {
	if from.root.Kind != yaml.MappingNode {
		decoder.problem(from.root, "want a document with apiVersion and kind, found %s", describe(from.root))
		return
	}
	if !r.version(from) {
		return
	}
	kind := child(from.root, "kind")
	if kind == nil {
		r.problems.add(from.at(), "the document has no kind%s", suggest("", kinds()))
		return
	}
	check := &validator{source: from, problems: &r.problems, folder: folder}
	switch kind.Value {
	case KindCluster:
		add(r, decoder, from, r.set.Clusters, check.cluster)
	case KindRepository:
		add(r, decoder, from, r.set.Repositories, check.repository)
	case KindMachines:
		add(r, decoder, from, r.set.Machines, check.machinesDocument)
	case KindPlan:
		add(r, decoder, from, r.set.Plans, check.plan)
	case KindEngine:
		add(r, decoder, from, r.set.Engines, check.engine)
	default:
		r.problems.add(from.at("kind"), "unknown kind %q%s", kind.Value, suggest(kind.Value, kinds()))
	}
}

func kinds() []string {
	return []string{KindCluster, KindRepository, KindMachines, KindPlan, KindEngine}
}

func (r *reader) version(from *source) bool {
	version := child(from.root, "apiVersion")
	if version == nil {
		r.problems.add(from.at(), "the document has no apiVersion; this muster reads %q", APIVersion)
		return false
	}
	if version.Value != APIVersion {
		r.problems.add(from.at("apiVersion"), "unknown apiVersion %q; this muster reads %q", version.Value, APIVersion)
		return false
	}
	return true
}

// add decodes one document, checks its content when its form is right, and puts it into the set.
func add[T any](r *reader, decoder *decoder, from *source, into map[string]*T, check func(*T) Metadata) {
	before := len(r.problems)
	var whole envelope[T]
	decoder.value(from.root, "", reflect.ValueOf(&whole).Elem())
	if len(r.problems) > before {
		return
	}
	document := &whole.Document
	name := check(document).Name
	if earlier, taken := into[name]; taken && name != "" {
		r.problems.add(from.at("metadata", "name"), "%s %q stands at %s already", whole.Kind, name, r.set.Source(earlier))
		return
	}
	into[name] = document
	r.set.sources[document] = from
}

// names lists the names of documents of one kind, sorted.
func names[T any](documents map[string]T) []string {
	return slices.Sorted(maps.Keys(documents))
}

// find looks up a document that another one refers to.
func find[T any](kind, name string, documents map[string]*T) (*T, error) {
	if found, ok := documents[name]; ok {
		return found, nil
	}
	if len(documents) == 0 {
		return nil, fmt.Errorf("there is no %s %q among the documents, nor any other", kind, name)
	}
	return nil, fmt.Errorf("there is no %s %q among the documents%s", kind, name, suggest(name, names(documents)))
}
