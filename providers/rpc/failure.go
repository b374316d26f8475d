package rpc

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/providers/proto"
)

// ErrEnded is in the chain of an error of a call whose provider's process is gone.
var ErrEnded = errors.New("the provider's process ended")

// maxText bounds an error's text on the wire.
const maxText = 16 << 10

// codeOf is the table of provider.proto.
func codeOf(kind fault.Kind) codes.Code {
	switch kind {
	case fault.Invalid:
		return codes.InvalidArgument
	case fault.NotFound:
		return codes.NotFound
	case fault.Exists:
		return codes.AlreadyExists
	case fault.Denied:
		return codes.PermissionDenied
	case fault.Busy:
		return codes.Aborted
	case fault.Corrupt:
		return codes.DataLoss
	case fault.Transient:
		return codes.Unavailable
	case fault.Unsupported:
		return codes.Unimplemented
	case fault.NoSpace:
		return codes.ResourceExhausted
	default:
		return codes.Internal
	}
}

// kindOf reads a status that no provider of ours made.
func kindOf(code codes.Code) fault.Kind {
	switch code {
	case codes.InvalidArgument, codes.OutOfRange:
		return fault.Invalid
	case codes.NotFound:
		return fault.NotFound
	case codes.AlreadyExists:
		return fault.Exists
	case codes.PermissionDenied, codes.Unauthenticated:
		return fault.Denied
	case codes.Aborted, codes.FailedPrecondition:
		return fault.Busy
	case codes.DataLoss:
		return fault.Corrupt
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded:
		return fault.Transient
	case codes.Unimplemented:
		return fault.Unsupported
	case codes.ResourceExhausted:
		return fault.NoSpace
	default:
		return fault.Internal
	}
}

// toStatus makes the wire's form of an error.
func toStatus(op string, err error) error {
	if err == nil {
		return nil
	}
	detail, kind := describe(op, err)
	code := codeOf(kind)
	switch {
	case kind != fault.Transient:
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	}
	plain := status.New(code, bounded(err.Error()))
	full, detailErr := plain.WithDetails(detail)
	if detailErr != nil {
		return plain.Err()
	}
	return full.Err()
}

// describe gives the outermost fault's parts. An error around one keeps the kind and stands as the text.
func describe(op string, err error) (*proto.Fault, fault.Kind) {
	if known, ok := err.(*fault.Error); ok { //nolint:errorlint // one that is wrapped has other text
		detail := &proto.Fault{Op: bounded(known.Op), Kind: known.Kind.String(), Subject: bounded(known.Subject)}
		if known.Err != nil {
			detail.Text = bounded(known.Err.Error())
		}
		return detail, known.Kind
	}
	var inner *fault.Error
	kind := fault.KindOf(err)
	if !errors.As(err, &inner) && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		kind = fault.Transient
	}
	return &proto.Fault{Op: op, Kind: kind.String(), Text: bounded(err.Error())}, kind
}

func bounded(text string) string {
	if len(text) > maxText {
		text = text[:maxText] + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// cause is the text of an error of the other side.
type cause struct {
	text string
	is   error // context.Canceled, context.DeadlineExceeded, or nil
}

func (c *cause) Error() string { return c.text }
func (c *cause) Unwrap() error { return c.is }

// fromStatus makes an error of what came over the wire, or of what kept it from coming.
func fromStatus(ctx context.Context, op, provider string, err error) error {
	s := status.Convert(err)
	for _, detail := range s.Details() {
		if f, ok := detail.(*proto.Fault); ok {
			return fromFault(f, s.Code())
		}
	}
	switch {
	case ctx.Err() != nil:
		return fault.New(op, fault.Transient, provider, ctx.Err())
	case s.Code() == codes.Unavailable, s.Code() == codes.Canceled:
		return fault.New(op, fault.Transient, provider, ErrEnded)
	case strings.Contains(s.Message(), "received message larger than max"), strings.Contains(s.Message(), "failed to unmarshal"):
		return fault.Newf(op, fault.Corrupt, provider, "it sent a message that the protocol does not allow: %s", s.Message())
	}
	return fault.Newf(op, kindOf(s.Code()), provider, "%s", s.Message())
}

func fromFault(f *proto.Fault, code codes.Code) error {
	kind := fault.ParseKind(f.GetKind())
	if f.GetText() == "" {
		return fault.New(f.GetOp(), kind, f.GetSubject(), nil)
	}
	text := &cause{text: f.GetText()}
	switch code {
	case codes.Canceled:
		text.is = context.Canceled
	case codes.DeadlineExceeded:
		text.is = context.DeadlineExceeded
	}
	return fault.New(f.GetOp(), kind, f.GetSubject(), text)
}
