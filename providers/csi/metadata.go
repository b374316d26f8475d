package csi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterdr/muster/providers"
	wire "github.com/musterdr/muster/providers/csi/snapshotmetadata"
	"github.com/musterdr/muster/providers/fault"
)

const metadataAPI = "cbt.storage.k8s.io"

func metadataVersions() []string { return []string{"v1", "v1beta1", "v1alpha1"} }

// metadataServices are the SnapshotMetadataService objects by driver; their name is the driver's.
func (p *Provider) metadataServices(ctx context.Context, op string) (map[string]unstructured.Unstructured, error) {
	version, err := p.served(op, metadataAPI, metadataVersions())
	if err != nil || version == "" {
		return nil, err
	}
	list, err := p.dynamic.Resource(schema.GroupVersionResource{Group: metadataAPI, Version: version, Resource: "snapshotmetadataservices"}).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, wrap(op, "SnapshotMetadataServices", err)
	}
	out := map[string]unstructured.Unstructured{}
	for _, service := range list.Items {
		out[service.GetName()] = service
	}
	return out, nil
}

func (p *Provider) metadataDrivers(ctx context.Context, op string) (map[string]bool, error) {
	services, err := p.metadataServices(ctx, op)
	out := map[string]bool{}
	for driver := range services {
		out[driver] = true
	}
	return out, err
}

// metadata is an open connection to a driver's SnapshotMetadata service.
type metadata struct {
	connection *grpc.ClientConn
	client     wire.SnapshotMetadataClient
	token      string
}

// dialMetadata connects to a driver's service; nil when it has none.
func (p *Provider) dialMetadata(ctx context.Context, op, driver string) (*metadata, error) {
	services, err := p.metadataServices(ctx, op)
	if err != nil {
		return nil, err
	}
	service, ok := services[driver]
	if !ok {
		return nil, nil
	}
	address, _, _ := unstructured.NestedString(service.Object, "spec", "address")
	audience, _, _ := unstructured.NestedString(service.Object, "spec", "audience")
	encoded, _, _ := unstructured.NestedString(service.Object, "spec", "caCert")
	name, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fault.New(op, fault.Invalid, "SnapshotMetadataService "+driver, err)
	}
	roots := x509.NewCertPool()
	if pem, err := base64.StdEncoding.DecodeString(encoded); err != nil || !roots.AppendCertsFromPEM(pem) {
		return nil, fault.Newf(op, fault.Invalid, "SnapshotMetadataService "+driver, "its caCert is no certificate")
	}
	if other := p.settings.MetadataAddresses[driver]; other != "" {
		address = other
	}
	token, err := p.metadataToken(ctx, op, audience)
	if err != nil {
		return nil, err
	}
	transport := credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12})
	connection, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(transport), grpc.WithUserAgent("muster-provider-csi"))
	if err != nil {
		return nil, fault.New(op, fault.Invalid, address, err)
	}
	return &metadata{connection: connection, client: wire.NewSnapshotMetadataClient(connection), token: token}, nil
}

// metadataToken is a token of ten minutes: of the service account, for the service alone.
func (p *Provider) metadataToken(ctx context.Context, op, audience string) (string, error) {
	seconds := int64(600)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{audience}, ExpirationSeconds: &seconds}}
	got, err := p.kube.CoreV1().ServiceAccounts(p.settings.Namespace).CreateToken(ctx, p.settings.ServiceAccount, request, metav1.CreateOptions{})
	if err != nil {
		return "", wrap(op, "token of "+p.settings.Namespace+"/"+p.settings.ServiceAccount, err)
	}
	return got.Status.Token, nil
}

func (m *metadata) close() { _ = m.connection.Close() } // nothing is lost with it

// blocksMessage is what the two answers have in common.
type blocksMessage interface {
	GetBlockMetadata() []*wire.BlockMetadata
	GetVolumeCapacityBytes() int64
}

// extents asks for the extents of a VolumeSnapshot of ours: those that differ from a base, given by its CSI
// handle, or those that hold data.
func (m *metadata) extents(ctx context.Context, op, namespace, name, base string, each func([]providers.Extent) error) error {
	if base == "" {
		stream, err := m.client.GetMetadataAllocated(ctx, &wire.GetMetadataAllocatedRequest{SecurityToken: m.token, Namespace: namespace, SnapshotName: name})
		return drain(op, name, stream, err, each)
	}
	stream, err := m.client.GetMetadataDelta(ctx, &wire.GetMetadataDeltaRequest{SecurityToken: m.token, Namespace: namespace, TargetSnapshotName: name, BaseSnapshotId: base})
	return drain(op, name, stream, err, each)
}

// drain passes a stream's messages on. An error of each is returned as it is.
func drain[M blocksMessage](op, name string, stream interface{ Recv() (M, error) }, err error, each func([]providers.Extent) error) error {
	if err != nil {
		return wrapRPC(op, name, err)
	}
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return wrapRPC(op, name, err)
		}
		var extents []providers.Extent
		for _, block := range message.GetBlockMetadata() {
			extents = append(extents, providers.Extent{Offset: block.GetByteOffset(), Length: block.GetSizeBytes()})
		}
		if err := each(extents); err != nil {
			return err
		}
	}
}

// unableMetadata tells the errors of a service that cannot serve this snapshot from those that may pass.
func unableMetadata(err error) bool {
	var known *fault.Error
	return errors.As(err, &known) && status.Code(known.Err) == codes.Unimplemented
}
