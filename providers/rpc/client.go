package rpc

import (
	"context"
	"encoding/json"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/providers/proto"
)

// Client is a provider in another process. It believes what that says: package guard does not.
type Client struct {
	wire proto.ProviderClient
	name string
}

var _ providers.Provider = (*Client)(nil)

// NewClient returns the provider at the other end of a connection, which stays the caller's. name stands
// in errors that the provider did not make itself.
func NewClient(conn grpc.ClientConnInterface, name string) *Client {
	return &Client{wire: proto.NewProviderClient(conn), name: name}
}

// Info implements providers.Provider.
func (c *Client) Info(ctx context.Context) (providers.Info, error) {
	answer, err := c.wire.Info(ctx, &proto.InfoRequest{})
	if err != nil {
		return providers.Info{}, fromStatus(ctx, opInfo, c.name, err)
	}
	return fromInfo(answer), nil
}

// Configure implements providers.Provider.
func (c *Client) Configure(ctx context.Context, settings json.RawMessage) error {
	_, err := c.wire.Configure(ctx, &proto.ConfigureRequest{Settings: settings})
	if err != nil {
		return fromStatus(ctx, opConfigure, c.name, err)
	}
	return nil
}

// Health implements providers.Provider.
func (c *Client) Health(ctx context.Context) (providers.Health, error) {
	answer, err := c.wire.Health(ctx, &proto.HealthRequest{})
	if err != nil {
		return providers.Health{}, fromStatus(ctx, opHealth, c.name, err)
	}
	return fromHealth(answer), nil
}

// closePatience bounds Close, which has no context.
const closePatience = 10 * time.Second

// Close implements providers.Provider. It ends neither the connection nor the process.
func (c *Client) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	if _, err := c.wire.Close(ctx, &proto.CloseRequest{}); err != nil {
		return fromStatus(ctx, opClose, c.name, err)
	}
	return nil
}

// Discover implements providers.Volumes.
func (c *Client) Discover(ctx context.Context, query providers.Query, each func(providers.Volume) error) error {
	return receive(ctx, c.named(opDiscover), toQuery(query), c.wire.Discover, func(e *proto.VolumeEvent) error {
		return present(e.GetVolume(), fromVolume, each)
	})
}

// Volume implements providers.Volumes.
func (c *Client) Volume(ctx context.Context, volume providers.Handle) (providers.Volume, error) {
	answer, err := c.wire.Volume(ctx, toRequest(volume))
	if err != nil {
		return providers.Volume{}, fromStatus(ctx, opVolume, c.name, err)
	}
	return fromVolume(answer), nil
}

// Match implements providers.Volumes.
func (c *Client) Match(ctx context.Context, pv *corev1.PersistentVolume) (providers.Volume, error) {
	raw, err := toPV(pv)
	if err != nil {
		return providers.Volume{}, fault.New(opMatch, fault.Invalid, pv.Name, err)
	}
	answer, err := c.wire.Match(ctx, &proto.MatchRequest{PersistentVolume: raw})
	if err != nil {
		return providers.Volume{}, fromStatus(ctx, opMatch, c.name, err)
	}
	return fromVolume(answer), nil
}

// Bind implements providers.Volumes.
func (c *Client) Bind(ctx context.Context, volume providers.Handle, pv *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	raw, err := toPV(pv)
	if err != nil {
		return nil, fault.New(opBind, fault.Invalid, pv.Name, err)
	}
	answer, err := c.wire.Bind(ctx, &proto.BindRequest{Volume: toHandle(volume), PersistentVolume: raw})
	if err != nil {
		return nil, fromStatus(ctx, opBind, c.name, err)
	}
	bound, err := fromPV(answer.GetPersistentVolume())
	if err != nil {
		return nil, fault.New(opBind, fault.Corrupt, c.name, err)
	}
	return bound, nil
}

// Create implements providers.Volumes.
func (c *Client) Create(ctx context.Context, request providers.CreateRequest) (providers.Volume, error) {
	return single(ctx, c.named(opCreate), toCreate(request), c.wire.Create, (*proto.VolumeEvent).GetVolume, fromVolume)
}

// DeleteVolume implements providers.Volumes.
func (c *Client) DeleteVolume(ctx context.Context, volume providers.Handle) error {
	return c.done(ctx, opDeleteVolume, volume, c.wire.DeleteVolume)
}

// Snapshot implements providers.Snapshots.
func (c *Client) Snapshot(ctx context.Context, request providers.SnapshotRequest) (providers.SnapshotSet, error) {
	return single(ctx, c.named(opSnapshot), toSnapshotRequest(request), c.wire.Snapshot, (*proto.SnapshotSetEvent).GetSet, fromSet)
}

// SnapshotOf implements providers.Snapshots.
func (c *Client) SnapshotOf(ctx context.Context, snapshot providers.Handle) (providers.Snapshot, error) {
	answer, err := c.wire.SnapshotOf(ctx, toRequest(snapshot))
	if err != nil {
		return providers.Snapshot{}, fromStatus(ctx, opSnapshotOf, c.name, err)
	}
	return fromSnapshot(answer), nil
}

// ListSnapshots implements providers.Snapshots.
func (c *Client) ListSnapshots(ctx context.Context, query providers.Query, each func(providers.Snapshot) error) error {
	return receive(ctx, c.named(opListSnapshots), toQuery(query), c.wire.ListSnapshots, func(e *proto.SnapshotEvent) error {
		return present(e.GetSnapshot(), fromSnapshot, each)
	})
}

// DeleteSnapshot implements providers.Snapshots.
func (c *Client) DeleteSnapshot(ctx context.Context, snapshot providers.Handle) error {
	return c.done(ctx, opDeleteSnapshot, snapshot, c.wire.DeleteSnapshot)
}

// CopySnapshot implements providers.Snapshots.
func (c *Client) CopySnapshot(ctx context.Context, request providers.CopyRequest) (providers.Snapshot, error) {
	return single(ctx, c.named(opCopySnapshot), toCopy(request), c.wire.CopySnapshot, (*proto.SnapshotEvent).GetSnapshot, fromSnapshot)
}

// Extents implements providers.Blocks.
func (c *Client) Extents(ctx context.Context, request providers.ExtentsRequest, each func([]providers.Extent) error) error {
	message := &proto.ExtentsRequest{Snapshot: toHandle(request.Snapshot), Base: toHandle(request.Base)}
	return receive(ctx, c.named(opExtents), message, c.wire.Extents, func(e *proto.ExtentsEvent) error {
		return present(e.GetExtents(), func(m *proto.Extents) []providers.Extent { return fromExtents(m.GetExtents()) }, each)
	})
}

// Read implements providers.Blocks.
func (c *Client) Read(ctx context.Context, request providers.ReadRequest, each func(providers.Block) error) error {
	message := &proto.ReadRequest{Snapshot: toHandle(request.Snapshot), Extents: toExtents(request.Extents)}
	return receive(ctx, c.named(opRead), message, c.wire.Read, func(e *proto.BlockEvent) error {
		return present(e.GetBlock(), fromBlock, each)
	})
}

// Attach implements providers.Files.
func (c *Client) Attach(ctx context.Context, request providers.AttachRequest) (providers.Attachment, error) {
	return single(ctx, c.named(opAttach), toAttach(request), c.wire.Attach, (*proto.AttachmentEvent).GetAttachment, fromAttachment)
}

// Detach implements providers.Files.
func (c *Client) Detach(ctx context.Context, attachment providers.Handle) error {
	return c.done(ctx, opDetach, attachment, c.wire.Detach)
}

// Changes implements providers.Files.
func (c *Client) Changes(ctx context.Context, request providers.ChangesRequest, each func([]string) error) error {
	message := &proto.ChangesRequest{Volume: toHandle(request.Volume), Since: request.Since, Until: request.Until}
	return receive(ctx, c.named(opChanges), message, c.wire.Changes, func(e *proto.PathsEvent) error {
		return present(e.GetPaths(), fromPaths, each)
	})
}

func fromPaths(m *proto.Paths) []string {
	paths := make([]string, len(m.GetPaths()))
	for i, p := range m.GetPaths() {
		paths[i] = string(p)
	}
	return paths
}

// DiscoverMachines implements providers.Machines.
func (c *Client) DiscoverMachines(ctx context.Context, query providers.Query, each func(providers.Machine) error) error {
	return receive(ctx, c.named(opDiscoverMachines), toQuery(query), c.wire.DiscoverMachines, func(e *proto.MachineEvent) error {
		return present(e.GetMachine(), fromMachine, each)
	})
}

// CreateMachine implements providers.Machines.
func (c *Client) CreateMachine(ctx context.Context, request providers.MachineRequest) (providers.Machine, error) {
	return single(ctx, c.named(opCreateMachine), toMachineRequest(request), c.wire.CreateMachine, (*proto.MachineEvent).GetMachine, fromMachine)
}

// DeleteMachine implements providers.Machines.
func (c *Client) DeleteMachine(ctx context.Context, machine providers.Handle) error {
	return c.done(ctx, opDeleteMachine, machine, c.wire.DeleteMachine)
}
