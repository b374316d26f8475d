package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterdr/muster/providers/fault"
)

// callTimeout bounds one small request to one member.
const callTimeout = 10 * time.Second

// Access says how to reach the members of one cluster.
type Access struct {
	// Endpoints are client URLs: https://10.0.0.11:2379. Members that none of them belongs to are
	// looked for at the client URLs they advertise.
	Endpoints []string
	// TLS holds the client certificate and the authority that signed the members' certificates. Nil
	// is for members without TLS.
	TLS *tls.Config
	// DialContext opens connections in place of a net.Dialer, for members that only a tunnel
	// reaches; addr is host:port. Nil dials directly.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
}

// connect returns a client that speaks to the given endpoints and to no other. It does not wait for
// a connection: the first request does.
func (a Access) connect(ctx context.Context, endpoints ...string) (*clientv3.Client, error) {
	config := clientv3.Config{
		Context:              ctx,
		Endpoints:            endpoints,
		DialTimeout:          callTimeout,
		DialKeepAliveTime:    30 * time.Second,
		DialKeepAliveTimeout: callTimeout,
		MaxUnaryRetries:      uint(4 + 4*len(endpoints)),
		BackoffWaitBetween:   100 * time.Millisecond,
		Logger:               zap.NewNop(), // the client's own logger would write to standard error
	}
	if a.TLS != nil {
		config.TLS = a.TLS.Clone()
	}
	if a.DialContext != nil {
		dial := func(ctx context.Context, addr string) (net.Conn, error) { return a.DialContext(ctx, "tcp", addr) }
		config.DialOptions = []grpc.DialOption{grpc.WithContextDialer(dial)}
	}
	client, err := clientv3.New(config)
	if err != nil {
		return nil, fault.New("connect to etcd", fault.Invalid, strings.Join(endpoints, ","), err)
	}
	return client, nil
}

// failure wraps what a request to etcd returned, with the kind that decides what to do about it.
func failure(op, subject string, err error) error {
	return fault.New(op, kindOf(err), subject, err)
}

func kindOf(err error) fault.Kind {
	var typed *fault.Error
	if errors.As(err, &typed) {
		return typed.Kind
	}
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace), errors.Is(err, rpctypes.ErrGRPCNoSpace):
		return fault.NoSpace
	case errors.Is(err, rpctypes.ErrCorrupt), errors.Is(err, rpctypes.ErrGRPCCorrupt):
		return fault.Corrupt
	}
	switch status.Code(unwrapped(err)) {
	case codes.PermissionDenied, codes.Unauthenticated:
		return fault.Denied
	case codes.Unimplemented:
		return fault.Unsupported
	}
	if refusedByTLS(err) {
		return fault.Denied
	}
	return fault.Transient
}

// unwrapped undoes what the etcd client does to a status: an EtcdError carries the code alone.
func unwrapped(err error) error {
	var known rpctypes.EtcdError
	if errors.As(err, &known) {
		return status.Error(known.Code(), known.Error())
	}
	return err
}

// refusedByTLS reports whether a connection failed because one side did not accept the other's
// certificate. gRPC keeps nothing of the handshake's error but its text.
func refusedByTLS(err error) bool {
	text := err.Error()
	return strings.Contains(text, "tls: ") || strings.Contains(text, "x509: ")
}
