package kubeadm

import "path"

// Where kubeadm puts things.
const (
	AdminConfig       = "/etc/kubernetes/admin.conf"
	KubeletConfig     = "/etc/kubernetes/kubelet.conf"
	KubeletFlags      = "/var/lib/kubelet/kubeadm-flags.env"
	KubeletSettings   = "/var/lib/kubelet/config.yaml"
	KubeletInstance   = "/var/lib/kubelet/instance-config.yaml"
	KubeletClient     = "/var/lib/kubelet/pki/kubelet-client-current.pem" // a symbolic link
	APIServerManifest = "/etc/kubernetes/manifests/kube-apiserver.yaml"
	PKI               = "/etc/kubernetes/pki"
	HostsFile         = "/etc/hosts"
	HostnameFile      = "/etc/hostname"
)

// ClusterAuthority signs what the API server and its clients use.
const ClusterAuthority = PKI + "/ca"

const (
	etcdAuthority       = PKI + "/etcd/ca"
	frontProxyAuthority = PKI + "/front-proxy-ca"
)

// Authorities are the paths of a control plane's authorities, without .crt and .key.
func Authorities() []string { return []string{ClusterAuthority, etcdAuthority, frontProxyAuthority} }

// ServingKeys are files of the kubelet that it makes again when they are gone: its own serving
// certificate names the machine.
func ServingKeys() []string {
	const dir = "/var/lib/kubelet/pki"
	return []string{path.Join(dir, "kubelet.crt"), path.Join(dir, "kubelet.key"), path.Join(dir, "kubelet-server-current.pem")}
}

// File is a file that holds a machine's name or address, or a certificate that can expire.
type File struct {
	Path string
	// Authority signs the certificates in it; empty when it holds none.
	Authority string
	// Rewrite gives its text the new names; nil leaves the text alone.
	Rewrite func(r Renaming, text string) string
	// Server marks the API server's own certificate, which must name the endpoint too.
	Server bool
}

// Files lists the files of a machine, in an order that is safe to die in: each is whole by itself.
// A file that a machine lacks is no error.
func Files(controlPlane bool) []File {
	files := []File{
		{Path: HostsFile, Rewrite: Renaming.Hosts},
		{Path: HostnameFile, Rewrite: Renaming.names},
		{Path: KubeletConfig, Rewrite: Renaming.Kubeconfig},
		{Path: KubeletFlags, Rewrite: Renaming.Flags},
		{Path: KubeletSettings, Rewrite: Renaming.addresses},
		{Path: KubeletInstance, Rewrite: Renaming.addresses},
		{Path: KubeletClient, Authority: ClusterAuthority},
	}
	if !controlPlane {
		return files
	}
	for _, name := range []string{"admin", "super-admin", "controller-manager", "scheduler"} {
		files = append(files, File{Path: "/etc/kubernetes/" + name + ".conf", Authority: ClusterAuthority, Rewrite: Renaming.Kubeconfig})
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		files = append(files, File{Path: "/etc/kubernetes/manifests/" + name + ".yaml", Rewrite: Renaming.Manifest})
	}
	for _, signed := range []struct{ authority, name string }{
		{ClusterAuthority, "apiserver"}, {ClusterAuthority, "apiserver-kubelet-client"}, {frontProxyAuthority, "front-proxy-client"},
		{etcdAuthority, "apiserver-etcd-client"}, {etcdAuthority, "etcd/server"}, {etcdAuthority, "etcd/peer"}, {etcdAuthority, "etcd/healthcheck-client"},
	} {
		files = append(files, File{Path: path.Join(PKI, signed.name+".crt"), Authority: signed.authority, Server: signed.name == "apiserver"})
	}
	return files
}
