package steps

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/machine"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// CaptureMachines stores each machine's root filesystem and attached devices.
type CaptureMachines struct {
	// Machines are names or globs; empty means all of the Cluster document.
	Machines []string `yaml:"machines,omitempty"`
	// Exclude are absolute paths that don't travel, besides machine.DefaultExclude.
	Exclude []string `yaml:"exclude,omitempty"`
}

// machineReceipt is what capture-machines leaves for each machine.
type machineReceipt struct {
	Layer repository.MachineLayer `json:"layer"`
	Tree  repository.Tree         `json:"tree"` // machines/<name>
}

// Items are the machines' names.
func (s *CaptureMachines) Items(_ context.Context, run *orchestrator.Run) ([]string, error) {
	var names []string
	for _, m := range run.Cluster.Spec.Machines {
		wanted := len(s.Machines) == 0
		for _, pattern := range s.Machines {
			matched, err := path.Match(pattern, m.Name)
			if err != nil {
				return nil, fault.New("choose machines", fault.Invalid, pattern, err)
			}
			wanted = wanted || matched
		}
		if wanted {
			names = append(names, m.Name)
		}
	}
	return names, nil
}

func findMachine(machines []plans.Machine, name string) (plans.Machine, error) {
	i := slices.IndexFunc(machines, func(m plans.Machine) bool { return m.Name == name })
	if i < 0 {
		return plans.Machine{}, fault.Newf("find machine", fault.NotFound, name, "the document lists no such machine")
	}
	return machines[i], nil
}

func dialMachine(ctx context.Context, run *orchestrator.Run) (*machine.Host, plans.Machine, error) {
	m, err := findMachine(run.Cluster.Spec.Machines, run.Item)
	if err != nil {
		return nil, m, err
	}
	host, err := machine.Dial(ctx, m, run.Cluster.Spec.SSH)
	return host, m, err
}

// Check logs in and looks for the tools and devices that a capture needs.
func (s *CaptureMachines) Check(ctx context.Context, run *orchestrator.Run) error {
	for _, exclude := range s.Exclude {
		if !path.IsAbs(exclude) || exclude == "/" {
			return fault.Newf("check exclude", fault.Invalid, exclude, "want an absolute path below /")
		}
	}
	host, m, err := dialMachine(ctx, run)
	if err != nil {
		return err
	}
	defer host.Close() // nothing was written
	facts, err := host.Facts(ctx)
	if err != nil {
		return err
	}
	if len(facts.Missing) > 0 {
		return fault.Newf("check machine", fault.NotFound, m.Name, "it lacks %s", strings.Join(facts.Missing, ", "))
	}
	for _, device := range m.Devices {
		if _, err := host.DeviceInfo(ctx, device.Path); err != nil {
			return err
		}
	}
	return nil
}

// Do streams the machine into the repository.
func (s *CaptureMachines) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	host, m, err := dialMachine(ctx, run)
	if err != nil {
		return nil, err
	}
	defer host.Close() // nothing was written
	facts, err := host.Facts(ctx)
	if err != nil {
		return nil, err
	}
	layer := repository.MachineLayer{
		Name: m.Name, Address: m.Address, Role: string(m.Role), OS: facts.OS, Arch: facts.Arch, Kernel: facts.Kernel,
		Taken: run.Now().UTC(), Exclude: slices.Concat(machine.DefaultExclude(), s.Exclude),
	}
	mounted, err := mountpoints(ctx, host, m.Devices)
	if err != nil {
		return nil, err
	}
	layer.Exclude = append(layer.Exclude, mounted...)
	run.Progress.Status("root filesystem of " + m.Name)
	rootfs, err := storeStream(ctx, run, m.Name+"/rootfs.tar", func(w io.Writer) error { return host.CaptureRootfs(ctx, layer.Exclude, w) })
	if err != nil {
		return nil, err
	}
	base := "machines/" + m.Name + "/"
	layer.Rootfs = repository.Content{Path: base + "rootfs.tar", Size: rootfs.Size, SHA256: rootfs.SHA256}
	files := []repository.File{{Path: "rootfs.tar", Object: rootfs}}
	for _, device := range m.Devices {
		file, described, err := captureDevice(ctx, run, host, device)
		if err != nil {
			return nil, err
		}
		described.Image.Path = base + file.Path
		layer.Devices = append(layer.Devices, described)
		files = append(files, file)
	}
	return sealMachine(ctx, run, layer, files)
}

// mountpoints are where the devices are mounted: their content goes into their images, not into the
// root filesystem.
func mountpoints(ctx context.Context, host *machine.Host, devices []plans.Device) ([]string, error) {
	var paths []string
	for _, device := range devices {
		info, err := host.DeviceInfo(ctx, device.Path)
		if err != nil {
			return nil, err
		}
		if info.Mountpoint != "" && info.Mountpoint != "/" {
			paths = append(paths, info.Mountpoint)
		}
	}
	return paths, nil
}

func captureDevice(ctx context.Context, run *orchestrator.Run, host *machine.Host, device plans.Device) (repository.File, repository.DeviceLayer, error) {
	info, err := host.DeviceInfo(ctx, device.Path)
	if err != nil {
		return repository.File{}, repository.DeviceLayer{}, err
	}
	run.Progress.Status(fmt.Sprintf("device %s of %s", device.Name, host.Name()))
	stored, err := storeStream(ctx, run, host.Name()+"/"+device.Name, func(w io.Writer) error { return host.CaptureDevice(ctx, device.Path, info, w) })
	if err != nil {
		return repository.File{}, repository.DeviceLayer{}, err
	}
	if stored.Size != info.Bytes {
		return repository.File{}, repository.DeviceLayer{}, fault.Newf("capture device", fault.Transient, device.Path, "%d of %d bytes came", stored.Size, info.Bytes)
	}
	layer := repository.DeviceLayer{
		Name: device.Name, Path: device.Path, Filesystem: info.Filesystem, Mountpoint: info.Mountpoint, Frozen: info.Mountpoint != "",
		Image: repository.Content{Size: stored.Size, SHA256: stored.SHA256},
	}
	return repository.File{Path: "devices/" + device.Name + ".img", Object: stored}, layer, nil
}

func sealMachine(ctx context.Context, run *orchestrator.Run, layer repository.MachineLayer, files []repository.File) (orchestrator.Receipt, error) {
	description, err := yaml.Marshal(layer)
	if err != nil {
		return nil, fault.New("describe machine", fault.Internal, layer.Name, err)
	}
	stored, err := run.Repository.Put(ctx, layer.Name+"/machine.yaml", strings.NewReader(string(description)))
	if err != nil {
		return nil, err
	}
	tree, err := run.Repository.PutTree(ctx, append(files, repository.File{Path: "machine.yaml", Object: stored}))
	if err != nil {
		return nil, err
	}
	if err := run.Repository.Flush(ctx); err != nil {
		return nil, err
	}
	return json.Marshal(machineReceipt{Layer: layer, Tree: tree})
}

// storeStream stores what produce writes, counting it as progress.
func storeStream(ctx context.Context, run *orchestrator.Run, name string, produce func(io.Writer) error) (repository.Object, error) {
	w, err := run.Repository.Create(ctx, name)
	if err != nil {
		return repository.Object{}, err
	}
	defer w.Abort()
	if err := produce(io.MultiWriter(w, countingWriter{run.Progress})); err != nil {
		return repository.Object{}, err
	}
	return w.Commit()
}

type countingWriter struct{ progress orchestrator.Progress }

func (c countingWriter) Write(p []byte) (int, error) {
	c.progress.Add(int64(len(p)), 0)
	return len(p), nil
}

// Verify opens what was stored again.
func (s *CaptureMachines) Verify(ctx context.Context, run *orchestrator.Run, receipt orchestrator.Receipt) error {
	return verifyTree(ctx, run, receipt)
}

// Undo does nothing: content that no point refers to is garbage for maintenance.
func (s *CaptureMachines) Undo(context.Context, *orchestrator.Run, orchestrator.Receipt) error {
	return nil
}

// Summarize counts the machine.
func (s *CaptureMachines) Summarize(receipt orchestrator.Receipt) (orchestrator.Summary, error) {
	var r machineReceipt
	err := json.Unmarshal(receipt, &r)
	return orchestrator.Summary{Layer: "machines", Unit: "machines", Expected: 1, Done: 1, Bytes: r.Tree.Bytes}, err
}
