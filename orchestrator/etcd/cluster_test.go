package etcd

import (
	"context"
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

// testPKI is an authority with one certificate that serves as server, peer and client.
type testPKI struct {
	dir    string
	client *tls.Config
}

func newPKI(t *testing.T) testPKI {
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
	return testPKI{dir: dir, client: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}}
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

// testCluster is a real etcd cluster inside the test's process.
type testCluster struct {
	pki     testPKI
	configs []*embed.Config
	members []*embed.Etcd
}

// dataDirs are where the members' data will be, by position; files may be put there before start.
func newCluster(t *testing.T, size int) *testCluster {
	t.Helper()
	c := &testCluster{pki: newPKI(t), members: make([]*embed.Etcd, size)}
	var initial []string
	for i := range size {
		config := embed.NewConfig()
		config.Name, config.Dir = fmt.Sprintf("cp-%d", i), filepath.Join(t.TempDir(), "etcd")
		client, peer := freeURL(t), freeURL(t)
		config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
		config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
		config.ListenMetricsUrls = nil
		files := &config.ClientTLSInfo
		for range 2 {
			files.CertFile, files.KeyFile = filepath.Join(c.pki.dir, "member.crt"), filepath.Join(c.pki.dir, "member.key")
			files.TrustedCAFile, files.ClientCertAuth = filepath.Join(c.pki.dir, "ca.crt"), true
			files = &config.PeerTLSInfo
		}
		config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
		config.TickMs, config.ElectionMs = 50, 500
		config.UnsafeNoFsync = true
		initial = append(initial, config.Name+"="+peer.String())
		c.configs = append(c.configs, config)
	}
	for _, config := range c.configs {
		config.InitialCluster, config.InitialClusterToken = strings.Join(initial, ","), t.Name()
	}
	t.Cleanup(func() {
		for i := range c.members {
			c.stop(i)
		}
	})
	return c
}

func freeURL(t *testing.T) url.URL {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // only its port was wanted
	return url.URL{Scheme: "https", Host: listener.Addr().String()}
}

func (c *testCluster) start(t *testing.T) *testCluster {
	t.Helper()
	for i := range c.members {
		c.begin(t, i)
	}
	for i := range c.members {
		c.await(t, i)
	}
	return c
}

func (c *testCluster) begin(t *testing.T, i int) {
	t.Helper()
	member, err := embed.StartEtcd(c.configs[i])
	if err != nil {
		t.Fatalf("start %s: %v", c.configs[i].Name, err)
	}
	c.members[i] = member
}

func (c *testCluster) await(t *testing.T, i int) {
	t.Helper()
	select {
	case <-c.members[i].Server.ReadyNotify():
	case err := <-c.members[i].Err():
		t.Fatalf("%s: %v", c.configs[i].Name, err)
	case <-t.Context().Done():
		t.Fatal("the test ended before the member was ready")
	}
}

func (c *testCluster) stop(i int) {
	if c.members[i] != nil {
		c.members[i].Close()
		c.members[i] = nil
	}
}

func (c *testCluster) endpoint(i int) string { return c.configs[i].AdvertiseClientUrls[0].String() }

func (c *testCluster) access() Access {
	access := Access{TLS: c.pki.client}
	for i := range c.configs {
		access.Endpoints = append(access.Endpoints, c.endpoint(i))
	}
	return access
}

func (c *testCluster) peers() []Peer {
	var peers []Peer
	for _, config := range c.configs {
		peers = append(peers, Peer{Name: config.Name, URL: config.AdvertisePeerUrls[0].String()})
	}
	return peers
}

func (c *testCluster) client(t *testing.T) *clientv3.Client {
	t.Helper()
	client, err := c.access().connect(context.Background(), c.access().Endpoints...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// fill writes n keys with values of a size and returns the last revision.
func fill(t *testing.T, client *clientv3.Client, prefix string, n, size int) int64 {
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
