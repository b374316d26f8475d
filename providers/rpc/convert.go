package rpc

import (
	"encoding/json"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	corev1 "k8s.io/api/core/v1"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/proto"
)

// Functions named toX make the message, those named fromX the value. A message that is absent gives the
// zero value.

func toHandle(h providers.Handle) *proto.Handle {
	if h.IsZero() {
		return nil
	}
	return &proto.Handle{Provider: h.Provider, Version: int64(h.Version), State: h.State}
}

func fromHandle(h *proto.Handle) providers.Handle {
	return providers.Handle{Provider: h.GetProvider(), Version: int(h.GetVersion()), State: h.GetState()}
}

func toRequest(h providers.Handle) *proto.HandleRequest {
	return &proto.HandleRequest{Handle: toHandle(h)}
}

func toInstant(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func fromInstant(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func toProgress(p providers.Progress) *proto.Progress {
	return &proto.Progress{Done: p.Done, Total: p.Total, Text: bounded(p.Text)}
}

func fromProgress(p *proto.Progress) providers.Progress {
	return providers.Progress{Done: p.GetDone(), Total: p.GetTotal(), Text: p.GetText()}
}

func toInfo(i providers.Info) *proto.InfoResponse {
	message := &proto.InfoResponse{Name: i.Name, Version: i.Version, Schema: i.Schema, Drivers: i.Drivers}
	for _, p := range i.Protocols {
		message.Protocols = append(message.Protocols, int32(p))
	}
	for _, c := range i.Capabilities {
		message.Capabilities = append(message.Capabilities, string(c))
	}
	return message
}

func fromInfo(message *proto.InfoResponse) providers.Info {
	i := providers.Info{
		Name: message.GetName(), Version: message.GetVersion(),
		Schema: message.GetSchema(), Drivers: message.GetDrivers(),
	}
	for _, p := range message.GetProtocols() {
		i.Protocols = append(i.Protocols, int(p))
	}
	for _, c := range message.GetCapabilities() {
		i.Capabilities = append(i.Capabilities, providers.Capability(c))
	}
	return i
}

func toHealth(h providers.Health) *proto.HealthResponse {
	return &proto.HealthResponse{
		Usable: h.Usable, Problems: h.Problems, Fingerprint: h.Fingerprint, Version: h.Version,
		Now: toInstant(h.Now), Free: h.Free, Total: h.Total,
	}
}

func fromHealth(h *proto.HealthResponse) providers.Health {
	return providers.Health{
		Usable: h.GetUsable(), Problems: h.GetProblems(), Fingerprint: h.GetFingerprint(), Version: h.GetVersion(),
		Now: fromInstant(h.GetNow()), Free: h.GetFree(), Total: h.GetTotal(),
	}
}

func toQuery(q providers.Query) *proto.Query {
	return &proto.Query{Tags: q.Tags, Machine: q.Machine, Ids: q.IDs}
}

func fromQuery(q *proto.Query) providers.Query {
	return providers.Query{Tags: q.GetTags(), Machine: q.GetMachine(), IDs: q.GetIds()}
}

func toVolume(v providers.Volume) *proto.Volume {
	return &proto.Volume{
		Handle: toHandle(v.Handle), Id: v.ID, Content: string(v.Content), Size: v.Size, Used: v.Used, Zone: v.Zone,
		Machine: v.Machine, ChangedBlocks: v.ChangedBlocks, Tags: v.Tags, Parameters: v.Parameters,
	}
}

func fromVolume(v *proto.Volume) providers.Volume {
	return providers.Volume{
		Handle: fromHandle(v.GetHandle()), ID: v.GetId(), Content: providers.Content(v.GetContent()), Size: v.GetSize(),
		Used: v.GetUsed(), Zone: v.GetZone(), Machine: v.GetMachine(), ChangedBlocks: v.GetChangedBlocks(),
		Tags: v.GetTags(), Parameters: v.GetParameters(),
	}
}

func toSnapshot(s providers.Snapshot) *proto.Snapshot {
	return &proto.Snapshot{
		Handle: toHandle(s.Handle), Id: s.ID, VolumeId: s.VolumeID, Content: string(s.Content), Size: s.Size,
		Instant: toInstant(s.Instant), Ready: s.Ready, Region: s.Region, Tags: s.Tags, Parameters: s.Parameters,
	}
}

func fromSnapshot(s *proto.Snapshot) providers.Snapshot {
	return providers.Snapshot{
		Handle: fromHandle(s.GetHandle()), ID: s.GetId(), VolumeID: s.GetVolumeId(),
		Content: providers.Content(s.GetContent()), Size: s.GetSize(), Instant: fromInstant(s.GetInstant()),
		Ready: s.GetReady(), Region: s.GetRegion(), Tags: s.GetTags(), Parameters: s.GetParameters(),
	}
}

func toSnapshotRequest(r providers.SnapshotRequest) *proto.SnapshotRequest {
	message := &proto.SnapshotRequest{Token: r.Token, Tags: r.Tags, Atomic: r.Atomic}
	for _, v := range r.Volumes {
		message.Volumes = append(message.Volumes, toHandle(v))
	}
	return message
}

func fromSnapshotRequest(message *proto.SnapshotRequest) providers.SnapshotRequest {
	r := providers.SnapshotRequest{Token: message.GetToken(), Tags: message.GetTags(), Atomic: message.GetAtomic()}
	for _, v := range message.GetVolumes() {
		r.Volumes = append(r.Volumes, fromHandle(v))
	}
	return r
}

func toSet(s providers.SnapshotSet) *proto.SnapshotSet {
	message := &proto.SnapshotSet{Atomic: s.Atomic, Skew: durationpb.New(s.Skew)}
	for _, one := range s.Snapshots {
		message.Snapshots = append(message.Snapshots, toSnapshot(one))
	}
	return message
}

func fromSet(message *proto.SnapshotSet) providers.SnapshotSet {
	s := providers.SnapshotSet{Atomic: message.GetAtomic(), Skew: message.GetSkew().AsDuration()}
	for _, one := range message.GetSnapshots() {
		s.Snapshots = append(s.Snapshots, fromSnapshot(one))
	}
	return s
}

func toCopy(r providers.CopyRequest) *proto.CopyRequest {
	return &proto.CopyRequest{Token: r.Token, Snapshot: toHandle(r.Snapshot), Target: r.Target, Tags: r.Tags}
}

func fromCopy(r *proto.CopyRequest) providers.CopyRequest {
	return providers.CopyRequest{
		Token: r.GetToken(), Snapshot: fromHandle(r.GetSnapshot()), Target: r.GetTarget(), Tags: r.GetTags(),
	}
}

func toCreate(r providers.CreateRequest) *proto.CreateRequest {
	return &proto.CreateRequest{
		Token: r.Token, Name: r.Name, Content: string(r.Content), Size: r.Size, Snapshot: toHandle(r.Snapshot),
		Zone: r.Zone, Tags: r.Tags, Parameters: r.Parameters,
	}
}

func fromCreate(r *proto.CreateRequest) providers.CreateRequest {
	return providers.CreateRequest{
		Token: r.GetToken(), Name: r.GetName(), Content: providers.Content(r.GetContent()), Size: r.GetSize(),
		Snapshot: fromHandle(r.GetSnapshot()), Zone: r.GetZone(), Tags: r.GetTags(), Parameters: r.GetParameters(),
	}
}

func toExtents(extents []providers.Extent) []*proto.Extent {
	messages := make([]*proto.Extent, len(extents))
	for i, e := range extents {
		messages[i] = &proto.Extent{Offset: e.Offset, Length: e.Length, Zero: e.Zero}
	}
	return messages
}

func fromExtents(messages []*proto.Extent) []providers.Extent {
	extents := make([]providers.Extent, len(messages))
	for i, m := range messages {
		extents[i] = fromExtent(m)
	}
	return extents
}

func fromExtent(m *proto.Extent) providers.Extent {
	return providers.Extent{Offset: m.GetOffset(), Length: m.GetLength(), Zero: m.GetZero()}
}

func toBlock(b providers.Block) *proto.Block {
	message := &proto.Block{Extent: &proto.Extent{Offset: b.Offset, Length: b.Length, Zero: b.Zero}}
	if !b.Zero {
		message.Data, message.Crc32C = b.Data, b.CRC
	}
	return message
}

func fromBlock(m *proto.Block) providers.Block {
	return providers.Block{Extent: fromExtent(m.GetExtent()), Data: m.GetData(), CRC: m.GetCrc32C()}
}

func toAttach(r providers.AttachRequest) *proto.AttachRequest {
	return &proto.AttachRequest{
		Token: r.Token, Volume: toHandle(r.Volume), Snapshot: toHandle(r.Snapshot), ReadOnly: r.ReadOnly,
	}
}

func fromAttach(r *proto.AttachRequest) providers.AttachRequest {
	return providers.AttachRequest{
		Token: r.GetToken(), Volume: fromHandle(r.GetVolume()), Snapshot: fromHandle(r.GetSnapshot()),
		ReadOnly: r.GetReadOnly(),
	}
}

func toAttachment(a providers.Attachment) *proto.Attachment {
	return &proto.Attachment{Handle: toHandle(a.Handle), Path: a.Path, Mark: a.Mark, Instant: toInstant(a.Instant)}
}

func fromAttachment(a *proto.Attachment) providers.Attachment {
	return providers.Attachment{
		Handle: fromHandle(a.GetHandle()), Path: a.GetPath(), Mark: a.GetMark(), Instant: fromInstant(a.GetInstant()),
	}
}

func toMachine(m providers.Machine) *proto.Machine {
	return &proto.Machine{
		Handle: toHandle(m.Handle), Id: m.ID, Name: m.Name, Address: m.Address, Zone: m.Zone, State: m.State,
		VolumeIds: m.VolumeIDs, Tags: m.Tags, Parameters: m.Parameters,
	}
}

func fromMachine(m *proto.Machine) providers.Machine {
	return providers.Machine{
		Handle: fromHandle(m.GetHandle()), ID: m.GetId(), Name: m.GetName(), Address: m.GetAddress(), Zone: m.GetZone(),
		State: m.GetState(), VolumeIDs: m.GetVolumeIds(), Tags: m.GetTags(), Parameters: m.GetParameters(),
	}
}

func toMachineRequest(r providers.MachineRequest) *proto.MachineRequest {
	return &proto.MachineRequest{
		Token: r.Token, Name: r.Name, Root: toHandle(r.Root), Zone: r.Zone, Tags: r.Tags, Parameters: r.Parameters,
		Disks: toDisks(r.Disks),
	}
}

func toDisks(disks map[string]providers.Handle) map[string]*proto.Handle {
	out := make(map[string]*proto.Handle, len(disks))
	for id, snapshot := range disks {
		out[id] = toHandle(snapshot)
	}
	return out
}

func fromDisks(disks map[string]*proto.Handle) map[string]providers.Handle {
	if len(disks) == 0 {
		return nil
	}
	out := make(map[string]providers.Handle, len(disks))
	for id, snapshot := range disks {
		out[id] = fromHandle(snapshot)
	}
	return out
}

func fromMachineRequest(r *proto.MachineRequest) providers.MachineRequest {
	return providers.MachineRequest{
		Token: r.GetToken(), Name: r.GetName(), Root: fromHandle(r.GetRoot()), Zone: r.GetZone(), Tags: r.GetTags(),
		Parameters: r.GetParameters(), Disks: fromDisks(r.GetDisks()),
	}
}

func toPV(pv *corev1.PersistentVolume) ([]byte, error) { return json.Marshal(pv) }

func fromPV(raw []byte) (*corev1.PersistentVolume, error) {
	pv := &corev1.PersistentVolume{}
	return pv, json.Unmarshal(raw, pv)
}
