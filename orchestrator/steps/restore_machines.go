package steps

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/machine"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// RestoreMachines fills the target machines with the captured root filesystems and devices. No
// kubelet runs on them when it ends.
type RestoreMachines struct {
	// Keep are absolute paths of the target that stay as they are, besides machine.DefaultKeep.
	Keep []string `yaml:"keep,omitempty"`
}

// restoredMachine is what restore-machines leaves for each machine.
type restoredMachine struct {
	From    string   `json:"from"`
	Bytes   int64    `json:"bytes"`
	Digest  string   `json:"digest"` // of rootfs.tar as it was read
	Devices []string `json:"devices,omitempty"`
	Lost    []string `json:"lost,omitempty"` // devices without a place on the target
}

// Items are the target machines' names.
func (s *RestoreMachines) Items(_ context.Context, run *orchestrator.Run) ([]string, error) {
	return targetNames(run), nil
}

// Check pairs the machines; whether they are blank is provision-machines' question.
func (s *RestoreMachines) Check(ctx context.Context, run *orchestrator.Run) error {
	_, manifest, err := pointOf(ctx, run)
	if err != nil {
		return err
	}
	_, err = targetOf(manifest, run)
	return err
}

// Do restores one machine. The marker is written before anything else, so that a resumed run knows
// its own half-done work; repeating Do replaces every file again.
func (s *RestoreMachines) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	point, manifest, err := pointOf(ctx, run)
	if err != nil {
		return nil, err
	}
	t, err := targetOf(manifest, run)
	if err != nil {
		return nil, err
	}
	host, err := machine.Dial(ctx, t.Machine, run.Machines.Spec.SSH)
	if err != nil {
		return nil, err
	}
	defer host.Close() // every write was waited for
	if err := host.WriteFile(ctx, machine.MarkerPath, 0o600, []byte(run.ID)); err != nil {
		return nil, err
	}
	if !t.captured() { // it joins anew
		return json.Marshal(restoredMachine{})
	}
	if err := host.Service(ctx, "stop", "kubelet"); err != nil {
		return nil, err
	}
	if err := host.StopPods(ctx); err != nil {
		return nil, err
	}
	out := restoredMachine{From: t.Captured.Name}
	run.Progress.Total(t.Captured.Rootfs.Size, 0)
	run.Progress.Status("root filesystem of " + t.Machine.Name)
	keep := append(machine.DefaultKeep(), s.Keep...)
	digest, err := streamContent(ctx, run, point, t.Captured.Rootfs, func(r io.Reader) error { return host.RestoreRootfs(ctx, keep, r) })
	if err != nil {
		return nil, err
	}
	out.Bytes, out.Digest = t.Captured.Rootfs.Size, digest
	if err := s.restoreDevices(ctx, run, point, host, t, &out); err != nil {
		return nil, err
	}
	if err := host.ReloadServices(ctx); err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// streamContent hands a file of the point to restore and compares its digest with the manifest's
// once all of it was read.
func streamContent(ctx context.Context, run *orchestrator.Run, point repository.Point, content repository.Content, restore func(io.Reader) error) (string, error) {
	opened, err := run.Repository.OpenPath(ctx, point, content.Path)
	if err != nil {
		return "", err
	}
	defer opened.Close()
	sum := sha256.New()
	if err := restore(io.TeeReader(opened, io.MultiWriter(sum, countingWriter{run.Progress}))); err != nil {
		return "", err
	}
	digest := hex.EncodeToString(sum.Sum(nil))
	if digest != content.SHA256 {
		return "", fault.Newf("restore", fault.Corrupt, content.Path, "its digest is %s, the manifest says %s: nothing was started on the machine", digest, content.SHA256)
	}
	return digest, nil
}

func (s *RestoreMachines) restoreDevices(ctx context.Context, run *orchestrator.Run, point repository.Point, host *machine.Host, t target, out *restoredMachine) error {
	for _, captured := range t.Captured.Devices {
		device, ok := deviceNamed(t.Machine.Devices, captured.Name)
		if !ok {
			out.Lost = append(out.Lost, captured.Name)
			run.Progress.Report(orchestrator.Finding{
				Severity: orchestrator.Lost, Layer: "disks", Subject: t.Machine.Name + " " + captured.Name,
				Text: "the target machine lists no device of this name; take the image from " + captured.Image.Path + ", or rebuild with the device in the Machines document",
			})
			continue
		}
		info, err := host.DeviceInfo(ctx, device.Path)
		if err != nil {
			return err
		}
		if info.Mountpoint == "" { // mounted already: an earlier try of this run came this far
			run.Progress.Status("device " + captured.Name + " of " + t.Machine.Name)
			_, err = streamContent(ctx, run, point, captured.Image, func(r io.Reader) error {
				return host.RestoreDevice(ctx, device.Path, captured.Image.Size, r)
			})
			if err != nil {
				return err
			}
			if err := mountDevice(ctx, host, device.Path, captured.Mountpoint); err != nil {
				return err
			}
		}
		out.Devices = append(out.Devices, captured.Name)
	}
	return nil
}

func deviceNamed(devices []plans.Device, name string) (plans.Device, bool) {
	for _, device := range devices {
		if device.Name == name {
			return device, true
		}
	}
	return plans.Device{}, false
}

// mountDevice mounts a device where it was mounted when it was captured.
func mountDevice(ctx context.Context, host *machine.Host, device, mountpoint string) error {
	if mountpoint == "" {
		return nil
	}
	at := machine.Quote(mountpoint)
	return host.Run(ctx, machine.Command{Script: "mkdir -p " + at + " && mount " + machine.Quote(device) + " " + at})
}

// Verify looks whether the machine holds what makes it a node.
func (s *RestoreMachines) Verify(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	var r restoredMachine
	if err := json.Unmarshal(receipt, &r); err != nil {
		return fault.New("read receipt", fault.Corrupt, run.Item, err)
	}
	if r.From == "" {
		return nil
	}
	m, err := findMachine(run.Machines.Spec.Machines, run.Item)
	if err != nil {
		return err
	}
	host, err := machine.Dial(ctx, m, run.Machines.Spec.SSH)
	if err != nil {
		return err
	}
	defer host.Close() // nothing was written
	for _, file := range []string{"/etc/kubernetes/kubelet.conf", "/var/lib/kubelet/config.yaml", "/etc/kubernetes/pki/ca.crt"} {
		if _, err := host.ReadFile(ctx, file); err != nil {
			return err
		}
	}
	return nil
}

// Undo does nothing: a blank machine that was filled is made blank by making it again.
func (s *RestoreMachines) Undo(context.Context, *orchestrator.Run, orchestrator.Receipt) error {
	return nil
}

// Summarize counts the machine.
func (s *RestoreMachines) Summarize(receipt orchestrator.Receipt) (orchestrator.Summary, error) {
	var r restoredMachine
	err := json.Unmarshal(receipt, &r)
	summary := orchestrator.Summary{Layer: "machines", Unit: "machines", Expected: 1, Done: 1, Bytes: r.Bytes}
	if r.From == "" {
		summary.Text = "joined anew"
	}
	return summary, err
}
