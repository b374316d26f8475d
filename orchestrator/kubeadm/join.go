package kubeadm

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"regexp"
)

var (
	nodeIPFlag    = regexp.MustCompile(`--node-ip=[^\s"]+`)
	taintsFlag    = regexp.MustCompile(` ?--register-with-taints=[^\s"]+`)
	overridesFlag = regexp.MustCompile(` ?--hostname-override=[^\s"]+`)
)

// JoinAuthority is ca.crt of a machine that joins.
func JoinAuthority(a Authority) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: a.Certificate.Raw})
}

// JoinFlags are the kubelet's flags on a worker that joins, after those of a control plane.
func JoinFlags(flags, address string) []byte {
	if flags == "" {
		flags = "KUBELET_KUBEADM_ARGS=\"\"\n"
	}
	flags = nodeIPFlag.ReplaceAllString(flags, "--node-ip="+address)
	return []byte(overridesFlag.ReplaceAllString(taintsFlag.ReplaceAllString(flags, ""), ""))
}

// JoinKubeconfig is kubelet.conf of a machine that joins; its client certificate stands in
// KubeletClient.
func JoinKubeconfig(endpoint string, authority []byte) []byte {
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: default-cluster
  cluster:
    certificate-authority-data: %s
    server: https://%s
contexts:
- name: default-context
  context: {cluster: default-cluster, namespace: default, user: default-auth}
current-context: default-context
users:
- name: default-auth
  user:
    client-certificate: %s
    client-key: %[3]s
`, base64.StdEncoding.EncodeToString(authority), endpoint, KubeletClient)
}
