// Command node is the node service of a CSI driver whose own one needs kernel modules that the lab lacks:
// two scripts mount and unmount. It registers itself with kubelet as soon as kubelet is there, and again when
// its sockets are gone, so that it can be started on a machine that is about to become a node.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

func main() {
	n := &node{}
	flag.StringVar(&n.driver, "driver", "", "the CSI driver's name")
	flag.StringVar(&n.name, "node", "", "this machine's node name")
	flag.StringVar(&n.script, "script", "", "called with publish|unpublish, volume handle and target; volume attributes are in the environment as ATTR_<name>")
	flag.Parse()
	socket := filepath.Join("/run", n.driver, "csi.sock")
	go serve(socket, func(s *grpc.Server) {
		csi.RegisterIdentityServer(s, n)
		csi.RegisterNodeServer(s, n)
	})
	registry := "/var/lib/kubelet/plugins_registry"
	serve(filepath.Join(registry, n.driver+"-reg.sock"), func(s *grpc.Server) {
		registerapi.RegisterRegistrationServer(s, &registrar{driver: n.driver, socket: socket})
	})
}

// serve listens whenever the socket is not there and its folder is.
func serve(socket string, register func(*grpc.Server)) {
	if filepath.Dir(filepath.Dir(socket)) == "/run" {
		if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
			log.Fatal(err)
		}
	}
	for ; ; time.Sleep(200 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			continue
		}
		listener, err := net.Listen("unix", socket)
		if err != nil {
			continue // the folder comes with kubelet
		}
		server := grpc.NewServer()
		register(server)
		go server.Serve(listener) //nolint:errcheck // a socket that is gone is made again
	}
}

type registrar struct {
	registerapi.UnimplementedRegistrationServer
	driver, socket string
}

func (r *registrar) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{Type: registerapi.CSIPlugin, Name: r.driver, Endpoint: r.socket, SupportedVersions: []string{"1.0.0"}}, nil
}

func (r *registrar) NotifyRegistrationStatus(_ context.Context, status *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	log.Printf("registered: %t %s", status.PluginRegistered, status.Error)
	return &registerapi.RegistrationStatusResponse{}, nil
}

type node struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedNodeServer
	driver, name, script string
}

func (n *node) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: n.driver, VendorVersion: "lab"}, nil
}

func (n *node) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}

func (n *node) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{}, nil
}

func (n *node) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: n.name}, nil
}

func (n *node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

func (n *node) NodePublishVolume(ctx context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	return &csi.NodePublishVolumeResponse{}, n.call(ctx, r.VolumeContext, "publish", r.VolumeId, r.TargetPath)
}

func (n *node) NodeUnpublishVolume(ctx context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	return &csi.NodeUnpublishVolumeResponse{}, n.call(ctx, nil, "unpublish", r.VolumeId, r.TargetPath)
}

func (n *node) call(ctx context.Context, attributes map[string]string, args ...string) error {
	c := exec.CommandContext(ctx, n.script, args...)
	c.Env = os.Environ()
	for name, value := range attributes {
		c.Env = append(c.Env, "ATTR_"+name+"="+value)
	}
	out, err := c.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%v: %w: %s", args, err, out)
		log.Print(err)
	}
	return err
}
