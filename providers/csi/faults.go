package csi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterdr/muster/providers/fault"
)

// wrap gives an error of the API server, or of the way to it, its kind.
func wrap(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	kind := kindOf(err)
	switch kind {
	case fault.Denied:
		err = fmt.Errorf("%w; the role that it needs is in docs/providers-csi.md", err)
	case fault.Unsupported:
		err = fmt.Errorf("%w; the cluster lacks this API: install the CRDs and the snapshot controller of kubernetes-csi/external-snapshotter", err)
	}
	return fault.New(op, kind, subject, err)
}

func kindOf(err error) fault.Kind {
	switch {
	case meta.IsNoMatchError(err), isUnserved(err):
		return fault.Unsupported
	case apierrors.IsNotFound(err):
		return fault.NotFound
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota"):
		return fault.NoSpace
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return fault.Denied
	case apierrors.IsAlreadyExists(err):
		return fault.Exists
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return fault.Invalid
	case apierrors.IsConflict(err):
		return fault.Busy
	case isTransient(err):
		return fault.Transient
	}
	return fault.Internal
}

// isUnserved tells the 404 of a resource that the server does not know from that of an object.
func isUnserved(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || !apierrors.IsNotFound(err) {
		return false
	}
	details := status.Status().Details
	return details == nil || details.Name == "" || hasCause(details, metav1.CauseTypeUnexpectedServerResponse)
}

func hasCause(details *metav1.StatusDetails, cause metav1.CauseType) bool {
	for _, c := range details.Causes {
		if c.Type == cause {
			return true
		}
	}
	return false
}

func isTransient(err error) bool {
	if apierrors.IsTooManyRequests(err) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) ||
		apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err) || apierrors.IsUnexpectedServerError(err) ||
		apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return true
	}
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

var grpcCode = regexp.MustCompile(`code = ([A-Za-z]+)`)

// kindOfText reads what a sidecar wrote into an object's status: the text holds the driver's gRPC code.
func kindOfText(text string) fault.Kind {
	found := grpcCode.FindStringSubmatch(text)
	if found == nil {
		if strings.Contains(text, "can not find snapshot") { // csi-snapshotter's words when ListSnapshots shows none
			return fault.NotFound
		}
		return fault.Transient
	}
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		if code.String() == found[1] {
			return kindOfCode(code)
		}
	}
	return fault.Transient
}

func kindOfCode(code codes.Code) fault.Kind {
	switch code {
	case codes.InvalidArgument:
		return fault.Invalid
	case codes.NotFound:
		return fault.NotFound
	case codes.AlreadyExists:
		return fault.Exists
	case codes.PermissionDenied, codes.Unauthenticated:
		return fault.Denied
	case codes.ResourceExhausted, codes.OutOfRange:
		return fault.NoSpace
	case codes.FailedPrecondition:
		return fault.Busy
	case codes.Unimplemented:
		return fault.Unsupported
	case codes.DataLoss:
		return fault.Corrupt
	}
	return fault.Transient
}

// wrapRPC gives an error of a gRPC call its kind.
func wrapRPC(op, subject string, err error) error {
	return fault.New(op, kindOfCode(status.Code(err)), subject, err)
}

// lasting tells whether waiting is in vain. Sidecars try again after every error; only these never go away.
func lasting(kind fault.Kind) bool {
	switch kind {
	case fault.Invalid, fault.NotFound, fault.Denied, fault.Unsupported, fault.NoSpace, fault.Exists, fault.Corrupt:
		return true
	}
	return false
}
