package csi

import (
	"context"
	"encoding/json"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"

	snapshots "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Config is what a process gives to its provider.
type Config struct {
	Now func() time.Time
	Log *slog.Logger
}

// Provider serves the volumes of a cluster's CSI drivers.
type Provider struct {
	providers.Unsupported
	config   Config
	settings Settings

	rest      *rest.Config
	kube      kubernetes.Interface
	snapshots snapshots.Interface
	dynamic   dynamic.Interface
	cluster   string // UID of kube-system
	movers    *movers
}

var _ providers.Provider = (*Provider)(nil)

// New returns a provider that waits for Configure.
func New(config Config) *Provider {
	return &Provider{Unsupported: providers.Unsupported{Provider: Name}, config: config}
}

// Info implements providers.Provider. Changed blocks are always claimed: for a driver without a
// SnapshotMetadata service every block may have changed, and Volume.ChangedBlocks says so.
func (p *Provider) Info(context.Context) (providers.Info, error) {
	version := "unknown"
	if build, ok := debug.ReadBuildInfo(); ok && build.Main.Version != "" {
		version = build.Main.Version
	}
	return providers.Info{
		Name: Name, Version: version, Protocols: []int{providers.Protocol}, Schema: Schema,
		Capabilities: []providers.Capability{
			providers.CapDiscover, providers.CapSnapshot, providers.CapGroup, providers.CapRead, providers.CapChanged,
			providers.CapWrite, providers.CapOverwrite, providers.CapCreate, providers.CapClone,
		},
		Drivers: []string{"*"},
	}, nil
}

// Configure implements providers.Provider.
func (p *Provider) Configure(ctx context.Context, raw json.RawMessage) error {
	const op = "configure"
	settings, err := parseSettings(raw)
	if err != nil {
		return err
	}
	config, err := restConfig(settings)
	if err != nil {
		return fault.New(op, fault.Invalid, "kubeconfigFile", err)
	}
	p.settings, p.rest = settings, config
	if err := p.connect(); err != nil {
		return fault.New(op, fault.Invalid, "kubeconfigFile", err)
	}
	system, err := p.kube.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return wrap(op, config.Host, err)
	}
	p.cluster = string(system.UID)
	if _, err := p.kube.CoreV1().Namespaces().Get(ctx, settings.Namespace, metav1.GetOptions{}); apierrors.IsNotFound(err) {
		return fault.Newf(op, fault.Invalid, settings.Namespace, "the namespace for temporary objects does not exist: apply the manifest of docs/providers-csi.md")
	} else if err != nil {
		return wrap(op, settings.Namespace, err)
	}
	return p.removeEndedMovers(ctx)
}

func (p *Provider) connect() (err error) {
	if p.kube, err = kubernetes.NewForConfig(p.rest); err != nil {
		return err
	}
	if p.snapshots, err = snapshots.NewForConfig(p.rest); err != nil {
		return err
	}
	p.movers = newMovers(p)
	p.dynamic, err = dynamic.NewForConfig(p.rest)
	return err
}

func restConfig(settings Settings) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = settings.KubeconfigFile
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules,
		&clientcmd.ConfigOverrides{CurrentContext: settings.Context}).ClientConfig()
	if err != nil {
		return nil, err
	}
	config.UserAgent = "muster-provider-csi"
	config.QPS, config.Burst = 50, 100
	return config, nil
}

// Close implements providers.Provider. It removes the movers that wait for another read.
func (p *Provider) Close() error {
	if p.movers == nil {
		return nil
	}
	return p.movers.close()
}

// ready refuses calls before Configure.
func (p *Provider) ready(op string) error {
	if p.kube == nil {
		return fault.Newf(op, fault.Invalid, Name, "the provider is not configured")
	}
	return nil
}

// serves tells whether the settings let this provider work with a driver.
func (p *Provider) serves(driver string) bool {
	return driver != "" && (len(p.settings.Drivers) == 0 || slices.Contains(p.settings.Drivers, driver))
}

// Health implements providers.Provider.
func (p *Provider) Health(ctx context.Context) (providers.Health, error) {
	const op = "look at the cluster"
	if err := p.ready(op); err != nil {
		return providers.Health{}, err
	}
	version, err := p.kube.Discovery().ServerVersion()
	if err != nil {
		return providers.Health{}, wrap(op, p.rest.Host, err)
	}
	problems, err := p.problems(ctx)
	if err != nil {
		return providers.Health{}, err
	}
	return providers.Health{
		Usable: len(problems) == 0, Problems: problems, Fingerprint: "kubernetes/" + p.cluster, Version: version.GitVersion,
		Now: p.config.Now(), Free: -1, Total: -1,
	}, nil
}

// problems are what keeps volumes from being captured.
func (p *Provider) problems(ctx context.Context) ([]string, error) {
	const op = "look at the cluster"
	classes, err := p.snapshots.SnapshotV1().VolumeSnapshotClasses().List(ctx, metav1.ListOptions{})
	if err != nil && kindOf(err) == fault.Unsupported {
		return []string{"the cluster has no snapshot.storage.k8s.io/v1: install the CRDs and the snapshot controller of kubernetes-csi/external-snapshotter"}, nil
	}
	if err != nil {
		return nil, wrap(op, "VolumeSnapshotClasses", err)
	}
	drivers, err := p.kube.StorageV1().CSIDrivers().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, wrap(op, "CSIDrivers", err)
	}
	able := 0
	for _, driver := range drivers.Items {
		if p.serves(driver.Name) && classFor(classes.Items, driver.Name, p.settings.SnapshotClasses[driver.Name]) != nil {
			able++
		}
	}
	if able == 0 {
		return []string{"no CSI driver of the cluster has a VolumeSnapshotClass: nothing can be snapshotted"}, nil
	}
	return nil, nil
}
