package steps

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/musterdr/muster/orchestrator/machine"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

const (
	etcdManifestPath          = "/etc/kubernetes/manifests/etcd.yaml"
	etcdAPIServerManifestPath = "/etc/kubernetes/manifests/kube-apiserver.yaml"
)

// etcdHost is what the steps of etcd need of a machine. *machine.Host is one.
type etcdHost interface {
	Run(ctx context.Context, command machine.Command) error
	Output(ctx context.Context, script string) (string, error)
	ReadFile(ctx context.Context, path string) ([]byte, error)
	Service(ctx context.Context, action, unit string) error
	Close() error
}

// etcdDial logs in to a machine.
type etcdDial func(ctx context.Context, m plans.Machine, defaults plans.SSH) (etcdHost, error)

func dialEtcdHost(ctx context.Context, m plans.Machine, defaults plans.SSH) (etcdHost, error) {
	return machine.Dial(ctx, m, defaults)
}

// etcdMachines are the machines that members run on: kubeadm's stacked topology.
func etcdMachines(machines []plans.Machine) []plans.Machine {
	var out []plans.Machine
	for _, m := range machines {
		if m.Role == plans.ControlPlane {
			out = append(out, m)
		}
	}
	return out
}

// etcdStaticPod is what a static pod's manifest says about its first container.
type etcdStaticPod struct {
	image string
	flags map[string]string // without dashes
}

func parseEtcdStaticPod(path string, raw []byte) (etcdStaticPod, error) {
	var pod struct {
		Spec struct {
			Containers []struct {
				Image   string   `json:"image"`
				Command []string `json:"command"`
				Args    []string `json:"args"`
			} `json:"containers"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(raw, &pod); err != nil || len(pod.Spec.Containers) == 0 {
		return etcdStaticPod{}, fault.Newf("read static pod", fault.Invalid, path, "it is no pod with a container: write it again with kubeadm init phase")
	}
	container := pod.Spec.Containers[0]
	out := etcdStaticPod{image: container.Image, flags: map[string]string{}}
	for _, word := range append(container.Command, container.Args...) {
		if name, value, _ := strings.Cut(word, "="); strings.HasPrefix(name, "--") {
			out.flags[strings.TrimPrefix(name, "--")] = value
		}
	}
	return out, nil
}

// tag is the image's version: "v1.36.3"; empty when the image is named by digest alone.
func (p etcdStaticPod) tag() string {
	image, _, _ := strings.Cut(p.image, "@")
	at := strings.LastIndexByte(image, ':')
	if at < 0 || at < strings.LastIndexByte(image, '/') {
		return ""
	}
	return image[at+1:]
}

// etcdFingerprint is the SHA-256 over the DER form of the first PEM block: a certificate, or a public
// key as PKIX.
func etcdFingerprint(path string, raw []byte) (string, error) {
	block, _ := pem.Decode(raw)
	if block == nil {
		return "", fault.Newf("fingerprint", fault.Invalid, path, "it is no PEM file")
	}
	_, err := x509.ParsePKIXPublicKey(block.Bytes)
	if block.Type == "CERTIFICATE" {
		_, err = x509.ParseCertificate(block.Bytes)
	}
	if err != nil {
		return "", fault.Newf("fingerprint", fault.Invalid, path, "it holds neither a certificate nor a public key")
	}
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:]), nil
}
