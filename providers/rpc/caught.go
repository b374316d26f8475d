package rpc

import (
	"context"
	"fmt"
	"os"
	"path"
	"runtime/debug"

	"google.golang.org/grpc"

	"github.com/musterdr/muster/providers/fault"
)

// A panic of one call is that call's error, not the end of all others: it is a defect, and no repetition
// mends it. Its stack goes to the log.

func caughtUnary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (answer any, err error) {
	defer caught(info.FullMethod, &err)
	return handler(ctx, request)
}

func caughtStream(s any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer caught(info.FullMethod, &err)
	return handler(s, stream)
}

func caught(method string, err *error) {
	reason := recover()
	if reason == nil {
		return
	}
	fmt.Fprintf(os.Stderr, "panic: %v\n%s", reason, debug.Stack())
	*err = toStatus(method, fault.Newf(path.Base(method), fault.Internal, "", "the provider panicked, see its log: %v", reason))
}
