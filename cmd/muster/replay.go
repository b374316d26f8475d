package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

// replayFlags choose objects and what becomes of those that stand in the cluster.
type replayFlags struct {
	point, snapshot, encryptionConfig, name, onConflict string
	namespaces, kinds                                   []string
	revision                                            int64
	diff                                                bool
	files                                               resultFiles
}

func (a *app) replayCommand() *cobra.Command {
	f := &replayFlags{}
	command := &cobra.Command{
		Use: "replay", Short: "Put objects of a namespace back into a running cluster, out of a recovery point or an etcd snapshot",
		Long: `Replay brings API objects alone back, in the order in which they depend on each other. Plans can do more:
volumes, transformations, a policy for each kind (see: muster plan print replay).`,
		Example: `  muster replay --namespace shop --diff
  muster replay --namespace shop --kind secrets --name db --on-conflict replace
  muster replay --namespace shop --from-etcd-snapshot backup.db --revision 41823`,
		Args: exactly(0),
		RunE: func(command *cobra.Command, _ []string) error { return a.replay(command.Context(), f) },
	}
	flags := command.Flags()
	flags.StringVar(&f.point, "point", "latest", "the recovery point: an ID, a unique prefix, or latest")
	flags.StringVar(&f.snapshot, "from-etcd-snapshot", "", "take the objects from an etcd snapshot: a file, or the one of a recovery point: its ID, or latest")
	flags.Int64Var(&f.revision, "revision", 0, "as of this revision of etcd (default: the newest in the snapshot)")
	flags.StringVar(&f.encryptionConfig, "encryption-config", "", "the EncryptionConfiguration of kube-apiserver, where the snapshot's objects are encrypted at rest")
	flags.StringArrayVarP(&f.namespaces, "namespace", "n", nil, "objects of this namespace, and what of the cluster's own objects they need; a pattern; can be repeated")
	flags.StringArrayVar(&f.kinds, "kind", nil, "only objects of this kind: secrets, or deployments.apps; a pattern; can be repeated")
	flags.StringVar(&f.name, "name", "", "only objects of this name")
	flags.StringVar(&f.onConflict, "on-conflict", "keep", "what becomes of an object that stands there with other content: keep, skip, update, replace or recreate")
	flags.BoolVar(&f.diff, "diff", false, "show what would be changed, and do nothing else")
	f.files.register(command)
	required(command, "namespace")
	return command
}

func (a *app) replay(ctx context.Context, f *replayFlags) error {
	const name = "replay-objects"
	point, plan, err := f.plan(name)
	if err != nil {
		return err
	}
	set, err := a.readDocuments()
	if err != nil {
		return err
	}
	set.Plans[name] = plan
	checked, err := plans.Check(set, name, vocabulary())
	if err != nil {
		return err
	}
	request := orchestrator.Request{ID: a.newRunID(name), Plan: checked, Point: point}
	if f.diff {
		return a.preview(ctx, request)
	}
	return a.watched(ctx, f.files, func(ctx context.Context, r *orchestrator.Runner) (*orchestrator.Report, error) {
		return r.Start(ctx, request)
	})
}

// plan is one that a person would write for these flags, and the recovery point that it reads.
func (f *replayFlags) plan(name string) (point string, plan *plans.Plan, err error) {
	with := map[string]any{"include": f.namespaces, "onConflict": f.onConflict}
	if len(f.kinds) > 0 {
		with["kinds"] = f.kinds
	}
	if f.name != "" {
		with["fieldSelector"] = "metadata.name=" + f.name
	}
	point = f.point
	if f.snapshot == "" && (f.revision != 0 || f.encryptionConfig != "") {
		return "", nil, usageError(fmt.Errorf("--revision and --encryption-config belong to --from-etcd-snapshot"))
	}
	if f.snapshot != "" {
		source := map[string]any{"revision": f.revision}
		if point, err = f.source(source); err != nil {
			return "", nil, err
		}
		with["etcdSnapshot"] = source
	}
	step := map[string]any{"id": "replay", "uses": "replay-namespaces", "with": with}
	text, err := yaml.Marshal(map[string]any{
		"apiVersion": "muster.dev/v1alpha1", "kind": "Plan", "metadata": map[string]any{"name": name},
		"spec": map[string]any{"purpose": plans.Migrate, "steps": []any{step}},
	})
	if err != nil {
		return "", nil, err
	}
	set, err := plans.Read("flags", bytes.NewReader(text))
	if err != nil {
		return "", nil, err
	}
	return point, set.Plans[name], nil
}

// source tells a file from a recovery point, as extract does.
func (f *replayFlags) source(source map[string]any) (point string, err error) {
	if f.encryptionConfig != "" {
		if source["encryptionConfig"], err = filepath.Abs(f.encryptionConfig); err != nil {
			return "", err
		}
	}
	if _, err := os.Stat(f.snapshot); err != nil && strings.ContainsAny(f.snapshot, "/.") {
		return "", fault.Newf("open snapshot", fault.NotFound, f.snapshot, "there is no such file")
	} else if err != nil {
		return f.snapshot, nil
	}
	source["file"], err = filepath.Abs(f.snapshot)
	if err != nil {
		return "", fault.New("open snapshot", fault.Invalid, f.snapshot, err)
	}
	return "", nil
}
