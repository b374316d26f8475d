package steps

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/machine"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

// StartControlPlane starts the container runtime and the kubelet on every control-plane machine and
// waits until all API servers are ready.
type StartControlPlane struct {
	// Wait bounds the wait for the API servers; 0 means five minutes.
	Wait plans.Duration `yaml:"wait,omitempty"`
}

const (
	adminConfig     = "/etc/kubernetes/admin.conf"
	apiServerPort   = "6443"
	controlWait     = 5 * time.Minute
	readinessPeriod = 250 * time.Millisecond
)

func controlPlanes(machines *plans.Machines) []plans.Machine {
	var out []plans.Machine
	for _, m := range machines.Spec.Machines {
		if m.Role == plans.ControlPlane {
			out = append(out, m)
		}
	}
	return out
}

// Check wants at least one control plane.
func (s *StartControlPlane) Check(_ context.Context, run *orchestrator.Run) error {
	if len(controlPlanes(run.Machines)) == 0 {
		return fault.Newf("check machines", fault.Invalid, run.Machines.Metadata.Name, "none has the role control-plane")
	}
	return nil
}

// Do starts them all before it waits for any: members of etcd need each other.
func (s *StartControlPlane) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	wait := time.Duration(s.Wait)
	if wait == 0 {
		wait = controlWait
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, fault.Newf("start control plane", fault.Transient, "", "the API servers are not ready after %s", wait))
	defer cancel()
	for _, m := range controlPlanes(run.Machines) {
		run.Progress.Status("starting " + m.Name)
		if err := startKubelet(ctx, run, m); err != nil {
			return nil, err
		}
	}
	var ready []string
	for _, m := range controlPlanes(run.Machines) {
		run.Progress.Status("waiting for the API server of " + m.Name)
		if err := waitReady(ctx, run, m); err != nil {
			return nil, err
		}
		ready = append(ready, m.Name)
	}
	return json.Marshal(map[string]any{"ready": ready})
}

func startKubelet(ctx context.Context, run *orchestrator.Run, m plans.Machine) error {
	host, err := machine.Dial(ctx, m, run.Machines.Spec.SSH)
	if err != nil {
		return err
	}
	defer host.Close() // every command was waited for
	for _, unit := range []string{"containerd", "kubelet"} {
		if err := host.Service(ctx, "enable", unit); err != nil {
			return err
		}
		if err := host.Service(ctx, "start", unit); err != nil {
			return err
		}
	}
	return nil
}

// administrator reaches one control-plane machine's API server with the machine's own admin.conf,
// which stays in memory.
func administrator(ctx context.Context, run *orchestrator.Run, m plans.Machine) (*kubernetes.Clientset, error) {
	raw, err := adminKubeconfig(ctx, run, m)
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(raw)
	if err != nil {
		return nil, fault.Newf("read kubeconfig", fault.Corrupt, m.Name+":"+adminConfig, "it is no kubeconfig")
	}
	config.Host = "https://" + net.JoinHostPort(m.Address, apiServerPort)
	config.QPS, config.Burst = -1, 0
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fault.New("reach API server", fault.Invalid, m.Name, err)
	}
	return client, nil
}

func adminKubeconfig(ctx context.Context, run *orchestrator.Run, m plans.Machine) ([]byte, error) {
	host, err := machine.Dial(ctx, m, run.Machines.Spec.SSH)
	if err != nil {
		return nil, err
	}
	defer host.Close() // nothing was written
	return host.ReadFile(ctx, adminConfig)
}

func waitReady(ctx context.Context, run *orchestrator.Run, m plans.Machine) error {
	client, err := administrator(ctx, run, m)
	if err != nil {
		return err
	}
	ticker := time.NewTicker(readinessPeriod)
	defer ticker.Stop()
	for {
		_, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", m.Name, context.Cause(ctx), err)
		}
	}
}

// Verify asks every API server again.
func (s *StartControlPlane) Verify(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) error {
	for _, m := range controlPlanes(run.Machines) {
		client, err := administrator(ctx, run, m)
		if err != nil {
			return err
		}
		if _, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx); err != nil {
			return fault.New("check API server", fault.Transient, m.Name, err)
		}
	}
	return nil
}

// Undo stops the kubelets.
func (s *StartControlPlane) Undo(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) error {
	return s.Abandon(ctx, run)
}

// Abandon implements orchestrator.Abandoner.
func (s *StartControlPlane) Abandon(ctx context.Context, run *orchestrator.Run) error {
	for _, m := range controlPlanes(run.Machines) {
		host, err := machine.Dial(ctx, m, run.Machines.Spec.SSH)
		if err != nil {
			return err
		}
		defer host.Close() // every command was waited for
		if err := host.Service(ctx, "stop", "kubelet"); err != nil {
			return err
		}
	}
	return nil
}
