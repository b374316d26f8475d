package kubeadm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/providers/fault"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func authority(t *testing.T, until time.Time) Authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"}, NotBefore: now.AddDate(-1, 0, 0), NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	a, err := ParseAuthority("ca", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// issued is a PEM file of a certificate and its key.
func issued(t *testing.T, a Authority, template x509.Certificate) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(2)
	der, err := x509.CreateCertificate(rand.Reader, &template, a.Certificate, key.Public(), a.Key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})...)
}

func parsed(t *testing.T, raw []byte) *x509.Certificate {
	t.Helper()
	certs, err := parseCertificates("file", raw)
	if err != nil {
		t.Fatal(err)
	}
	return certs[0]
}

func TestReissueNamesTheNewMachine(t *testing.T) {
	a := authority(t, now.AddDate(10, 0, 0))
	before := issued(t, a, x509.Certificate{Subject: pkix.Name{CommonName: "kube-apiserver"}, NotBefore: now, NotAfter: now.AddDate(1, 0, 0),
		DNSNames: []string{"cp-0", "kubernetes.default.svc"}, IPAddresses: []net.IP{net.ParseIP("10.96.0.1"), net.ParseIP("10.0.0.10")},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	after, reason, err := a.Reissue("apiserver.crt", before, Reissuing{Renaming: swap, Hosts: []string{"10.1.0.9", "cp-1"}, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if reason == "" {
		t.Fatal("nothing was done")
	}
	got := parsed(t, after)
	if want := []string{"cp-1", "kubernetes.default.svc"}; !slices.Equal(got.DNSNames, want) {
		t.Errorf("names %q, want %q", got.DNSNames, want)
	}
	var addresses []string
	for _, ip := range got.IPAddresses {
		addresses = append(addresses, ip.String())
	}
	if want := []string{"10.96.0.1", "10.1.0.10", "10.1.0.9"}; !slices.Equal(addresses, want) {
		t.Errorf("addresses %q, want %q", addresses, want)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.Certificate)
	if _, err := got.Verify(x509.VerifyOptions{Roots: pool, DNSName: "cp-1", CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		t.Error(err)
	}
	if !got.PublicKey.(*ecdsa.PublicKey).Equal(parsed(t, before).PublicKey) {
		t.Error("the key is another one: the private key beside it does not fit any more")
	}
	if _, key, ok := strings.Cut(string(before), "-----END CERTIFICATE-----\n"); !ok || !strings.HasSuffix(string(after), key) {
		t.Error("the private key in the file changed")
	}
	again, reason, err := a.Reissue("apiserver.crt", after, Reissuing{Renaming: Renaming{}, Hosts: []string{"10.1.0.9", "cp-1"}, Now: now})
	if err != nil || again != nil {
		t.Errorf("reissued again: %s, %v", reason, err)
	}
}

func TestReissueRenewsWhatEnds(t *testing.T) {
	a := authority(t, now.AddDate(0, 6, 0))
	before := issued(t, a, x509.Certificate{Subject: pkix.Name{CommonName: "system:node:worker", Organization: []string{"system:nodes"}}, NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(0, 0, -1)})
	after, reason, err := a.Reissue("kubelet.pem", before, Reissuing{Renaming: swap, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	got := parsed(t, after)
	if got.Subject.CommonName != "system:node:w" || got.Subject.Organization[0] != "system:nodes" || !strings.Contains(reason, "2026-02-28") {
		t.Errorf("subject %s, reason %q", got.Subject, reason)
	}
	if !got.NotAfter.Equal(a.Certificate.NotAfter) {
		t.Errorf("it ends on %s, its authority on %s", got.NotAfter, a.Certificate.NotAfter)
	}
}

func TestExpiredAuthoritySignsNothing(t *testing.T) {
	a := authority(t, now.AddDate(0, 0, -1))
	before := issued(t, a, x509.Certificate{NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(0, 0, -2)})
	if _, _, err := a.Reissue("apiserver.crt", before, Reissuing{Now: now}); !fault.Is(err, fault.Unsupported) {
		t.Errorf("error %v, want unsupported", err)
	}
}

func TestReissueKubeconfig(t *testing.T) {
	a := authority(t, now.AddDate(10, 0, 0))
	expired := issued(t, a, x509.Certificate{Subject: pkix.Name{CommonName: "kubernetes-admin"}, NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(0, 0, -2)})
	text := "users:\n- name: admin\n  user:\n    client-certificate-data: " + base64.StdEncoding.EncodeToString(expired) + "\n    client-key-data: c2VjcmV0\n"
	after, reason, err := a.ReissueKubeconfig("admin.conf", text, Reissuing{Now: now})
	if err != nil || reason == "" {
		t.Fatal(reason, err)
	}
	raw, err := base64.StdEncoding.DecodeString(clientCertificate.FindStringSubmatch(after)[2])
	if err != nil {
		t.Fatal(err)
	}
	if got := parsed(t, raw); got.NotAfter.Before(now) || got.Subject.CommonName != "kubernetes-admin" {
		t.Errorf("certificate of %s until %s", got.Subject, got.NotAfter)
	}
	if !strings.HasSuffix(after, "    client-key-data: c2VjcmV0\n") {
		t.Error("the key changed")
	}
}
