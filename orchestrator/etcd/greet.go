package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"os"
	"slices"

	"github.com/musterdr/muster/providers/fault"
)

// preface is what an HTTP/2 client says first (RFC 9113, section 3.4): the magic and empty settings.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// greet connects to an endpoint and waits for its first byte. gRPC tells little of why it has no
// connection, and tells it late; here a refused connection, an untrusted certificate, or a client
// certificate that the member does not accept (which TLS 1.3 reveals with the first read) each shows
// itself at once: Transient, or Denied for certificates.
func (a Access) greet(ctx context.Context, endpoint string) error {
	const op = "connect to etcd"
	target, err := url.Parse(endpoint)
	if err != nil || target.Host == "" || target.Port() == "" {
		return fault.Newf(op, fault.Invalid, endpoint, "it is no URL with a host and a port: https://10.0.0.11:2379")
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := a.dial(ctx, target.Host)
	if err != nil {
		return failure(op, endpoint, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer conn.Close() // it served to ask a question
	if target.Scheme == "https" {
		conn = tls.Client(conn, a.greeting(target.Hostname()))
	}
	if _, err := conn.Write([]byte(preface)); err != nil {
		return failure(op, endpoint, refusal(err))
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		return failure(op, endpoint, refusal(err))
	}
	return nil
}

func (a Access) dial(ctx context.Context, addr string) (net.Conn, error) {
	if a.DialContext != nil {
		return a.DialContext(ctx, "tcp", addr)
	}
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

func (a Access) greeting(host string) *tls.Config {
	config := new(tls.Config)
	if a.TLS != nil {
		config = a.TLS.Clone()
	}
	config.NextProtos = []string{"h2"}
	if config.ServerName == "" {
		config.ServerName = host
	}
	return config
}

// refusal says what to do when it was the certificate.
func refusal(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
		return errors.New("it accepts connections but does not answer")
	}
	var unknown *tls.CertificateVerificationError
	if errors.As(err, &unknown) {
		return fault.Newf("verify the member's certificate", fault.Denied, "", "%w: use the authority that signed the members' certificates (/etc/kubernetes/pki/etcd/ca.crt)", err)
	}
	var alert tls.AlertError
	if errors.As(err, &alert) || isRemoteAlert(err) {
		return fault.Newf("present the client certificate", fault.Denied, "", "%w: use a certificate that the etcd authority signed (/etc/kubernetes/pki/apiserver-etcd-client.crt)", err)
	}
	return err
}

// isRemoteAlert reports whether the other side ended TLS with an alert: crypto/tls wraps those of
// peers into an operation called so.
func isRemoteAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && slices.Contains([]string{"remote error", "local error"}, op.Op)
}
