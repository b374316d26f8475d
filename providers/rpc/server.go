package rpc

import (
	"context"
	"encoding/json"

	"google.golang.org/grpc"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/providers/proto"
)

// Register lets a gRPC server answer for a provider, as one that speaks the given protocols.
func Register(s grpc.ServiceRegistrar, provider providers.Provider, protocols Range) {
	proto.RegisterProviderServer(s, &server{provider: provider, protocols: protocols})
}

// server hands calls on to a provider.
type server struct {
	proto.UnimplementedProviderServer
	provider  providers.Provider
	protocols Range
}

type handleRequest interface{ GetHandle() *proto.Handle }

func (s *server) Info(ctx context.Context, _ *proto.InfoRequest) (*proto.InfoResponse, error) {
	info, err := s.provider.Info(ctx)
	if err != nil {
		return nil, toStatus(opInfo, err)
	}
	info.Protocols = s.protocols.Versions() // what is true of this program, whatever the provider wrote
	return toInfo(info), nil
}

func (s *server) Configure(ctx context.Context, r *proto.ConfigureRequest) (*proto.ConfigureResponse, error) {
	err := s.provider.Configure(ctx, json.RawMessage(r.GetSettings()))
	return &proto.ConfigureResponse{}, toStatus(opConfigure, err)
}

func (s *server) Health(ctx context.Context, _ *proto.HealthRequest) (*proto.HealthResponse, error) {
	health, err := s.provider.Health(ctx)
	return toHealth(health), toStatus(opHealth, err)
}

func (s *server) Close(context.Context, *proto.CloseRequest) (*proto.CloseResponse, error) {
	return &proto.CloseResponse{}, toStatus(opClose, s.provider.Close())
}

func (s *server) Discover(r *proto.Query, to grpc.ServerStreamingServer[proto.VolumeEvent]) error {
	return stream(opDiscover, to, volumeProgress, func(ctx context.Context, send func(*proto.VolumeEvent) error) error {
		return s.provider.Discover(ctx, fromQuery(r), func(v providers.Volume) error { return send(volumeEvent(v)) })
	})
}

func (s *server) Volume(ctx context.Context, r *proto.HandleRequest) (*proto.Volume, error) {
	volume, err := s.provider.Volume(ctx, fromHandle(r.GetHandle()))
	return toVolume(volume), toStatus(opVolume, err)
}

func (s *server) Match(ctx context.Context, r *proto.MatchRequest) (*proto.Volume, error) {
	pv, err := fromPV(r.GetPersistentVolume())
	if err != nil {
		return nil, toStatus(opMatch, fault.New(opMatch, fault.Invalid, "", err))
	}
	volume, err := s.provider.Match(ctx, pv)
	return toVolume(volume), toStatus(opMatch, err)
}

func (s *server) Bind(ctx context.Context, r *proto.BindRequest) (*proto.BindResponse, error) {
	pv, err := fromPV(r.GetPersistentVolume())
	if err != nil {
		return nil, toStatus(opBind, fault.New(opBind, fault.Invalid, "", err))
	}
	bound, err := s.provider.Bind(ctx, fromHandle(r.GetVolume()), pv)
	if err != nil {
		return nil, toStatus(opBind, err)
	}
	raw, err := toPV(bound)
	return &proto.BindResponse{PersistentVolume: raw}, toStatus(opBind, err)
}

func (s *server) Create(r *proto.CreateRequest, to grpc.ServerStreamingServer[proto.VolumeEvent]) error {
	return stream(opCreate, to, volumeProgress, func(ctx context.Context, send func(*proto.VolumeEvent) error) error {
		volume, err := s.provider.Create(ctx, fromCreate(r))
		if err != nil {
			return err
		}
		return send(volumeEvent(volume))
	})
}

func (s *server) DeleteVolume(r *proto.HandleRequest, to grpc.ServerStreamingServer[proto.DoneEvent]) error {
	return remove(opDeleteVolume, r, to, s.provider.DeleteVolume)
}

func (s *server) Snapshot(r *proto.SnapshotRequest, to grpc.ServerStreamingServer[proto.SnapshotSetEvent]) error {
	return stream(opSnapshot, to, setProgress, func(ctx context.Context, send func(*proto.SnapshotSetEvent) error) error {
		set, err := s.provider.Snapshot(ctx, fromSnapshotRequest(r))
		if err != nil {
			return err
		}
		return send(&proto.SnapshotSetEvent{Event: &proto.SnapshotSetEvent_Set{Set: toSet(set)}})
	})
}

func (s *server) SnapshotOf(ctx context.Context, r *proto.HandleRequest) (*proto.Snapshot, error) {
	snapshot, err := s.provider.SnapshotOf(ctx, fromHandle(r.GetHandle()))
	return toSnapshot(snapshot), toStatus(opSnapshotOf, err)
}

func (s *server) ListSnapshots(r *proto.Query, to grpc.ServerStreamingServer[proto.SnapshotEvent]) error {
	return stream(opListSnapshots, to, snapshotProgress, func(ctx context.Context, send func(*proto.SnapshotEvent) error) error {
		return s.provider.ListSnapshots(ctx, fromQuery(r), func(one providers.Snapshot) error { return send(snapshotEvent(one)) })
	})
}

func (s *server) DeleteSnapshot(r *proto.HandleRequest, to grpc.ServerStreamingServer[proto.DoneEvent]) error {
	return remove(opDeleteSnapshot, r, to, s.provider.DeleteSnapshot)
}

func (s *server) CopySnapshot(r *proto.CopyRequest, to grpc.ServerStreamingServer[proto.SnapshotEvent]) error {
	return stream(opCopySnapshot, to, snapshotProgress, func(ctx context.Context, send func(*proto.SnapshotEvent) error) error {
		snapshot, err := s.provider.CopySnapshot(ctx, fromCopy(r))
		if err != nil {
			return err
		}
		return send(snapshotEvent(snapshot))
	})
}

func (s *server) Extents(r *proto.ExtentsRequest, to grpc.ServerStreamingServer[proto.ExtentsEvent]) error {
	request := providers.ExtentsRequest{Snapshot: fromHandle(r.GetSnapshot()), Base: fromHandle(r.GetBase())}
	return stream(opExtents, to, extentsProgress, func(ctx context.Context, send func(*proto.ExtentsEvent) error) error {
		return s.provider.Extents(ctx, request, func(extents []providers.Extent) error {
			list := &proto.Extents{Extents: toExtents(extents)}
			return send(&proto.ExtentsEvent{Event: &proto.ExtentsEvent_Extents{Extents: list}})
		})
	})
}

func (s *server) Read(r *proto.ReadRequest, to grpc.ServerStreamingServer[proto.BlockEvent]) error {
	request := providers.ReadRequest{Snapshot: fromHandle(r.GetSnapshot()), Extents: fromExtents(r.GetExtents())}
	return stream(opRead, to, blockProgress, func(ctx context.Context, send func(*proto.BlockEvent) error) error {
		return s.provider.Read(ctx, request, func(b providers.Block) error {
			return send(&proto.BlockEvent{Event: &proto.BlockEvent_Block{Block: toBlock(b)}})
		})
	})
}

func (s *server) Attach(r *proto.AttachRequest, to grpc.ServerStreamingServer[proto.AttachmentEvent]) error {
	return stream(opAttach, to, attachmentProgress, func(ctx context.Context, send func(*proto.AttachmentEvent) error) error {
		attachment, err := s.provider.Attach(ctx, fromAttach(r))
		if err != nil {
			return err
		}
		return send(&proto.AttachmentEvent{Event: &proto.AttachmentEvent_Attachment{Attachment: toAttachment(attachment)}})
	})
}

func (s *server) Detach(r *proto.HandleRequest, to grpc.ServerStreamingServer[proto.DoneEvent]) error {
	return remove(opDetach, r, to, s.provider.Detach)
}

func (s *server) Changes(r *proto.ChangesRequest, to grpc.ServerStreamingServer[proto.PathsEvent]) error {
	request := providers.ChangesRequest{Volume: fromHandle(r.GetVolume()), Since: r.GetSince(), Until: r.GetUntil()}
	return stream(opChanges, to, pathsProgress, func(ctx context.Context, send func(*proto.PathsEvent) error) error {
		return s.provider.Changes(ctx, request, func(paths []string) error { return sendPaths(paths, send) })
	})
}

func (s *server) DiscoverMachines(r *proto.Query, to grpc.ServerStreamingServer[proto.MachineEvent]) error {
	return stream(opDiscoverMachines, to, machineProgress, func(ctx context.Context, send func(*proto.MachineEvent) error) error {
		return s.provider.DiscoverMachines(ctx, fromQuery(r), func(m providers.Machine) error { return send(machineEvent(m)) })
	})
}

func (s *server) CreateMachine(r *proto.MachineRequest, to grpc.ServerStreamingServer[proto.MachineEvent]) error {
	return stream(opCreateMachine, to, machineProgress, func(ctx context.Context, send func(*proto.MachineEvent) error) error {
		machine, err := s.provider.CreateMachine(ctx, fromMachineRequest(r))
		if err != nil {
			return err
		}
		return send(machineEvent(machine))
	})
}

func (s *server) DeleteMachine(r *proto.HandleRequest, to grpc.ServerStreamingServer[proto.DoneEvent]) error {
	return remove(opDeleteMachine, r, to, s.provider.DeleteMachine)
}

// remove runs a call that has no answer but its end.
func remove(op string, r handleRequest, to outgoing[proto.DoneEvent], call func(context.Context, providers.Handle) error) error {
	return stream(op, to, doneProgress, func(ctx context.Context, send func(*proto.DoneEvent) error) error {
		if err := call(ctx, fromHandle(r.GetHandle())); err != nil {
			return err
		}
		return send(&proto.DoneEvent{Event: &proto.DoneEvent_Done{Done: &proto.Done{}}})
	})
}

func volumeEvent(v providers.Volume) *proto.VolumeEvent {
	return &proto.VolumeEvent{Event: &proto.VolumeEvent_Volume{Volume: toVolume(v)}}
}

func snapshotEvent(s providers.Snapshot) *proto.SnapshotEvent {
	return &proto.SnapshotEvent{Event: &proto.SnapshotEvent_Snapshot{Snapshot: toSnapshot(s)}}
}

func machineEvent(m providers.Machine) *proto.MachineEvent {
	return &proto.MachineEvent{Event: &proto.MachineEvent_Machine{Machine: toMachine(m)}}
}

// maxPaths bounds the bytes of paths in one message.
const maxPaths = 1 << 20

// sendPaths sends as many messages as the paths need.
func sendPaths(paths []string, send func(*proto.PathsEvent) error) error {
	for len(paths) > 0 {
		list := &proto.Paths{}
		size := 0
		for len(paths) > 0 && size < maxPaths && len(list.Paths) < providers.MaxExtents {
			list.Paths = append(list.Paths, []byte(paths[0]))
			size += len(paths[0])
			paths = paths[1:]
		}
		if err := send(&proto.PathsEvent{Event: &proto.PathsEvent_Paths{Paths: list}}); err != nil {
			return err
		}
	}
	return nil
}
