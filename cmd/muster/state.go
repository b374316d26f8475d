package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/steps"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/journal"
	"github.com/musterdr/muster/state/repository"
)

// stateFlags say where runs are journaled.
type stateFlags struct {
	directory string
	endpoints []string
	ca        string
	cert      string
	key       string
}

func (s *stateFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&s.directory, "state-dir", defaultStateDir(), "folder of the embedded journal and of caches")
	flags.StringSliceVar(&s.endpoints, "state-endpoints", nil, "an external etcd that keeps the journal, instead of the embedded one")
	flags.StringVar(&s.ca, "state-ca", "", "CA certificate of the external etcd")
	flags.StringVar(&s.cert, "state-cert", "", "client certificate for the external etcd")
	flags.StringVar(&s.key, "state-key", "", "key of the client certificate")
}

// defaultStateDir follows the XDG base directory specification; root uses /var/lib.
func defaultStateDir() string {
	if dir := os.Getenv("MUSTER_STATE_DIR"); dir != "" {
		return dir
	}
	if os.Geteuid() == 0 {
		return "/var/lib/muster"
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "muster")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return filepath.Join(os.TempDir(), fmt.Sprintf("muster-%d", os.Getuid()))
	}
	return filepath.Join(home, ".local", "state", "muster")
}

// withRunner opens the journal and hands a runner to work, whose events go to observer.
func (a *app) withRunner(ctx context.Context, observer orchestrator.Observer, work func(*orchestrator.Runner) error) error {
	host, err := os.Hostname()
	if err != nil {
		return fault.New("open state", fault.Internal, a.state.directory, err)
	}
	store, err := journal.Open(ctx, journal.Config{
		Directory: filepath.Join(a.state.directory, "journal"),
		Endpoints: a.state.endpoints, CAFile: a.state.ca, CertFile: a.state.cert, KeyFile: a.state.key,
		Owner: fmt.Sprintf("%s/%d", host, os.Getpid()),
		Log:   a.log(),
	})
	if err != nil {
		return err
	}
	traces := newTracing(ctx, a.log())
	backends := &backends{app: a}
	defer backends.close()
	runner := orchestrator.NewRunner(orchestrator.Config{
		Store: store, Definitions: steps.All(), Repository: a.openRepository, Providers: backends,
		Observer: observed(observer, traces.perRun()), Log: a.log(), Now: a.now,
	})
	err = errors.Join(work(runner), store.Close())
	traces.flush()
	return err
}

// observed tells the observers of each run, too, when there are any.
func observed(all orchestrator.Observer, perRun []func(orchestrator.RunInfo) orchestrator.Observer) orchestrator.Observer {
	if several, ok := all.(orchestrator.Observers); ok {
		several.PerRun = append(several.PerRun, perRun...)
		return several
	}
	if len(perRun) == 0 {
		return all
	}
	return orchestrator.Observers{All: []orchestrator.Observer{all}, PerRun: perRun}
}

// openRepository reads the key file a Repository document names and opens the repository.
func (a *app) openRepository(ctx context.Context, document *plans.Repository) (*repository.Repository, error) {
	config, err := a.repositoryConfig(document)
	if err != nil {
		return nil, err
	}
	return repository.Open(ctx, config)
}

func (a *app) repositoryConfig(document *plans.Repository) (repository.Config, error) {
	spec := document.Spec
	key, err := repository.ReadKey(spec.KeyFile, identityFiles())
	if err != nil {
		return repository.Config{}, err
	}
	if spec.PublicKey != "" {
		if err := key.Pin(spec.PublicKey); err != nil {
			return repository.Config{}, err
		}
	}
	return a.repositoryWith(document, key), nil
}

func (a *app) repositoryWith(document *plans.Repository, key *repository.Key) repository.Config {
	return repository.Config{
		URL: document.Spec.URL, S3: document.Spec.S3, Key: key, Now: a.now,
		CacheDir: filepath.Join(a.state.directory, "cache"),
	}
}

// identityFiles are the age identities that may unwrap a key file: MUSTER_AGE_IDENTITY, a list of
// paths as in PATH.
func identityFiles() []string {
	return filepath.SplitList(os.Getenv("MUSTER_AGE_IDENTITY"))
}

func usageError(err error) error { return fault.New("read arguments", fault.Invalid, "", err) }

func oneOf(flag, value string, allowed ...string) error {
	for _, a := range allowed {
		if value == a {
			return nil
		}
	}
	return usageError(fmt.Errorf("%s %q: want one of %s", flag, value, strings.Join(allowed, ", ")))
}
