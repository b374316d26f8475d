package main

import (
	"io"
	"net/url"
	"strings"
	"text/template"

	"github.com/musterdr/muster/orchestrator/etcd"
	"github.com/musterdr/muster/orchestrator/machine"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// breakGlass is a shell script: what it does by hand is what `muster rebuild` does. Everything that
// comes from a document or a manifest stands in quotes, or in a comment as one line.
const breakGlass = `# Bring recovery point {{line .Manifest.ID}} of cluster {{line .Manifest.Cluster}} back with kopia, etcdutl, tar and kubectl alone.
# Needs: the key file, and root over SSH on one blank machine for each below, under the same name and
# address, with container runtime, kubelet and tar.

# 1. Take the recovery point out of the repository, and see that it is whole.
export KOPIA_PASSWORD="$({{.ReadKey}} | sed -n 's/^password: //p')"
[ -n "$KOPIA_PASSWORD" ] || { echo 'the key file gives no password' >&2; exit 1; }
kopia --config-file ./kopia.config --no-persist-credentials repository connect {{.Connect}}
kopia --config-file ./kopia.config restore {{.Point.Root}} ./point
sha256sum --check --quiet <<'SUMS'
{{range .Sums}}{{.}}
{{end}}SUMS
{{range .Manifest.Machines}}{{$machine := .}}
# 2. {{line .Name}} ({{line .Role}}), captured at {{line .Address}}: stop the kubelet, fill the machine.
ssh {{$.Root .}} systemctl stop kubelet
ssh {{$.Root .}} {{q $.Unpack}} < {{q (print "./point/" .Rootfs.Path)}}
{{- range .Devices}}
ssh {{$.Root $machine}} {{q (print "dd bs=1M conv=fsync of=" (q .Path))}} < {{q (print "./point/" .Image.Path)}}
{{- if .Mountpoint}}
ssh {{$.Root $machine}} {{q (print "mkdir -p " (q .Mountpoint) " && mount " (q .Path) " " (q .Mountpoint))}}{{end}}{{end}}
ssh {{$.Root .}} 'systemctl daemon-reload && systemctl restart containerd'
{{end}}{{with .Manifest.Etcd}}
# 3. One etcd data directory for each member, from the same snapshot, with revisions that only grow.
{{- range .Members}}
etcdutl snapshot restore ./point/etcd/snapshot.db --data-dir {{q (print "./etcd-" .Name)}} --name {{q .Name}} --initial-cluster {{q $.Cluster}} --initial-cluster-token {{q (print "muster-" $.Manifest.ID)}} --initial-advertise-peer-urls {{q (index .PeerURLs 0)}} --bump-revision {{$.Bump}} --mark-compacted
tar -C {{q (print "./etcd-" .Name)}} -c . | ssh {{$.RootOf .Name}} 'chmod 700 /var/lib/etcd && tar -C /var/lib/etcd -x'
{{- end}}
{{end}}
# 4. Start every kubelet, and wait for the API server.
{{- range .Manifest.Machines}}
ssh {{$.Root .}} systemctl start kubelet
{{- end}}
ssh {{.FirstControlPlane}} 'until kubectl --kubeconfig /etc/kubernetes/admin.conf get --raw /readyz; do sleep 2; done'

# 5. Look.
ssh {{.FirstControlPlane}} kubectl --kubeconfig /etc/kubernetes/admin.conf get nodes,pods -A
{{with .Manifest.Databases}}
# 6. Databases: docs/break-glass.md has the commands for each engine.
{{- range .}}
# {{line .Name}}: {{line .Engine}} {{line .Server}}, {{line .Mode}}, in ./point/{{line .Path}}
{{- end}}
{{end}}`

type breakGlassData struct {
	Manifest repository.Manifest
	Point    repository.Point
	KeyFile  string
	Connect  string
	Cluster  string // etcd's initial cluster
	Keep     []string
}

// Root is the SSH destination of a machine, as a shell word.
func (d breakGlassData) Root(m repository.MachineLayer) string {
	return machine.Quote("root@" + m.Address)
}

// RootOf is the SSH destination of the machine that carried an etcd member.
func (d breakGlassData) RootOf(member string) string {
	for _, m := range d.Manifest.Machines {
		if m.Name == member {
			return d.Root(m)
		}
	}
	return machine.Quote("root@" + member)
}

// FirstControlPlane is the SSH destination of one.
func (d breakGlassData) FirstControlPlane() string {
	for _, m := range d.Manifest.Machines {
		if m.Role == string(plans.ControlPlane) {
			return d.Root(m)
		}
	}
	return "''"
}

// ReadKey is the command that prints the key file, whether it is wrapped with age or not.
func (d breakGlassData) ReadKey() string {
	if repository.Wrapped(d.KeyFile) {
		return "age --decrypt --identity ./identity " + machine.Quote(d.KeyFile)
	}
	return "cat " + machine.Quote(d.KeyFile)
}

// Bump is what restored revisions are raised by.
func (d breakGlassData) Bump() uint64 { return etcd.Bump(d.Manifest.Etcd.RaftIndex) }

// Unpack is the script that fills a machine from its captured root filesystem.
func (d breakGlassData) Unpack() string {
	script := `cd / && tar --extract --absolute-names --numeric-owner --xattrs --xattrs-include="*" --acls --same-permissions --same-owner --keep-directory-symlink --anchored`
	for _, path := range append([]string{"/proc", "/sys", "/dev", "/run"}, d.Keep...) {
		script += " --exclude=" + machine.Quote("."+path)
	}
	return script
}

// Sums are lines for sha256sum --check.
func (d breakGlassData) Sums() []string {
	var lines []string
	add := func(c repository.Content) {
		if c.SHA256 != "" && !strings.ContainsAny(c.Path, "\n\\") {
			lines = append(lines, c.SHA256+"  ./point/"+c.Path)
		}
	}
	if d.Manifest.Etcd != nil {
		add(d.Manifest.Etcd.Snapshot)
	}
	for _, m := range d.Manifest.Machines {
		add(m.Rootfs)
		for _, device := range m.Devices {
			add(device.Image)
		}
	}
	return lines
}

func printBreakGlass(out io.Writer, m repository.Manifest, p repository.Point, document *plans.Repository, keep []string) error {
	connect, err := connectFlags(document.Spec)
	if err != nil {
		return err
	}
	data := breakGlassData{Manifest: m, Point: p, KeyFile: document.Spec.KeyFile, Keep: keep, Connect: connect}
	if m.Etcd != nil {
		for i, member := range m.Etcd.Members {
			if i > 0 {
				data.Cluster += ","
			}
			data.Cluster += member.Name + "=" + member.PeerURLs[0]
		}
	}
	parsed, err := template.New("break-glass").Funcs(template.FuncMap{"q": machine.Quote, "line": printable}).Parse(breakGlass)
	if err != nil {
		return fault.New("print break-glass", fault.Internal, m.ID, err)
	}
	return parsed.Execute(out, data)
}

// connectFlags tell the stock kopia command where the repository is.
func connectFlags(spec plans.RepositorySpec) (string, error) {
	u, err := url.Parse(spec.URL)
	if err != nil {
		return "", fault.New("read repository URL", fault.Invalid, spec.URL, err)
	}
	if u.Scheme != "s3" {
		return "filesystem --path " + machine.Quote(u.Path), nil
	}
	flags := "s3 --bucket " + machine.Quote(u.Host)
	if prefix := strings.Trim(u.Path, "/"); prefix != "" {
		flags += " --prefix " + machine.Quote(prefix+"/")
	}
	if spec.S3.Region != "" {
		flags += " --region " + machine.Quote(spec.S3.Region)
	}
	if spec.S3.CAFile != "" {
		flags += ` --root-ca-pem-base64 "$(base64 -w0 ` + machine.Quote(spec.S3.CAFile) + `)"`
	}
	if spec.S3.Endpoint == "" {
		return flags, nil
	}
	endpoint, err := url.Parse(spec.S3.Endpoint)
	if err != nil {
		return "", fault.New("read S3 endpoint", fault.Invalid, spec.S3.Endpoint, err)
	}
	flags += " --endpoint " + machine.Quote(endpoint.Host)
	if endpoint.Scheme == "http" {
		flags += " --disable-tls"
	}
	return flags, nil
}
