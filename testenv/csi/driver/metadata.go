package main

import (
	"context"
	"net"
	"path/filepath"
	"slices"

	snapshots "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	wire "github.com/musterdr/muster/testenv/csi/snapshotmetadata"
)

// metadataService does what the external-snapshot-metadata sidecar does: it checks the token and what its
// owner may see, and tells the driver's metadata.
type metadataService struct {
	wire.UnimplementedSnapshotMetadataServer
	kube      kubernetes.Interface
	snapshots snapshots.Interface
	store     *store
}

func (m *metadataService) serve(address, tls string) error {
	certificate, err := credentials.NewServerTLSFromFile(filepath.Join(tls, "tls.crt"), filepath.Join(tls, "tls.key"))
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.Creds(certificate))
	wire.RegisterSnapshotMetadataServer(server, m)
	return server.Serve(listener)
}

// allow checks the caller: a token for this audience, of somebody who may read the VolumeSnapshot.
func (m *metadataService) allow(ctx context.Context, token, namespace string) error {
	review, err := m.kube.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{driverName}},
	}, metav1.CreateOptions{})
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	if !review.Status.Authenticated || !slices.Contains(review.Status.Audiences, driverName) {
		return status.Error(codes.Unauthenticated, "the token is not for this service")
	}
	access, err := m.kube.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: review.Status.User.Username, Groups: review.Status.User.Groups,
			ResourceAttributes: &authorizationv1.ResourceAttributes{Group: "snapshot.storage.k8s.io", Resource: "volumesnapshots", Verb: "get", Namespace: namespace},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	if !access.Status.Allowed {
		return status.Error(codes.PermissionDenied, review.Status.User.Username+" may not read VolumeSnapshots in "+namespace)
	}
	return nil
}

func (m *metadataService) snapshot(ctx context.Context, token, namespace, name string) (thing, error) {
	if err := m.allow(ctx, token, namespace); err != nil {
		return thing{}, err
	}
	snapshot, err := m.snapshots.SnapshotV1().VolumeSnapshots(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return thing{}, status.Error(codes.NotFound, err.Error())
	}
	if snapshot.Status == nil || snapshot.Status.BoundVolumeSnapshotContentName == nil {
		return thing{}, status.Errorf(codes.Unavailable, "snapshot %s is not ready", name)
	}
	content, err := m.snapshots.SnapshotV1().VolumeSnapshotContents().Get(ctx, *snapshot.Status.BoundVolumeSnapshotContentName, metav1.GetOptions{})
	if err != nil {
		return thing{}, status.Error(codes.NotFound, err.Error())
	}
	return m.store.get("snapshots", *content.Status.SnapshotHandle)
}

const perMessage = 256

func (m *metadataService) GetMetadataAllocated(r *wire.GetMetadataAllocatedRequest, stream grpc.ServerStreamingServer[wire.GetMetadataAllocatedResponse]) error {
	target, err := m.snapshot(stream.Context(), r.SecurityToken, r.Namespace, r.SnapshotName)
	if err != nil {
		return err
	}
	found, err := allocated(m.store.image("snapshots", target.ID))
	if err != nil {
		return err
	}
	for part := range slices.Chunk(blocks(found), perMessage) {
		if err := stream.Send(&wire.GetMetadataAllocatedResponse{BlockMetadataType: wire.BlockMetadataType_VARIABLE_LENGTH, VolumeCapacityBytes: target.Size, BlockMetadata: part}); err != nil {
			return err
		}
	}
	return nil
}

func (m *metadataService) GetMetadataDelta(r *wire.GetMetadataDeltaRequest, stream grpc.ServerStreamingServer[wire.GetMetadataDeltaResponse]) error {
	target, err := m.snapshot(stream.Context(), r.SecurityToken, r.Namespace, r.TargetSnapshotName)
	if err != nil {
		return err
	}
	base, err := m.store.get("snapshots", r.BaseSnapshotId)
	if err != nil {
		return err
	}
	if base.Source != target.Source {
		return status.Error(codes.InvalidArgument, "the snapshots are of different volumes")
	}
	found, err := changed(m.store.image("snapshots", base.ID), m.store.image("snapshots", target.ID))
	if err != nil {
		return err
	}
	for part := range slices.Chunk(blocks(found), perMessage) {
		if err := stream.Send(&wire.GetMetadataDeltaResponse{BlockMetadataType: wire.BlockMetadataType_VARIABLE_LENGTH, VolumeCapacityBytes: target.Size, BlockMetadata: part}); err != nil {
			return err
		}
	}
	return nil
}

func blocks(extents []extent) []*wire.BlockMetadata {
	var out []*wire.BlockMetadata
	for _, e := range extents {
		out = append(out, &wire.BlockMetadata{ByteOffset: e.offset, SizeBytes: e.length})
	}
	return out
}
