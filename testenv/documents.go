package testenv

import (
	"fmt"
	"strings"
)

// Inventory is the Cluster document of the lab's cluster.
func (l *Lab) Inventory() string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: muster.dev/v1alpha1\nkind: Cluster\nmetadata: {name: %s}\nspec:\n  kubeconfigFile: %s\n", l.State.Name, l.KubeconfigFile())
	fmt.Fprintf(&b, "  ssh: {user: root, keyFile: %s, knownHostsFile: %s}\n  machines:\n", l.KeyFile(), l.KnownHostsFile())
	for _, name := range l.Names() {
		m := l.State.Machines[name]
		if m.Role != RoleControlPlane && m.Role != RoleWorker {
			continue
		}
		b.WriteString(machineLine(m, m.Role, ""))
	}
	return b.String()
}

// SSHConfig is an ssh_config(5) for the lab's machines, by name and by address.
func (l *Lab) SSHConfig() string {
	var b strings.Builder
	for _, name := range l.Names() {
		address := l.State.Machines[name].Address
		fmt.Fprintf(&b, "Host %s %s\n  HostName %[2]s\n  User root\n  IdentityFile %s\n  UserKnownHostsFile %s\n",
			name, address, l.KeyFile(), l.KnownHostsFile())
	}
	return b.String()
}

// Target names a blank machine and what it shall become.
type Target struct{ Machine, Role, Replaces string }

// MachinesDocument is a Machines document for machines of this lab; endpoint may be empty.
func (l *Lab) MachinesDocument(endpoint string, targets ...Target) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: muster.dev/v1alpha1\nkind: Machines\nmetadata: {name: %s}\nspec:\n", l.State.Name)
	fmt.Fprintf(&b, "  ssh: {user: root, keyFile: %s, knownHostsFile: %s}\n", l.KeyFile(), l.KnownHostsFile())
	if endpoint != "" {
		fmt.Fprintf(&b, "  controlPlaneEndpoint: %s\n", endpoint)
	}
	b.WriteString("  machines:\n")
	for _, target := range targets {
		m, ok := l.State.Machines[target.Machine]
		if !ok {
			return "", fmt.Errorf("lab %s has no machine %q", l.State.Name, target.Machine)
		}
		b.WriteString(machineLine(m, target.Role, target.Replaces))
	}
	return b.String(), nil
}

func machineLine(m *Machine, role, replaces string) string {
	line := fmt.Sprintf("    - {name: %s, address: %s, role: %s", m.Name, m.Address, role)
	if replaces != "" {
		line += ", replaces: " + replaces
	}
	if len(m.Disks) > 0 {
		var disks []string
		for _, disk := range m.Disks {
			disks = append(disks, fmt.Sprintf("{name: %s, path: /dev/%s}", disk.Name, disk.Name))
		}
		line += ", devices: [" + strings.Join(disks, ", ") + "]"
	}
	return line + "}\n"
}
