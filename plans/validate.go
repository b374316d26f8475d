package plans

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Names become parts of paths in the repository and of node names, so they follow Kubernetes' rule
// for subdomain names (RFC 1123): lower-case letters, digits, '-' and '.'.
var (
	nameRule   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	deviceRule = regexp.MustCompile(`^[A-Za-z0-9][-A-Za-z0-9._]{0,63}$`)
)

const nameText = "want lower-case letters, digits, '-' and '.', at most 253"

// validator checks the content of one document, and makes its paths absolute.
type validator struct {
	source   *source
	problems *Problems
	folder   string
}

func (v *validator) problem(format string, args []any, path ...any) {
	v.problems.add(v.source.at(path...), format, args...)
}

func (v *validator) refuse(text string, path ...any) { v.problem("%s", []any{text}, path...) }

func (v *validator) metadata(m Metadata) Metadata {
	if m.Name == "" {
		v.refuse("metadata.name is missing", "metadata")
		return m
	}
	if !nameRule.MatchString(m.Name) {
		v.refuse("metadata.name: "+nameText, "metadata", "name")
	}
	return m
}

func (v *validator) plan(p *Plan) Metadata { return v.metadata(p.Metadata) }

func (v *validator) cluster(c *Cluster) Metadata {
	spec := &c.Spec
	v.required(spec.KubeconfigFile, "spec", "kubeconfigFile")
	v.file(&spec.KubeconfigFile, "spec", "kubeconfigFile")
	v.etcd(&spec.Etcd)
	v.ssh(&spec.SSH, "spec", "ssh")
	v.machines(spec.Machines)
	v.storage(spec.Storage)
	v.databases(spec)
	for i, m := range spec.Machines {
		if m.Replaces != "" {
			v.refuse("replaces is for the machines of a Machines document", "spec", "machines", i, "replaces")
		}
	}
	return v.metadata(c.Metadata)
}

func (v *validator) etcd(e *Etcd) {
	if (e.CertFile == "") != (e.KeyFile == "") {
		v.refuse("certFile and keyFile go together", "spec", "etcd")
	}
	for i, endpoint := range e.Endpoints {
		if !isEndpoint(endpoint) {
			v.refuse("want https://host:port", "spec", "etcd", "endpoints", i)
		}
	}
	v.file(&e.CAFile, "spec", "etcd", "caFile")
	v.file(&e.CertFile, "spec", "etcd", "certFile")
	v.file(&e.KeyFile, "spec", "etcd", "keyFile")
}

func isEndpoint(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && isHostPort(u.Host) && u.User == nil &&
		(u.Path == "" || u.Path == "/") && u.RawQuery == ""
}

func isHostPort(text string) bool {
	host, port, err := net.SplitHostPort(text)
	if err != nil || host == "" {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

func (v *validator) ssh(s *SSH, path ...any) {
	if s.Port < 0 || s.Port > 65535 {
		v.refuse("port: want 1 to 65535", append(path, "port")...)
	}
	v.file(&s.KeyFile, append(path, "keyFile")...)
	v.file(&s.KnownHostsFile, append(path, "knownHostsFile")...)
}

func (v *validator) machinesDocument(m *Machines) Metadata {
	spec := &m.Spec
	v.ssh(&spec.SSH, "spec", "ssh")
	if len(spec.Machines) == 0 {
		v.refuse("machines: want at least one", "spec", "machines")
	}
	if spec.ControlPlaneEndpoint != "" && !isHostPort(spec.ControlPlaneEndpoint) {
		v.refuse("controlPlaneEndpoint: want host:port", "spec", "controlPlaneEndpoint")
	}
	v.machines(spec.Machines)
	v.storage(spec.Storage)
	replaced := map[string]int{}
	for i, machine := range spec.Machines {
		if machine.Replaces == "" {
			continue
		}
		if first, taken := replaced[machine.Replaces]; taken {
			v.refuse(fmt.Sprintf("machine %q replaces %q already", spec.Machines[first].Name, machine.Replaces),
				"spec", "machines", i, "replaces")
			continue
		}
		replaced[machine.Replaces] = i
	}
	return v.metadata(m.Metadata)
}

func (v *validator) machines(machines []Machine) {
	byName, byAddress := map[string]bool{}, map[string]string{}
	for i := range machines {
		m := &machines[i]
		at := []any{"spec", "machines", i}
		v.machine(m, at)
		if m.Name != "" && byName[m.Name] {
			v.refuse(fmt.Sprintf("there is a machine %q already", m.Name), append(at, "name")...)
		}
		if other, taken := byAddress[m.Address]; taken && m.Address != "" {
			v.refuse(fmt.Sprintf("machine %q has this address already", other), append(at, "address")...)
		}
		byName[m.Name], byAddress[m.Address] = true, m.Name
	}
}

func (v *validator) machine(m *Machine, at []any) {
	if v.required(m.Name, append(at, "name")...) && !nameRule.MatchString(m.Name) {
		v.refuse("name: "+nameText, append(at, "name")...)
	}
	if v.required(m.Address, append(at, "address")...) && !isHost(m.Address) {
		v.refuse("address: want an IP address or a host name; the port belongs in ssh.port", append(at, "address")...)
	}
	switch m.Role {
	case ControlPlane, Worker:
	case "":
		v.refuse("role is missing: control-plane or worker", append(at, "role")...)
	default:
		v.problem("unknown role %q%s", []any{m.Role, suggest(string(m.Role), []string{string(ControlPlane), string(Worker)})},
			append(at, "role")...)
	}
	v.ssh(&m.SSH, append(at, "ssh")...)
	v.devices(m.Devices, append(at, "devices"))
}

// isHost accepts IP addresses and host names; a colon stands in IPv6 addresses alone.
func isHost(text string) bool {
	if strings.Contains(text, ":") {
		_, err := netip.ParseAddr(text)
		return err == nil
	}
	return !strings.ContainsAny(text, " /@[]")
}

func (v *validator) devices(devices []Device, at []any) {
	seen := map[string]bool{}
	for i, device := range devices {
		name := append(append([]any{}, at...), i, "name")
		if !deviceRule.MatchString(device.Name) {
			v.refuse("device name: want letters, digits, '-', '_' and '.', at most 64", name...)
		}
		if seen[device.Name] {
			v.refuse(fmt.Sprintf("there is a device %q already", device.Name), name...)
		}
		seen[device.Name] = true
		if !path.IsAbs(device.Path) || path.Clean(device.Path) != device.Path {
			v.refuse("device path: want an absolute path such as /dev/vdb", append(append([]any{}, at...), i, "path")...)
		}
	}
}

func (v *validator) repository(r *Repository) Metadata {
	spec := &r.Spec
	if v.required(spec.URL, "spec", "url") {
		v.repositoryURL(spec.URL)
	}
	v.required(spec.KeyFile, "spec", "keyFile")
	v.file(&spec.KeyFile, "spec", "keyFile")
	v.file(&spec.S3.CAFile, "spec", "s3", "caFile")
	v.file(&spec.S3.CredentialsFile, "spec", "s3", "credentialsFile")
	if endpoint := spec.S3.Endpoint; endpoint != "" && !isServer(endpoint) {
		v.refuse("endpoint: want https://host or https://host:port", "spec", "s3", "endpoint")
	}
	if spec.PublicKey != "" && !isPublicKey(spec.PublicKey) {
		v.refuse(`publicKey: want "ed25519:" and 32 bytes in base64, as muster init prints it`, "spec", "publicKey")
	}
	v.retention(spec.Retention)
	return v.metadata(r.Metadata)
}

func isServer(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Hostname() != "" && u.User == nil &&
		(u.Path == "" || u.Path == "/") && u.RawQuery == ""
}

// repositoryURL never shows the URL: people put credentials there.
func (v *validator) repositoryURL(text string) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		v.refuse("url: want file:///path or s3://bucket/prefix", "spec", "url")
	case u.User != nil:
		v.refuse("url: credentials don't belong in a document; use the environment or s3.credentialsFile", "spec", "url")
	case u.RawQuery != "" || u.Fragment != "":
		v.refuse("url: its settings belong under s3", "spec", "url")
	case u.Scheme == "file" && u.Host == "" && path.IsAbs(u.Path):
	case u.Scheme == "s3" && u.Host != "":
	default:
		v.refuse("url: want file:///path or s3://bucket/prefix", "spec", "url")
	}
}

func isPublicKey(text string) bool {
	encoded, ok := strings.CutPrefix(text, "ed25519:")
	if !ok {
		return false
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	return err == nil && len(raw) == 32
}

func (v *validator) retention(r Retention) {
	for name, count := range map[string]int{
		"latest": r.Latest, "hourly": r.Hourly, "daily": r.Daily, "weekly": r.Weekly, "monthly": r.Monthly, "yearly": r.Yearly,
	} {
		if count < 0 {
			v.refuse(name+": want 0 or more", "spec", "retention", name)
		}
	}
}

func (v *validator) required(value string, path ...any) bool {
	if value == "" {
		v.refuse(fmt.Sprintf("%v is missing", path[len(path)-1]), path...)
	}
	return value != ""
}

// file makes a path absolute, so that a resume from another folder finds the same file.
func (v *validator) file(name *string, path ...any) {
	switch {
	case *name == "":
	case strings.HasPrefix(*name, "~"):
		v.refuse(fmt.Sprintf("%v: ~ is not expanded; write the whole path", path[len(path)-1]), path...)
	case !filepath.IsAbs(*name):
		*name = filepath.Join(v.folder, *name)
	}
}
