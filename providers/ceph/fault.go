//go:build cgo && ceph

package ceph

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/musterdr/muster/providers/fault"
)

// kinds are the kinds of Ceph's error numbers. ESHUTDOWN is EBLOCKLISTED in Ceph's words.
var kinds = map[syscall.Errno]fault.Kind{
	syscall.ENOENT: fault.NotFound, syscall.EEXIST: fault.Exists,
	syscall.EBUSY: fault.Busy, syscall.ENOTEMPTY: fault.Busy, syscall.EROFS: fault.Busy,
	syscall.EACCES: fault.Denied, syscall.EPERM: fault.Denied,
	syscall.ENOSPC: fault.NoSpace, syscall.EDQUOT: fault.NoSpace,
	syscall.ETIMEDOUT: fault.Transient, syscall.ENOTCONN: fault.Transient, syscall.ESHUTDOWN: fault.Transient,
	syscall.ECONNREFUSED: fault.Transient, syscall.ECONNRESET: fault.Transient, syscall.EAGAIN: fault.Transient,
	syscall.EHOSTUNREACH: fault.Transient, syscall.EINTR: fault.Transient,
	syscall.EINVAL: fault.Invalid, syscall.ENAMETOOLONG: fault.Invalid,
	syscall.ENOSYS: fault.Unsupported, syscall.EOPNOTSUPP: fault.Unsupported,
}

// advice is what to do next, by kind.
var advice = map[fault.Kind]string{
	fault.Denied:    "see docs/providers-ceph.md for the capabilities that the user needs: ceph auth get client.NAME",
	fault.NoSpace:   "the pool, its quota or the cluster is full: ceph df, ceph osd pool get-quota POOL",
	fault.Transient: "the cluster did not answer in time, or has fenced this client: ceph -s",
}

// errno is Ceph's error number in an error; 0 when it has none.
func errno(err error) syscall.Errno {
	var coded interface{ ErrorCode() int }
	if errors.As(err, &coded) {
		return syscall.Errno(max(coded.ErrorCode(), -coded.ErrorCode()))
	}
	var plain syscall.Errno
	errors.As(err, &plain)
	return plain
}

func kindOf(err error) fault.Kind {
	if known := new(fault.Error); errors.As(err, &known) {
		return known.Kind
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fault.Transient
	}
	return kinds[errno(err)]
}

// wrap gives an error of Ceph its kind; errors that have one stay as they are.
func wrap(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	if known := new(fault.Error); errors.As(err, &known) {
		return err
	}
	kind := kindOf(err)
	if text := advice[kind]; text != "" && errno(err) != 0 {
		err = fmt.Errorf("%w; %s", err, text)
	}
	return fault.New(op, kind, subject, err)
}

// gone turns "not found" into success.
func gone(err error) error {
	if kindOf(err) == fault.NotFound && err != nil {
		return nil
	}
	return err
}
