package rpc

import (
	"context"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/providers/proto"
)

// outgoing is the sending half of a stream of events.
type outgoing[E any] interface {
	Send(*E) error
	Context() context.Context
}

// sender sends a call's answers, and between them the latest progress. A provider that reports faster
// than the other side reads is never held up: what it said before is dropped.
type sender[E any] struct {
	op     string
	stream outgoing[E]
	wrap   func(*proto.Progress) *E
	sendMu sync.Mutex // a stream takes one message at a time

	mu     sync.Mutex
	latest *proto.Progress
	closed bool
	wake   chan struct{}
	done   chan struct{}
}

// stream runs one call of the provider; op is for errors that have none.
func stream[E any](op string, to outgoing[E], wrap func(*proto.Progress) *E, call func(ctx context.Context, send func(*E) error) error) error {
	s := &sender[E]{op: op, stream: to, wrap: wrap, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go s.pump()
	ctx, cancel := context.WithCancel(providers.WithProgress(to.Context(), s.report))
	defer cancel()
	defer s.close() // the last progress comes before the end, also when call panics
	return toStatus(op, call(ctx, s.answer))
}

func (s *sender[E]) report(p providers.Progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.latest = toProgress(p)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// pump sends progress until the call has ended.
func (s *sender[E]) pump() {
	defer close(s.done)
	for range s.wake {
		s.sendLatest()
	}
	s.sendLatest()
}

// sendLatest drops an error: the call's own answer meets it too.
func (s *sender[E]) sendLatest() {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	if p := s.take(); p != nil {
		_ = s.stream.Send(s.wrap(p))
	}
}

func (s *sender[E]) take() *proto.Progress {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.latest
	s.latest = nil
	return p
}

// answer sends one answer after the progress that came before it.
func (s *sender[E]) answer(event *E) error {
	s.sendLatest()
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	err := s.stream.Send(event)
	if status.Code(err) == codes.ResourceExhausted {
		return fault.Newf(s.op, fault.Corrupt, "", "the provider gave an answer that is larger than the protocol allows")
	}
	return err
}

func (s *sender[E]) close() {
	s.mu.Lock()
	s.closed = true
	close(s.wake)
	s.mu.Unlock()
	<-s.done
}

func doneProgress(p *proto.Progress) *proto.DoneEvent {
	return &proto.DoneEvent{Event: &proto.DoneEvent_Progress{Progress: p}}
}

func volumeProgress(p *proto.Progress) *proto.VolumeEvent {
	return &proto.VolumeEvent{Event: &proto.VolumeEvent_Progress{Progress: p}}
}

func snapshotProgress(p *proto.Progress) *proto.SnapshotEvent {
	return &proto.SnapshotEvent{Event: &proto.SnapshotEvent_Progress{Progress: p}}
}

func setProgress(p *proto.Progress) *proto.SnapshotSetEvent {
	return &proto.SnapshotSetEvent{Event: &proto.SnapshotSetEvent_Progress{Progress: p}}
}

func extentsProgress(p *proto.Progress) *proto.ExtentsEvent {
	return &proto.ExtentsEvent{Event: &proto.ExtentsEvent_Progress{Progress: p}}
}

func blockProgress(p *proto.Progress) *proto.BlockEvent {
	return &proto.BlockEvent{Event: &proto.BlockEvent_Progress{Progress: p}}
}

func attachmentProgress(p *proto.Progress) *proto.AttachmentEvent {
	return &proto.AttachmentEvent{Event: &proto.AttachmentEvent_Progress{Progress: p}}
}

func pathsProgress(p *proto.Progress) *proto.PathsEvent {
	return &proto.PathsEvent{Event: &proto.PathsEvent_Progress{Progress: p}}
}

func machineProgress(p *proto.Progress) *proto.MachineEvent {
	return &proto.MachineEvent{Event: &proto.MachineEvent_Progress{Progress: p}}
}
