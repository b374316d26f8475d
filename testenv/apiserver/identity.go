package apiserver

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/musterdr/muster/testenv/pki"
)

// identity is a cluster's keys: written to its folder, and what a client needs of them.
type identity struct {
	ca         []byte
	admin      tls.Certificate
	kubeconfig []byte
}

// newIdentity writes ca.crt, server.crt, server.key, sa.key, sa.pub and kubeconfig into dir.
func newIdentity(dir, url string) (identity, error) {
	authority, err := pki.New()
	if err != nil {
		return identity{}, err
	}
	serverCert, serverKey, err := authority.Issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "kube-apiserver"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames: []string{"localhost", "kubernetes.default.svc"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return identity{}, err
	}
	adminCert, adminKey, err := authority.Issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return identity{}, err
	}
	accountKey, accountPublic, err := accountKeys()
	if err != nil {
		return identity{}, err
	}
	admin, err := tls.X509KeyPair(adminCert, adminKey)
	if err != nil {
		return identity{}, err
	}
	id := identity{ca: authority.PEM, admin: admin, kubeconfig: kubeconfig(url, authority.PEM, adminCert, adminKey)}
	return id, writeAll(dir, map[string][]byte{
		"ca.crt": authority.PEM, "server.crt": serverCert, "server.key": serverKey,
		"sa.key": accountKey, "sa.pub": accountPublic, "kubeconfig": id.kubeconfig,
	})
}

func writeAll(dir string, files map[string][]byte) error {
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func accountKeys() (private, public []byte, err error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, nil, err
	}
	publicDER, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, nil, err
	}
	return pki.Encode("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key)), pki.Encode("PUBLIC KEY", publicDER), nil
}

func kubeconfig(url string, ca, certificate, key []byte) []byte {
	text := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: admin@test
clusters: [{name: test, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: admin, user: {client-certificate-data: %s, client-key-data: %s}}]
contexts: [{name: admin@test, context: {cluster: test, user: admin}}]
`, url, text(ca), text(certificate), text(key))
}
