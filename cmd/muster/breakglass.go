package main

import (
	"io"
	"net/url"
	"text/template"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// breakGlass is a shell script: what it does by hand is what `muster rebuild` does.
const breakGlass = `# Bring recovery point {{.Manifest.ID}} of cluster {{.Manifest.Cluster}} back with kopia, etcdutl, tar and kubectl alone.
# Needs: {{.KeyFile}}, root over SSH on one blank machine for each below, with container runtime and tar.

# 1. Take the recovery point out of the repository.
export KOPIA_PASSWORD="$(sed -n 's/^password: //p' {{.KeyFile}})"
kopia repository connect {{.Connect}} --config-file ./kopia.config
kopia --config-file ./kopia.config restore {{.Point.Root}} ./point
{{range .Manifest.Machines}}
# 2. {{.Name}} ({{.Role}}), captured at {{.Address}}: stop the kubelet, fill the machine.
ssh root@{{.Address}} systemctl stop kubelet
ssh root@{{.Address}} 'cd / && tar --extract --numeric-owner --xattrs --xattrs-include="*" --acls --same-permissions --same-owner --keep-directory-symlink --anchored{{range $.Keep}} --exclude=.{{.}}{{end}}' < ./point/machines/{{.Name}}/rootfs.tar
{{- $machine := . }}{{range .Devices}}
ssh root@{{$machine.Address}} dd of={{.Path}} bs=1M conv=fsync < ./point/machines/{{$machine.Name}}/devices/{{.Name}}.img
{{- if .Mountpoint}}
ssh root@{{$machine.Address}} 'mkdir -p {{.Mountpoint}} && mount {{.Path}} {{.Mountpoint}}'{{end}}{{end}}
{{end}}{{with .Manifest.Etcd}}
# 3. One etcd data directory for each member, from the same snapshot, with revisions that only grow.
{{- range .Members}}
etcdutl snapshot restore ./point/etcd/snapshot.db --data-dir ./etcd-{{.Name}} --name {{.Name}} --initial-cluster '{{$.Cluster}}' --initial-cluster-token muster-{{$.Manifest.ID}} --initial-advertise-peer-urls {{index .PeerURLs 0}} --bump-revision 1000000000 --mark-compacted
tar -C ./etcd-{{.Name}} -c . | ssh root@{{$.Address .Name}} 'chmod 700 /var/lib/etcd && tar -C /var/lib/etcd -x'
{{- end}}
{{end}}
# 4. Control planes first, then workers.
{{- range .Manifest.Machines}}
ssh root@{{.Address}} systemctl start kubelet
{{- end}}

# 5. Look.
ssh root@{{.FirstControlPlane}} kubectl --kubeconfig /etc/kubernetes/admin.conf get nodes,pods -A
`

type breakGlassData struct {
	Manifest repository.Manifest
	Point    repository.Point
	KeyFile  string
	Connect  string
	Cluster  string // etcd's initial cluster
	Keep     []string
}

// Address is where a member's machine was.
func (d breakGlassData) Address(member string) string {
	for _, m := range d.Manifest.Machines {
		if m.Name == member {
			return m.Address
		}
	}
	return member
}

// FirstControlPlane is the address of one.
func (d breakGlassData) FirstControlPlane() string {
	for _, m := range d.Manifest.Machines {
		if m.Role == string(plans.ControlPlane) {
			return m.Address
		}
	}
	return ""
}

func printBreakGlass(out io.Writer, m repository.Manifest, p repository.Point, document *plans.Repository, keep []string) error {
	u, err := url.Parse(document.Spec.URL)
	if err != nil {
		return fault.New("read repository URL", fault.Invalid, document.Spec.URL, err)
	}
	data := breakGlassData{Manifest: m, Point: p, KeyFile: document.Spec.KeyFile, Keep: keep, Connect: "filesystem --path " + u.Path}
	if u.Scheme == "s3" {
		data.Connect = "s3 --bucket " + u.Host + " --prefix " + u.Path
		if document.Spec.S3.Endpoint != "" {
			data.Connect += " --endpoint " + document.Spec.S3.Endpoint
		}
	}
	if m.Etcd != nil {
		for i, member := range m.Etcd.Members {
			if i > 0 {
				data.Cluster += ","
			}
			data.Cluster += member.Name + "=" + member.PeerURLs[0]
		}
	}
	parsed, err := template.New("break-glass").Parse(breakGlass)
	if err != nil {
		return fault.New("print break-glass", fault.Internal, m.ID, err)
	}
	return parsed.Execute(out, data)
}
