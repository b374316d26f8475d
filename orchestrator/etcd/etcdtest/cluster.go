// Package etcdtest runs real etcd clusters with TLS inside a test's process.
package etcdtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// PKI is an authority with one certificate that serves as server, peer and client.
type PKI struct {
	Dir    string      // holds ca.crt, member.crt, member.key
	Client *tls.Config // trusts the authority and presents the certificate
}

// NewPKI makes an authority and its files in a folder of the test.
func NewPKI(t *testing.T) PKI {
	t.Helper()
	dir := t.TempDir()
	caKey, caCert, caDER := certificate(t, nil, nil)
	writePEM(t, filepath.Join(dir, "ca.crt"), "CERTIFICATE", caDER)
	key, _, der := certificate(t, caKey, caCert)
	writePEM(t, filepath.Join(dir, "member.crt"), "CERTIFICATE", der)
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(dir, "member.key"), "EC PRIVATE KEY", raw)
	pool := x509.NewCertPool()
	pool.AddCert(caCert)
	pair := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return PKI{Dir: dir, Client: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}}
}

func certificate(t *testing.T, signer *ecdsa.PrivateKey, parent *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "etcd"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	if parent == nil {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
		signer, parent = key, template
	} else {
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert, der
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Cluster is a real etcd cluster. Its members are named cp-0, cp-1 and so on.
type Cluster struct {
	PKI     PKI
	Configs []*embed.Config // a member's data directory is Dir; it may be filled before Start
	Members []*embed.Etcd   // nil while it does not run
}

// New prepares a cluster. What was started ends with the test.
func New(t *testing.T, size int) *Cluster {
	t.Helper()
	c := &Cluster{PKI: NewPKI(t), Members: make([]*embed.Etcd, size)}
	var initial []string
	for i := range size {
		config := embed.NewConfig()
		config.Name, config.Dir = fmt.Sprintf("cp-%d", i), filepath.Join(t.TempDir(), "etcd")
		client, peer := FreeURL(t), FreeURL(t)
		config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
		config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
		config.ListenMetricsUrls = nil
		files := &config.ClientTLSInfo
		for range 2 {
			files.CertFile, files.KeyFile = filepath.Join(c.PKI.Dir, "member.crt"), filepath.Join(c.PKI.Dir, "member.key")
			files.TrustedCAFile, files.ClientCertAuth = filepath.Join(c.PKI.Dir, "ca.crt"), true
			files = &config.PeerTLSInfo
		}
		config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
		config.TickMs, config.ElectionMs = 50, 500
		config.UnsafeNoFsync = true
		initial = append(initial, config.Name+"="+peer.String())
		c.Configs = append(c.Configs, config)
	}
	for _, config := range c.Configs {
		config.InitialCluster, config.InitialClusterToken = strings.Join(initial, ","), t.Name()
	}
	t.Cleanup(func() {
		for i := range c.Members {
			c.Stop(i)
		}
	})
	return c
}

// FreeURL is a loopback URL that nobody listens on.
func FreeURL(t *testing.T) url.URL {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() // only its port was wanted
	return url.URL{Scheme: "https", Host: listener.Addr().String()}
}

// Start starts all members and waits until they are ready.
func (c *Cluster) Start(t *testing.T) *Cluster {
	t.Helper()
	for i := range c.Members {
		c.Begin(t, i)
	}
	for i := range c.Members {
		c.Await(t, i)
	}
	return c
}

// Begin starts one member, which may need others to become ready.
func (c *Cluster) Begin(t *testing.T, i int) {
	t.Helper()
	member, err := embed.StartEtcd(c.Configs[i])
	if err != nil {
		t.Fatalf("start %s: %v", c.Configs[i].Name, err)
	}
	c.Members[i] = member
}

// Await waits until a member is ready.
func (c *Cluster) Await(t *testing.T, i int) {
	t.Helper()
	select {
	case <-c.Members[i].Server.ReadyNotify():
	case err := <-c.Members[i].Err():
		t.Fatalf("%s: %v", c.Configs[i].Name, err)
	case <-t.Context().Done():
		t.Fatal("the test ended before the member was ready")
	}
}

// Stop ends a member, if it runs.
func (c *Cluster) Stop(i int) {
	if c.Members[i] != nil {
		c.Members[i].Close()
		c.Members[i] = nil
	}
}

// Endpoint is a member's client URL.
func (c *Cluster) Endpoint(i int) string { return c.Configs[i].AdvertiseClientUrls[0].String() }

// Endpoints are all members' client URLs.
func (c *Cluster) Endpoints() []string {
	var out []string
	for i := range c.Configs {
		out = append(out, c.Endpoint(i))
	}
	return out
}

// Client returns a client of all members, which is closed with the test.
func (c *Cluster) Client(t *testing.T) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: c.Endpoints(), TLS: c.PKI.Client.Clone(), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// Fill writes n keys with values of a size and returns the last revision.
func Fill(t *testing.T, client *clientv3.Client, prefix string, n, size int) int64 {
	t.Helper()
	value := strings.Repeat("v", size)
	var revision int64
	for i := range n {
		response, err := client.Put(t.Context(), fmt.Sprintf("%s%05d", prefix, i), value)
		if err != nil {
			t.Fatal(err)
		}
		revision = response.Header.Revision
	}
	return revision
}
