package kubeadm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/musterdr/muster/providers/fault"
)

const (
	certificateBlock = "CERTIFICATE"
	nodeUserPrefix   = "system:node:"
	nodesGroup       = "system:nodes"
	clockSkew        = 5 * time.Minute      // machines' clocks may differ by this
	renewBefore      = 30 * 24 * time.Hour  // what ends sooner is renewed with the machine
	year             = 365 * 24 * time.Hour // kubeadm's own validity
)

// Authority signs certificates.
type Authority struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
}

// ParseAuthority reads an authority's two PEM files.
func ParseAuthority(name string, certificate, key []byte) (Authority, error) {
	certs, err := parseCertificates(name+".crt", certificate)
	if err != nil {
		return Authority{}, err
	}
	block, _ := pem.Decode(key)
	if block == nil {
		return Authority{}, fault.Newf("read key", fault.Corrupt, name+".key", "it is no PEM file")
	}
	signer, err := parseKey(block.Bytes)
	if err != nil {
		return Authority{}, fault.Newf("read key", fault.Corrupt, name+".key", "it holds no private key")
	}
	return Authority{certs[0], signer}, nil
}

func parseKey(der []byte) (crypto.Signer, error) {
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T can't sign", key)
	}
	return signer, nil
}

func parseCertificates(name string, raw []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != certificateBlock {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fault.New("read certificate", fault.Corrupt, name, err)
		}
		out = append(out, certificate)
	}
	if len(out) == 0 {
		return nil, fault.Newf("read certificate", fault.Corrupt, name, "it holds no certificate")
	}
	return out, nil
}

// Reissuing is what a certificate's machine is called now.
type Reissuing struct {
	Renaming Renaming
	// Hosts are names and addresses that the certificate must hold besides its renamed old ones.
	Hosts []string
	Now   time.Time
}

// Reissue signs the first certificate of a PEM file again, over the same key, when it names a
// machine that is called otherwise now, lacks a host, or ends within a month. Everything else in the
// file stays as it is. It returns nil when nothing is to be done; the reason is for people.
func (a Authority) Reissue(name string, raw []byte, r Reissuing) (renewed []byte, reason string, err error) {
	certs, err := parseCertificates(name, raw)
	if err != nil {
		return nil, "", err
	}
	old := certs[0]
	next := a.successor(old, r)
	switch {
	case old.NotAfter.Before(r.Now.Add(renewBefore)):
		reason = "it ends on " + old.NotAfter.UTC().Format(time.DateOnly)
	case next.Subject.CommonName != old.Subject.CommonName, !slices.Equal(next.DNSNames, old.DNSNames), !sameAddresses(next.IPAddresses, old.IPAddresses):
		reason = "it names another machine"
	default:
		return nil, "", nil
	}
	signed, err := a.sign(name, next, old.PublicKey, r.Now)
	if err != nil {
		return nil, "", err
	}
	return replaceFirst(raw, signed), reason, nil
}

// successor has the old certificate's purpose and the machine's new names.
func (a Authority) successor(old *x509.Certificate, r Reissuing) *x509.Certificate {
	subject := old.Subject
	subject.ExtraNames = nil
	if node, ok := strings.CutPrefix(subject.CommonName, nodeUserPrefix); ok {
		subject.CommonName = nodeUserPrefix + r.Renaming.Name(node)
	} else {
		subject.CommonName = r.Renaming.Name(subject.CommonName)
	}
	next := &x509.Certificate{
		Subject: subject, KeyUsage: old.KeyUsage, ExtKeyUsage: old.ExtKeyUsage, BasicConstraintsValid: true,
		NotBefore: r.Now.Add(-clockSkew), NotAfter: r.Now.Add(max(old.NotAfter.Sub(old.NotBefore), renewBefore)),
	}
	for _, name := range old.DNSNames {
		next.DNSNames = appendNew(next.DNSNames, r.Renaming.Name(name))
	}
	var addresses []string
	for _, ip := range old.IPAddresses {
		addresses = appendNew(addresses, r.Renaming.Address(ip.String()))
	}
	for _, host := range r.Hosts {
		if net.ParseIP(host) != nil {
			addresses = appendNew(addresses, host)
		} else {
			next.DNSNames = appendNew(next.DNSNames, host)
		}
	}
	for _, address := range addresses {
		next.IPAddresses = append(next.IPAddresses, net.ParseIP(address))
	}
	return next
}

func appendNew(list []string, text string) []string {
	if slices.Contains(list, text) {
		return list
	}
	return append(list, text)
}

func sameAddresses(a, b []net.IP) bool { return slices.EqualFunc(a, b, net.IP.Equal) }

func (a Authority) sign(name string, next *x509.Certificate, key crypto.PublicKey, now time.Time) ([]byte, error) {
	if now.After(a.Certificate.NotAfter) {
		return nil, fault.Newf("issue certificate", fault.Unsupported, name,
			"its authority %s ended on %s: a cluster with an expired authority needs a new one on every machine (kubeadm init phase certs)",
			a.Certificate.Subject.CommonName, a.Certificate.NotAfter.UTC().Format(time.DateOnly))
	}
	if next.NotAfter.After(a.Certificate.NotAfter) {
		next.NotAfter = a.Certificate.NotAfter
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fault.New("issue certificate", fault.Internal, name, err)
	}
	next.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, next, a.Certificate, key, a.Key)
	if err != nil {
		return nil, fault.New("issue certificate", fault.Internal, name, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: der}), nil
}

// replaceFirst puts a certificate in the place of a file's first one.
func replaceFirst(raw, certificate []byte) []byte {
	var out bytes.Buffer
	replaced := false
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == certificateBlock && !replaced {
			replaced = true
			out.Write(certificate)
			continue
		}
		out.Write(pem.EncodeToMemory(block))
	}
	return out.Bytes()
}

var clientCertificate = regexp.MustCompile(`(?m)^(\s*client-certificate-data: )(\S+)`)

// ReissueKubeconfig is Reissue for a certificate within a kubeconfig.
func (a Authority) ReissueKubeconfig(name, text string, r Reissuing) (renewed, reason string, err error) {
	found := clientCertificate.FindStringSubmatch(text)
	if found == nil {
		return "", "", nil
	}
	raw, err := base64.StdEncoding.DecodeString(found[2])
	if err != nil {
		return "", "", fault.Newf("read kubeconfig", fault.Corrupt, name, "client-certificate-data is not base64")
	}
	next, reason, err := a.Reissue(name, raw, r)
	if err != nil || next == nil {
		return "", "", err
	}
	return clientCertificate.ReplaceAllString(text, "${1}"+base64.StdEncoding.EncodeToString(next)), reason, nil
}

// IssueNode makes a kubelet's client certificate with a new key, as one PEM file.
func (a Authority) IssueNode(node string, now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fault.New("issue certificate", fault.Internal, node, err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fault.New("issue certificate", fault.Internal, node, err)
	}
	certificate, err := a.sign(node, &x509.Certificate{
		Subject:  pkix.Name{CommonName: nodeUserPrefix + node, Organization: []string{nodesGroup}},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, NotBefore: now.Add(-clockSkew), NotAfter: now.Add(year),
	}, key.Public(), now)
	if err != nil {
		return nil, err
	}
	return append(certificate, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})...), nil
}
