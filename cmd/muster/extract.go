package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/musterdr/muster/orchestrator/etcd"
	"github.com/musterdr/muster/orchestrator/etcd/pages"
	"github.com/musterdr/muster/orchestrator/etcd/registry"
	"github.com/musterdr/muster/orchestrator/steps"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// errUnread is returned when some of what was asked for could not be read.
var errUnread = errors.New("not every object could be read: the lines above say which and why")

// extraction is what `muster extract` is asked for.
type extraction struct {
	snapshot, encryptionConfig string
	namespace, kind, name      string
	query                      registry.Query
	diffFrom                   int64
	skipHashCheck              bool
}

func (a *app) extractCommand() *cobra.Command {
	e, f := &extraction{}, &repositoryFlags{}
	command := &cobra.Command{
		Use:   "extract",
		Short: "Read objects out of an etcd snapshot, without starting anything",
		Long: `Extract prints objects as they are in an etcd snapshot: a file that etcdctl, etcdutl or anybody's
backup has made, or the one of a recovery point. Objects are printed as YAML, or as JSON, one a line.`,
		Example: `  muster extract --snapshot backup.db --namespace shop --kind Secret
  muster extract --snapshot latest --namespace shop --kind ConfigMap --name prices --history
  muster extract --snapshot backup.db --namespace shop --diff-from 41823
  muster extract --snapshot backup.db --revision 41823 -o json`,
		Args: exactly(0),
		RunE: func(command *cobra.Command, _ []string) error {
			return a.withSnapshot(command.Context(), f, e.snapshot, func(snapshot *os.File) error {
				return a.extract(command.Context(), snapshot, e)
			})
		},
	}
	f.register(command)
	flags := command.Flags()
	flags.StringVar(&e.snapshot, "snapshot", "", "a file, or a recovery point of the repository: its ID, or latest")
	flags.StringVarP(&e.namespace, "namespace", "n", "", "only objects of this namespace")
	flags.StringVar(&e.kind, "kind", "", "only objects of this kind: Secret, or Deployment.apps where several groups have it")
	flags.StringVar(&e.name, "name", "", "only objects of this name")
	flags.Int64Var(&e.query.Revision, "revision", 0, "as of this revision of etcd (default: the newest in the snapshot)")
	flags.BoolVar(&e.query.History, "history", false, "every change that the snapshot holds, and not the last alone")
	flags.Int64Var(&e.diffFrom, "diff-from", 0, "what has changed since this revision of etcd, as a unified diff")
	flags.BoolVar(&e.skipHashCheck, "skip-hash-check", false, "do not compare the hash at the snapshot's end: what is printed may be wrong")
	flags.StringVar(&e.encryptionConfig, "encryption-config", "", "the EncryptionConfiguration of kube-apiserver, where objects are encrypted at rest")
	required(command, "snapshot")
	return command
}

// withSnapshot opens a file, or copies the snapshot of a recovery point into one that ends with work.
func (a *app) withSnapshot(ctx context.Context, f *repositoryFlags, name string, work func(*os.File) error) error {
	file, err := os.Open(name)
	if err == nil {
		defer file.Close()
		return work(file)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return fault.New("open snapshot", fault.Invalid, name, err)
	}
	if strings.ContainsAny(name, "/.") && f.name == "" {
		return fault.Newf("open snapshot", fault.NotFound, name, "there is no such file")
	}
	return a.withRepository(ctx, f, func(opened *repository.Repository, _ *plans.Repository) error {
		return steps.PointsSnapshot(ctx, opened, name, work)
	})
}

func (a *app) extract(ctx context.Context, snapshot *os.File, e *extraction) error {
	if e.query.History && e.diffFrom > 0 {
		return fault.Newf("extract", fault.Invalid, "--diff-from", "it compares two revisions, --history shows every one: take one of them")
	}
	keys, err := e.keys(ctx)
	if err != nil {
		return err
	}
	size, err := e.intact(snapshot)
	if err != nil {
		return damaged(e.snapshot, err)
	}
	e.query.Wanted = e.wantsKey
	work := &extracting{app: a, extraction: e, keys: keys}
	if e.diffFrom > 0 {
		err = registry.Changes(ctx, snapshot, size, e.diffFrom, e.query, func(before, after registry.Entry) error { return work.change(ctx, before, after) })
	} else {
		err = registry.Read(ctx, snapshot, size, e.query, func(entry registry.Entry) error { return work.entry(ctx, entry) })
	}
	if err == nil {
		err = work.verdict()
	}
	return damaged(e.snapshot, err)
}

// extracting prints one entry after the other.
type extracting struct {
	*app
	*extraction
	keys            *registry.Keys
	printed, unread int
	last            string // key that was printed
}

func (x *extracting) entry(ctx context.Context, entry registry.Entry) error {
	if entry.Deleted && x.kind != "" && entry.Key != x.last {
		return nil // of what kind it was nobody can say
	}
	object, err := x.object(ctx, entry, x.keys)
	if err != nil {
		x.unreadable(entry.Key, err)
	}
	if err != nil || object == nil {
		return nil
	}
	x.printed, x.last = x.printed+1, entry.Key
	return x.printExtracted(entry, object)
}

func (x *extracting) unreadable(key string, err error) {
	if !x.mayBe(key) {
		return
	}
	x.unread++
	fmt.Fprintf(x.diagnostics, "muster: %v\n", err)
}

func (x *extracting) verdict() error {
	switch {
	case x.unread > 0:
		return errUnread
	case x.printed == 0 && x.diffFrom > 0:
		return fault.Newf("extract", fault.NotFound, x.snapshot, "no such object has changed since revision %d", x.diffFrom)
	case x.printed == 0:
		return fault.Newf("extract", fault.NotFound, x.snapshot, "it holds no such object")
	}
	return nil
}

// intact compares a snapshot with the hash at its end, if it has one, and returns its size.
func (e *extraction) intact(snapshot *os.File) (int64, error) {
	info, err := snapshot.Stat()
	if err != nil {
		return 0, err
	}
	size := info.Size()
	if _, err := pages.Read(snapshot, size); err != nil || e.skipHashCheck {
		return size, err
	}
	if err = etcd.CheckFile(snapshot, size); fault.Is(err, fault.Corrupt) {
		err = fault.Newf("compare hashes", fault.Corrupt, "", "%w; --skip-hash-check reads it all the same", err)
	}
	return size, err
}

func damaged(name string, err error) error {
	if !fault.Is(err, fault.Corrupt) {
		return err
	}
	return fault.Newf("extract", fault.Corrupt, name, "%w; copy it again, or take another", err)
}

func (e *extraction) keys(ctx context.Context) (*registry.Keys, error) {
	if e.encryptionConfig == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(e.encryptionConfig)
	if err != nil {
		return nil, fault.New("read encryption configuration", fault.Invalid, e.encryptionConfig, err)
	}
	return registry.ReadKeys(ctx, raw)
}

// wantsKey passes over keys that cannot be of a wanted object: a key ends with the object's name, and its
// namespace stands before that.
func (e *extraction) wantsKey(key string) bool {
	parts := strings.Split(key, "/")
	if parts[0] != "" || len(parts) < 4 { // etcd's clients may have keys of their own
		return false
	}
	return (e.name == "" || parts[len(parts)-1] == e.name) && (e.namespace == "" || parts[len(parts)-2] == e.namespace)
}

// mayBe guesses by its key whether an object that cannot be read is of the wanted kind: /registry/secrets/…,
// /openshift.io/oauth/accesstokens/… of OAuthAccessToken.
func (e *extraction) mayBe(key string) bool {
	kind, _, _ := strings.Cut(strings.ToLower(e.kind), ".")
	return strings.Contains(strings.ReplaceAll(strings.ToLower(key), "/", ""), strings.TrimSuffix(kind, "y")) // policies
}

// object is nil when it is not wanted, and empty for a deletion.
func (e *extraction) object(ctx context.Context, entry registry.Entry, keys *registry.Keys) (*unstructured.Unstructured, error) {
	if entry.Deleted {
		return &unstructured.Unstructured{}, nil
	}
	object, err := registry.Object(ctx, entry, keys)
	if err != nil {
		return nil, err
	}
	kind, group, _ := strings.Cut(e.kind, ".")
	of := object.GroupVersionKind()
	if e.kind != "" && !strings.EqualFold(of.Kind, kind) || group != "" && of.Group != group || e.namespace != "" && object.GetNamespace() != e.namespace {
		return nil, nil
	}
	return object, nil
}

// printExtracted prints an object; a deletion as a comment, or in JSON as an object that names the key.
func (a *app) printExtracted(entry registry.Entry, object *unstructured.Unstructured) error {
	if a.output == "json" {
		if entry.Deleted {
			return json.NewEncoder(a.out).Encode(map[string]any{"deleted": entry.Key, "revision": entry.Revision})
		}
		return json.NewEncoder(a.out).Encode(object.Object)
	}
	if entry.Deleted {
		_, err := fmt.Fprintf(a.out, "---\n# revision %d: %s was deleted\n", entry.Revision, entry.Key)
		return err
	}
	text, err := registry.YAML(object)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "---\n# revision %d: %s\n%s", entry.Revision, entry.Key, text)
	return err
}
