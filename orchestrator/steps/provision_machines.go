package steps

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/machine"
	"github.com/musterdr/muster/providers/fault"
)

// ProvisionMachines checks that the target machines are there, reachable and blank.
type ProvisionMachines struct{}

// rootfsHeadroom is the free space a machine needs beyond the size of its root filesystem.
const rootfsHeadroom = 1 << 30

// Items are the target machines' names.
func (s *ProvisionMachines) Items(_ context.Context, run *orchestrator.Run) ([]string, error) {
	return targetNames(run), nil
}

// Check logs in and refuses a machine that is not blank, or lacks something; all of it is named.
func (s *ProvisionMachines) Check(ctx context.Context, run *orchestrator.Run) error {
	_, err := s.look(ctx, run)
	return err
}

func (s *ProvisionMachines) look(ctx context.Context, run *orchestrator.Run) (machine.Facts, error) {
	_, manifest, err := pointOf(ctx, run)
	if err != nil {
		return machine.Facts{}, err
	}
	t, err := targetOf(manifest, run)
	if err != nil {
		return machine.Facts{}, err
	}
	host, err := machine.Dial(ctx, t.Machine, run.Machines.Spec.SSH)
	if err != nil {
		return machine.Facts{}, err
	}
	defer host.Close() // nothing was written
	facts, err := host.Facts(ctx)
	if err != nil {
		return facts, err
	}
	return facts, judge(facts, t, run.ID)
}

// judge names everything that keeps a machine from being a target.
func judge(facts machine.Facts, t target, runID string) error {
	var problems []string
	kind := fault.NotFound
	if len(facts.Missing) > 0 {
		problems = append(problems, "it lacks "+strings.Join(facts.Missing, ", "))
	}
	if !t.captured() && !facts.Kubelet {
		problems = append(problems, "it lacks kubelet: nothing captured fills it, so it must be ready to join")
	}
	if t.captured() && facts.Arch != t.Captured.Arch {
		kind = fault.Unsupported
		problems = append(problems, "its architecture is "+facts.Arch+", the captured machine's "+t.Captured.Arch)
	}
	if facts.FreeBytes < t.Captured.Rootfs.Size+rootfsHeadroom {
		kind = fault.NoSpace
		problems = append(problems, "its root filesystem has too little free space")
	}
	if len(facts.NotBlank) > 0 && facts.Marker != runID {
		kind = fault.Exists
		problems = append(problems, "it is not blank: "+strings.Join(facts.NotBlank, ", ")+" would be overwritten; give a fresh machine, or remove them")
	}
	if len(problems) == 0 {
		return nil
	}
	return fault.Newf("check target machine", kind, t.Machine.Name, "%s", strings.Join(problems, "; "))
}

// Do looks again, since a check may be old, and keeps what the machine says of itself.
func (s *ProvisionMachines) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	facts, err := s.look(ctx, run)
	if err != nil {
		return nil, err
	}
	return json.Marshal(facts)
}

// Verify does nothing: Do made nothing.
func (s *ProvisionMachines) Verify(context.Context, *orchestrator.Run, orchestrator.Receipt) error {
	return nil
}

// Undo does nothing: Do made nothing.
func (s *ProvisionMachines) Undo(context.Context, *orchestrator.Run, orchestrator.Receipt) error {
	return nil
}
