package rpc

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/providers/proto"
)

// named is a call and whose it is, for errors.
type named struct{ op, provider string }

func (c *Client) named(op string) named { return named{op: op, provider: c.name} }

type event[E any] interface {
	*E
	GetProgress() *proto.Progress
}

type opener[Q, E any] func(context.Context, *Q, ...grpc.CallOption) (grpc.ServerStreamingClient[E], error)

// receive makes a call and gives each of its answers. When each fails, the provider's call is cancelled.
func receive[Q, E any, P event[E]](ctx context.Context, call named, request *Q, open opener[Q, E], each func(P) error) error {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := open(inner, request)
	if err != nil {
		return fromStatus(ctx, call.op, call.provider, err)
	}
	return drain(ctx, call, stream, each)
}

// drain reads a stream to its end.
func drain[E any, P event[E]](ctx context.Context, call named, stream interface{ Recv() (*E, error) }, each func(P) error) error {
	for {
		received, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fromStatus(ctx, call.op, call.provider, err)
		}
		if progress := P(received).GetProgress(); progress != nil {
			providers.Report(ctx, fromProgress(progress))
			continue
		}
		if err := each(received); err != nil {
			return err
		}
	}
}

// present hands on an answer. An event that this version doesn't know has none, and is passed over.
func present[M, V any](message *M, from func(*M) V, each func(V) error) error {
	if message == nil {
		return nil
	}
	return each(from(message))
}

// single makes a call that has one answer.
func single[Q, E, M, V any, P event[E]](ctx context.Context, call named, request *Q, open opener[Q, E], get func(P) *M, from func(*M) V) (V, error) {
	answers := newAnswers(call, from)
	err := receive(ctx, call, request, open, func(e P) error { return answers.add(get(e)) })
	return answers.only(err)
}

// done makes a call whose answer is that it ended well.
func (c *Client) done(ctx context.Context, op string, handle providers.Handle, open opener[proto.HandleRequest, proto.DoneEvent]) error {
	_, err := single(ctx, c.named(op), toRequest(handle), open, (*proto.DoneEvent).GetDone, func(*proto.Done) struct{} { return struct{}{} })
	return err
}

// answers wants exactly one.
type answers[M, V any] struct {
	call  named
	from  func(*M) V
	value V
	count int
}

func newAnswers[M, V any](call named, from func(*M) V) *answers[M, V] {
	return &answers[M, V]{call: call, from: from}
}

func (a *answers[M, V]) add(message *M) error {
	return present(message, a.from, func(v V) error {
		if a.count++; a.count > 1 {
			return fault.Newf(a.call.op, fault.Corrupt, a.call.provider, "the provider gave more than one answer")
		}
		a.value = v
		return nil
	})
}

func (a *answers[M, V]) only(err error) (V, error) {
	var none V
	if err != nil {
		return none, err
	}
	if a.count == 0 {
		return none, fault.Newf(a.call.op, fault.Corrupt, a.call.provider, "the provider ended the call without an answer")
	}
	return a.value, nil
}
