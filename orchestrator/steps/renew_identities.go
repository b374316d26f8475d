package steps

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"path"
	"strings"

	"github.com/musterdr/muster/orchestrator"
	"github.com/musterdr/muster/orchestrator/kubeadm"
	"github.com/musterdr/muster/orchestrator/machine"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

// RenewIdentities gives restored machines the names and addresses they have now: in manifests,
// kubeconfigs, flags and certificates. What ends soon is renewed too, and a worker that was never
// captured becomes a node. Authorities and all private keys stay what they were.
type RenewIdentities struct{}

// renewedIdentity is what renew-identities leaves for each machine.
type renewedIdentity struct {
	Machine  string            `json:"machine"`
	Was      string            `json:"was,omitempty"` // empty: it joined anew
	Files    []string          `json:"files"`         // that were written
	Reissued map[string]string `json:"reissued,omitempty"`
}

// originalsDir keeps the restored files as they were, so that doing it again starts from them: two
// machines may have swapped their names.
const originalsDir = "/etc/muster/originals"

// Items are the target machines' names.
func (s *RenewIdentities) Items(_ context.Context, run *orchestrator.Run) ([]string, error) {
	return targetNames(run), nil
}

// Check pairs the machines.
func (s *RenewIdentities) Check(ctx context.Context, run *orchestrator.Run) error {
	_, manifest, err := pointOf(ctx, run)
	if err != nil {
		return err
	}
	_, err = targetOf(manifest, run)
	return err
}

// Do rewrites one machine's files, each from its restored original.
func (s *RenewIdentities) Do(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) (orchestrator.Receipt, error) {
	_, manifest, err := pointOf(ctx, run)
	if err != nil {
		return nil, err
	}
	t, err := targetOf(manifest, run)
	if err != nil {
		return nil, err
	}
	id, err := openIdentities(ctx, run)
	if err != nil {
		return nil, err
	}
	host, err := machine.Dial(ctx, t.Machine, run.Machines.Spec.SSH)
	if err != nil {
		return nil, err
	}
	defer host.Close() // every write was waited for
	out := renewedIdentity{Machine: t.Machine.Name, Was: t.Captured.Name, Reissued: map[string]string{}}
	if !t.captured() {
		err = id.join(ctx, host, t.Machine, &out)
	} else {
		err = id.renew(ctx, host, t, &out)
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// identities is what the machines of one rebuild are called, and who signs for them.
type identities struct {
	run         *orchestrator.Run
	renaming    kubeadm.Renaming
	authorities map[string]kubeadm.Authority
}

// openIdentities reads the authorities and the old endpoint from the first control-plane machine,
// where restore-machines put them. Keys stay in memory.
func openIdentities(ctx context.Context, run *orchestrator.Run) (*identities, error) {
	renaming, err := renamingOf(ctx, run)
	if err != nil {
		return nil, err
	}
	first := controlPlanes(run.Machines)[0]
	host, err := machine.Dial(ctx, first, run.Machines.Spec.SSH)
	if err != nil {
		return nil, err
	}
	defer host.Close() // nothing was written
	id := &identities{run: run, renaming: renaming, authorities: map[string]kubeadm.Authority{}}
	admin, err := original(ctx, host, run.ID, kubeadm.AdminConfig)
	if err != nil {
		return nil, err
	}
	id.renaming.OldEndpoint = kubeadm.EndpointOf(string(admin))
	id.renaming.Endpoint = endpointNow(id.renaming, run.Machines)
	for _, name := range kubeadm.Authorities() {
		if err := id.authority(ctx, host, name); err != nil {
			return nil, err
		}
	}
	return id, nil
}

// endpointNow is the endpoint that the Machines document names, else the one that follows from the old.
func endpointNow(r kubeadm.Renaming, machines *plans.Machines) string {
	if machines.Spec.ControlPlaneEndpoint != "" {
		return machines.Spec.ControlPlaneEndpoint
	}
	return r.EndpointAfter(net.JoinHostPort(controlPlanes(machines)[0].Address, apiServerPort))
}

// authority is missing where somebody outside the cluster signs; only then is that an error when it
// is needed.
func (id *identities) authority(ctx context.Context, host *machine.Host, name string) error {
	certificate, err := host.ReadFile(ctx, name+".crt")
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	key, err := host.ReadFile(ctx, name+".key")
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	id.authorities[name], err = kubeadm.ParseAuthority(name, certificate, key)
	return err
}

// renamingOf pairs old and new names and addresses of all machines.
func renamingOf(ctx context.Context, run *orchestrator.Run) (kubeadm.Renaming, error) {
	_, manifest, err := pointOf(ctx, run)
	if err != nil {
		return kubeadm.Renaming{}, err
	}
	pairs, _, err := targets(manifest, run.Machines)
	if err != nil {
		return kubeadm.Renaming{}, err
	}
	r := kubeadm.Renaming{Names: map[string]string{}, Addresses: map[string]string{}}
	var peers []string
	for _, t := range pairs {
		if t.captured() {
			r.Names[t.Captured.Name], r.Addresses[t.Captured.Address] = t.Machine.Name, t.Machine.Address
		}
	}
	for _, peer := range etcdPeers(run.Machines) {
		peers = append(peers, peer.Name+"="+peer.URL)
	}
	r.Peers = strings.Join(peers, ",")
	return r, nil
}

// original reads a file as it was restored: the copy that an earlier try kept, else the file.
func original(ctx context.Context, host *machine.Host, run, name string) ([]byte, error) {
	kept, err := host.ReadFile(ctx, path.Join(originalsDir, run, name))
	if !fault.Is(err, fault.NotFound) {
		return kept, err
	}
	return host.ReadFile(ctx, name)
}

func (id *identities) renew(ctx context.Context, host *machine.Host, t target, out *renewedIdentity) error {
	for _, file := range kubeadm.Files(t.Machine.Role == plans.ControlPlane) {
		id.run.Progress.Status(t.Machine.Name + " " + file.Path)
		if err := id.renewFile(ctx, host, t.Machine, file, out); err != nil {
			return err
		}
	}
	if t.Machine.Name == t.Captured.Name && t.Machine.Address == t.Captured.Address {
		return nil
	}
	var script strings.Builder
	fmt.Fprintf(&script, "hostname %s\n", machine.Quote(t.Machine.Name))
	for _, name := range kubeadm.ServingKeys() {
		fmt.Fprintf(&script, "rm -f %s\n", machine.Quote(name))
	}
	return host.Run(ctx, machine.Command{Script: script.String()})
}

// renewFile writes a file when its new content is another. The original is kept before.
func (id *identities) renewFile(ctx context.Context, host *machine.Host, m plans.Machine, file kubeadm.File, out *renewedIdentity) error {
	before, err := original(ctx, host, id.run.ID, file.Path)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	after, reason, err := id.contentOf(file, before, m)
	if err != nil {
		return err
	}
	if bytes.Equal(before, after) {
		return nil
	}
	if err := keepOriginal(ctx, host, id.run.ID, file.Path); err != nil {
		return err
	}
	if err := host.ReplaceFile(ctx, file.Path, after); err != nil {
		return err
	}
	out.Files = append(out.Files, file.Path)
	if reason != "" {
		out.Reissued[file.Path] = reason
	}
	return nil
}

// contentOf gives a file its new names and certificate.
func (id *identities) contentOf(file kubeadm.File, before []byte, m plans.Machine) (after []byte, reason string, err error) {
	after = before
	if file.Rewrite != nil {
		after = []byte(file.Rewrite(id.renaming, string(before)))
	}
	if file.Authority == "" {
		return after, "", nil
	}
	reissuing := kubeadm.Reissuing{Renaming: id.renaming, Now: id.run.Now()}
	if file.Server {
		host, _, err := net.SplitHostPort(id.renaming.Endpoint)
		if err == nil {
			reissuing.Hosts = []string{m.Name, m.Address, host}
		}
	}
	authority, known := id.authorities[file.Authority]
	if !known {
		return after, "", id.refuseUnsigned(file)
	}
	if strings.HasSuffix(file.Path, ".conf") {
		renewed, reason, err := authority.ReissueKubeconfig(file.Path, string(after), reissuing)
		if err == nil && reason != "" {
			after = []byte(renewed)
		}
		return after, reason, err
	}
	renewed, reason, err := authority.Reissue(file.Path, after, reissuing)
	if err == nil && reason != "" {
		after = renewed
	}
	return after, reason, err
}

func (id *identities) refuseUnsigned(file kubeadm.File) error {
	if !id.renaming.Moves() {
		return nil
	}
	return fault.Newf("issue certificate", fault.Unsupported, file.Path,
		"the machines have other names or addresses, and the key of %s is not in the cluster: rebuild on machines with the old names and addresses, or have your authority sign it", file.Authority+".crt")
}

// keepOriginal copies a file aside, once, with its mode.
func keepOriginal(ctx context.Context, host *machine.Host, run, name string) error {
	kept := path.Join(originalsDir, run, name)
	script := fmt.Sprintf("set -e; [ ! -e %[1]s ] || exit 0; umask 077; mkdir -p %[2]s; cp -pL %[3]s %[1]s.part; sync %[1]s.part; mv %[1]s.part %[1]s",
		machine.Quote(kept), machine.Quote(path.Dir(kept)), machine.Quote(name))
	return host.Run(ctx, machine.Command{Script: script})
}

// join makes a node of a worker that was never captured: what kubeadm join would write, with a
// certificate that the cluster's authority signs here.
func (id *identities) join(ctx context.Context, host *machine.Host, m plans.Machine, out *renewedIdentity) error {
	authority, known := id.authorities[kubeadm.ClusterAuthority]
	if !known {
		return id.refuseUnsigned(kubeadm.File{Path: kubeadm.KubeletClient, Authority: kubeadm.ClusterAuthority})
	}
	model, err := machine.Dial(ctx, controlPlanes(id.run.Machines)[0], id.run.Machines.Spec.SSH)
	if err != nil {
		return err
	}
	defer model.Close() // nothing was written
	settings, err := original(ctx, model, id.run.ID, kubeadm.KubeletSettings)
	if err != nil {
		return err
	}
	flags, err := original(ctx, model, id.run.ID, kubeadm.KubeletFlags)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	if err := host.Run(ctx, machine.Command{Script: "[ -e " + kubeadm.KubeletClient + " ]"}); err != nil {
		if err := id.writeClient(ctx, host, authority, m); err != nil {
			return err
		}
	}
	ca := kubeadm.JoinAuthority(authority)
	for _, file := range []struct {
		path    string
		content []byte
	}{
		{kubeadm.ClusterAuthority + ".crt", ca},
		{kubeadm.KubeletSettings, settings},
		{kubeadm.KubeletFlags, kubeadm.JoinFlags(string(flags), m.Address)},
		{kubeadm.KubeletConfig, kubeadm.JoinKubeconfig(id.renaming.Endpoint, ca)}, // last: the kubelet starts with it
	} {
		if err := host.WriteFile(ctx, file.path, 0o600, file.content); err != nil {
			return err
		}
		out.Files = append(out.Files, file.path)
	}
	return nil
}

// writeClient writes a new client certificate as kubelet does: a file, and a link that names it.
func (id *identities) writeClient(ctx context.Context, host *machine.Host, authority kubeadm.Authority, m plans.Machine) error {
	client, err := authority.IssueNode(m.Name, id.run.Now())
	if err != nil {
		return err
	}
	file := path.Join(path.Dir(kubeadm.KubeletClient), "kubelet-client-muster.pem")
	if err := host.WriteFile(ctx, file, 0o600, client); err != nil {
		return err
	}
	return host.Run(ctx, machine.Command{Script: fmt.Sprintf("ln -sfn %s %s", file, kubeadm.KubeletClient)})
}

// Verify looks whether the machine's own files name it.
func (s *RenewIdentities) Verify(ctx context.Context, run *orchestrator.Run, _ orchestrator.Receipt) error {
	m, err := findMachine(run.Machines.Spec.Machines, run.Item)
	if err != nil {
		return err
	}
	host, err := machine.Dial(ctx, m, run.Machines.Spec.SSH)
	if err != nil {
		return err
	}
	defer host.Close() // nothing was written
	if _, err := host.ReadFile(ctx, kubeadm.KubeletConfig); err != nil || m.Role != plans.ControlPlane {
		return err
	}
	manifest, err := host.ReadFile(ctx, kubeadm.APIServerManifest)
	if err != nil {
		return err
	}
	if address := kubeadm.AdvertiseAddress(string(manifest)); address != "" && address != m.Address {
		return fault.Newf("verify identity", fault.Corrupt, m.Name, "%s announces %s, the machine is at %s", kubeadm.APIServerManifest, address, m.Address)
	}
	return nil
}

// Undo does nothing: a machine that was filled is made blank by making it again.
func (s *RenewIdentities) Undo(context.Context, *orchestrator.Run, orchestrator.Receipt) error {
	return nil
}
