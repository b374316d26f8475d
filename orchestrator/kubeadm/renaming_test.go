package kubeadm

import "testing"

var swap = Renaming{
	Names:       map[string]string{"cp-0": "cp-1", "cp-1": "cp-0", "etcd": "db", "worker": "w"},
	Addresses:   map[string]string{"10.0.0.1": "10.0.0.2", "10.0.0.2": "10.0.0.1", "10.0.0.10": "10.1.0.10", "fd00::1": "fd00::2"},
	OldEndpoint: "api.example.com:6443", Endpoint: "10.1.0.9:6443", Peers: "cp-1=https://10.0.0.2:2380",
}

func TestRenaming(t *testing.T) {
	for name, test := range map[string]struct {
		rewrite      func(Renaming, string) string
		before, want string
	}{
		"addresses swap in one pass":       {Renaming.Flags, "10.0.0.1,10.0.0.2", "10.0.0.2,10.0.0.1"},
		"the longer address wins":          {Renaming.Flags, "10.0.0.10 10.0.0.1", "10.1.0.10 10.0.0.2"},
		"part of an address stays":         {Renaming.Flags, "110.0.0.1 10.0.0.100 10.0.0.1.example.com", "110.0.0.1 10.0.0.100 10.0.0.1.example.com"},
		"a port is no part of an address":  {Renaming.Flags, "https://10.0.0.1:2379,https://10.0.0.2:2379/", "https://10.0.0.2:2379,https://10.0.0.1:2379/"},
		"IPv6":                             {Renaming.Flags, "[fd00::1]:6443 fd00::1 fd00::12", "[fd00::2]:6443 fd00::2 fd00::12"},
		"names in flags":                   {Renaming.Manifest, "--name=cp-0 --hostname-override=cp-1", "--name=cp-1 --hostname-override=cp-0"},
		"a machine called etcd":            {Renaming.Manifest, "  - etcd\n  - --name=etcd\n  image: etcd:3\n", "  - etcd\n  - --name=db\n  image: etcd:3\n"},
		"the members of etcd":              {Renaming.Manifest, "- --initial-cluster=cp-0=https://10.0.0.1:2380,x=y\n", "- --initial-cluster=cp-1=https://10.0.0.2:2380\n"},
		"the endpoint":                     {Renaming.Kubeconfig, "    server: https://api.example.com:6443\n", "    server: https://10.1.0.9:6443\n"},
		"a server that is a machine":       {Renaming.Kubeconfig, "    server: https://10.0.0.1:6443\n", "    server: https://10.0.0.2:6443\n"},
		"the node's user":                  {Renaming.Kubeconfig, "- name: system:node:worker\n  user: system:node:workers", "- name: system:node:w\n  user: system:node:workers"},
		"hosts":                            {Renaming.Hosts, "10.0.0.1 cp-0 cp-0.local\n", "10.0.0.2 cp-1 cp-0.local\n"},
		"kubeadm's endpoint":               {Renaming.ClusterConfiguration, "controlPlaneEndpoint: api.example.com:6443\netcd: {}\n", "controlPlaneEndpoint: 10.1.0.9:6443\netcd: {}\n"},
		"what nobody renamed is untouched": {Renaming.Manifest, "image: registry/kube:v1\n", "image: registry/kube:v1\n"},
	} {
		if got := test.rewrite(swap, test.before); got != test.want {
			t.Errorf("%s: %q became %q, want %q", name, test.before, got, test.want)
		}
	}
}

func TestEndpointAfter(t *testing.T) {
	for old, want := range map[string]string{
		"api.example.com:6443": "api.example.com:6443", // a name: whoever owns it points it elsewhere
		"10.0.0.1:6443":        "10.0.0.2:6443",        // a machine that moved
		"10.9.9.9:6443":        "10.0.0.7:6443",        // a balancer that is gone
		"":                     "10.0.0.7:6443",
	} {
		r := swap
		r.OldEndpoint = old
		if got := r.EndpointAfter("10.0.0.7:6443"); got != want {
			t.Errorf("after %q: %q, want %q", old, got, want)
		}
	}
}
