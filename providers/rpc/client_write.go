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

type writeStream = grpc.BidiStreamingClient[proto.WriteMessage, proto.VolumeEvent]

// Write implements providers.Blocks. The source is called by the caller's goroutine alone. The provider's
// answer is waited for in every case, so that nothing of the call is left when Write returns.
func (c *Client) Write(ctx context.Context, request providers.WriteRequest, source providers.Source) (providers.Volume, error) {
	call := c.named(opWrite)
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.wire.Write(inner)
	if err != nil {
		return providers.Volume{}, fromStatus(ctx, opWrite, c.name, err)
	}
	answers := newAnswers(call, fromVolume)
	received := make(chan error, 1)
	go func() {
		received <- drain(ctx, call, stream, func(e *proto.VolumeEvent) error { return answers.add(e.GetVolume()) })
	}()
	if err := c.send(stream, request, source); err != nil {
		cancel()
		<-received
		return providers.Volume{}, err
	}
	return answers.only(<-received)
}

// send sends everything and returns the source's error alone: that of the stream comes with the answer.
func (c *Client) send(stream writeStream, request providers.WriteRequest, source providers.Source) error {
	first := &proto.WriteRequest{Create: toCreate(request.CreateRequest), Into: toHandle(request.Into)}
	if stream.Send(&proto.WriteMessage{Message: &proto.WriteMessage_Request{Request: first}}) != nil {
		return nil
	}
	for {
		block, err := source()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if len(block.Data) > providers.MaxBlock {
			return fault.Newf(opWrite, fault.Invalid, c.name, "the block at %d has %d bytes, more than %d", block.Offset, len(block.Data), providers.MaxBlock)
		}
		if stream.Send(&proto.WriteMessage{Message: &proto.WriteMessage_Block{Block: toBlock(block)}}) != nil {
			return nil
		}
	}
	if stream.Send(&proto.WriteMessage{Message: &proto.WriteMessage_End{End: &proto.WriteEnd{}}}) != nil {
		return nil
	}
	_ = stream.CloseSend() // the end message says it already
	return nil
}
