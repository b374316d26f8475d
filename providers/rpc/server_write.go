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

// errCut is the end of a stream of blocks that has no end message.
var errCut = errors.New("the blocks ended without an end: the caller is gone")

func (s *server) Write(from grpc.BidiStreamingServer[proto.WriteMessage, proto.VolumeEvent]) error {
	first, err := from.Recv()
	if err != nil {
		return toStatus(opWrite, fault.New(opWrite, fault.Transient, "", errCut))
	}
	r := first.GetRequest()
	if r == nil {
		return toStatus(opWrite, fault.Newf(opWrite, fault.Invalid, "", "the first message must be the request"))
	}
	request := providers.WriteRequest{CreateRequest: fromCreate(r.GetCreate()), Into: fromHandle(r.GetInto())}
	return stream(opWrite, from, volumeProgress, func(ctx context.Context, send func(*proto.VolumeEvent) error) error {
		volume, err := s.provider.Write(ctx, request, source(from))
		if err != nil {
			return err
		}
		return send(volumeEvent(volume))
	})
}

// source gives the blocks of a stream, checked. What it once failed with, it fails with again.
func source(from grpc.BidiStreamingServer[proto.WriteMessage, proto.VolumeEvent]) providers.Source {
	var ended error
	return func() (providers.Block, error) {
		if ended != nil {
			return providers.Block{}, ended
		}
		block, err := nextBlock(from)
		ended = err
		return block, err
	}
}

func nextBlock(from grpc.BidiStreamingServer[proto.WriteMessage, proto.VolumeEvent]) (providers.Block, error) {
	message, err := from.Recv()
	switch {
	case from.Context().Err() != nil:
		return providers.Block{}, fault.New(opWrite, fault.Transient, "", from.Context().Err())
	case err != nil:
		return providers.Block{}, fault.New(opWrite, fault.Transient, "", errCut)
	case message.GetEnd() != nil:
		return providers.Block{}, io.EOF
	case message.GetBlock() == nil:
		return providers.Block{}, fault.Newf(opWrite, fault.Invalid, "", "a message is neither a block nor the end")
	}
	block := fromBlock(message.GetBlock())
	if block.Zero {
		return block, nil
	}
	if int64(len(block.Data)) != block.Length || providers.Sum(block.Data) != block.CRC {
		return providers.Block{}, fault.Newf(opWrite, fault.Corrupt, "", "the block at %d came damaged", block.Offset)
	}
	return block, nil
}
