package main

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// driver is what the real sidecars and kubelet talk to.
type driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedGroupControllerServer
	csi.UnimplementedNodeServer
	store *store
	node  string
}

func (d *driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: driverName, VendorVersion: "1"}, nil
}

func (d *driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

func (d *driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	out := &csi.GetPluginCapabilitiesResponse{}
	for _, t := range []csi.PluginCapability_Service_Type{
		csi.PluginCapability_Service_CONTROLLER_SERVICE, csi.PluginCapability_Service_GROUP_CONTROLLER_SERVICE,
	} {
		out.Capabilities = append(out.Capabilities, &csi.PluginCapability{Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: t}}})
	}
	return out, nil
}

func (d *driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	out := &csi.ControllerGetCapabilitiesResponse{}
	for _, t := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME, csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
	} {
		out.Capabilities = append(out.Capabilities, &csi.ControllerServiceCapability{Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: t}}})
	}
	return out, nil
}

// fail lets a VolumeSnapshotClass have parameters that make the driver refuse: {fail: ResourceExhausted}.
func fail(parameters map[string]string) error {
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		if wanted := parameters["fail"]; wanted != "" && code.String() == wanted {
			return status.Error(code, "the class asks for this failure")
		}
	}
	return nil
}

func (d *driver) CreateSnapshot(_ context.Context, r *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	if err := fail(r.Parameters); err != nil {
		return nil, err
	}
	taken, err := d.store.createSnapshots([]string{r.Name}, []string{r.SourceVolumeId}, "")
	if err != nil {
		return nil, err
	}
	return &csi.CreateSnapshotResponse{Snapshot: snapshotOf(taken[0])}, nil
}

func snapshotOf(t thing) *csi.Snapshot {
	return &csi.Snapshot{SnapshotId: t.ID, SourceVolumeId: t.Source, SizeBytes: t.Size, ReadyToUse: true, CreationTime: timestamppb.New(t.Taken), GroupSnapshotId: t.Group}
}

func (d *driver) DeleteSnapshot(_ context.Context, r *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	return &csi.DeleteSnapshotResponse{}, d.store.remove("snapshots", r.SnapshotId)
}

func (d *driver) ListSnapshots(_ context.Context, r *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	all, err := d.store.list("snapshots")
	if err != nil {
		return nil, err
	}
	out := &csi.ListSnapshotsResponse{}
	for _, t := range all {
		if (r.SnapshotId == "" || r.SnapshotId == t.ID) && (r.SourceVolumeId == "" || r.SourceVolumeId == t.Source) {
			out.Entries = append(out.Entries, &csi.ListSnapshotsResponse_Entry{Snapshot: snapshotOf(t)})
		}
	}
	return out, nil
}

func (d *driver) GroupControllerGetCapabilities(context.Context, *csi.GroupControllerGetCapabilitiesRequest) (*csi.GroupControllerGetCapabilitiesResponse, error) {
	return &csi.GroupControllerGetCapabilitiesResponse{Capabilities: []*csi.GroupControllerServiceCapability{{
		Type: &csi.GroupControllerServiceCapability_Rpc{Rpc: &csi.GroupControllerServiceCapability_RPC{
			Type: csi.GroupControllerServiceCapability_RPC_CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT,
		}},
	}}}, nil
}

func (d *driver) CreateVolumeGroupSnapshot(_ context.Context, r *csi.CreateVolumeGroupSnapshotRequest) (*csi.CreateVolumeGroupSnapshotResponse, error) {
	group := idOf("group-", r.Name)
	var names []string
	for _, volume := range r.SourceVolumeIds {
		names = append(names, r.Name+"/"+volume)
	}
	taken, err := d.store.createSnapshots(names, r.SourceVolumeIds, group)
	if err != nil {
		return nil, err
	}
	return &csi.CreateVolumeGroupSnapshotResponse{GroupSnapshot: groupOf(group, taken)}, nil
}

func groupOf(id string, members []thing) *csi.VolumeGroupSnapshot {
	out := &csi.VolumeGroupSnapshot{GroupSnapshotId: id, ReadyToUse: true, CreationTime: timestamppb.New(members[0].Taken)}
	for _, t := range members {
		out.Snapshots = append(out.Snapshots, snapshotOf(t))
	}
	return out
}

func (d *driver) GetVolumeGroupSnapshot(_ context.Context, r *csi.GetVolumeGroupSnapshotRequest) (*csi.GetVolumeGroupSnapshotResponse, error) {
	all, err := d.store.list("snapshots")
	if err != nil {
		return nil, err
	}
	var members []thing
	for _, t := range all {
		if t.Group == r.GroupSnapshotId {
			members = append(members, t)
		}
	}
	if len(members) == 0 {
		return nil, status.Errorf(codes.NotFound, "there is no group %s", r.GroupSnapshotId)
	}
	return &csi.GetVolumeGroupSnapshotResponse{GroupSnapshot: groupOf(r.GroupSnapshotId, members)}, nil
}

func (d *driver) DeleteVolumeGroupSnapshot(_ context.Context, r *csi.DeleteVolumeGroupSnapshotRequest) (*csi.DeleteVolumeGroupSnapshotResponse, error) {
	for _, id := range r.SnapshotIds {
		if err := d.store.remove("snapshots", id); err != nil {
			return nil, err
		}
	}
	return &csi.DeleteVolumeGroupSnapshotResponse{}, nil
}
