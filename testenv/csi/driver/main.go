// Command driver is the lab's own CSI driver, labcsi.muster.dev: the hostpath driver and the external
// provisioner cannot be had from the Go module proxy. A volume is a sparse file behind a loop device, a
// snapshot is a copy of the file. It is one process on one machine and does what three sidecars do elsewhere:
// it registers itself with kubelet, makes volumes for claims and deletes those of released ones, and serves
// the SnapshotMetadata service. Snapshots are left to the real snapshot controller and csi-snapshotter.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	snapshots "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned"
	"google.golang.org/grpc"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const driverName = "labcsi.muster.dev"

func main() {
	kubeconfig := flag.String("kubeconfig", "", "administrator's kubeconfig")
	node := flag.String("node", "", "this machine's node name; empty: no node service")
	kubelet := flag.String("kubelet", "/var/lib/kubelet", "kubelet's folder")
	dir := flag.String("dir", "", "where volumes are kept")
	socket := flag.String("socket", "", "where CSI is served")
	metadata := flag.String("metadata", "", "address of the SnapshotMetadata service; empty: none")
	tls := flag.String("tls", "", "folder with tls.crt and tls.key of that service")
	flag.Parse()
	if err := run(*kubeconfig, *node, *kubelet, *dir, *socket, *metadata, *tls); err != nil {
		log.Fatal(err)
	}
}

func run(kubeconfig, node, kubelet, dir, socket, metadata, tls string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.QPS, config.Burst = -1, 0
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	snapshots, err := snapshots.NewForConfig(config)
	if err != nil {
		return err
	}
	store, err := openStore(dir)
	if err != nil {
		return err
	}
	failed := make(chan error)
	go func() { failed <- serveCSI(socket, &driver{store: store, node: node}) }()
	if node != "" {
		go func() {
			failed <- register(filepath.Join(kubelet, "plugins_registry", driverName+"-reg.sock"), socket)
		}()
	}
	go func() {
		failed <- (&provisioner{kube: kube, snapshots: snapshots, store: store}).run(context.Background())
	}()
	if metadata != "" {
		go func() {
			failed <- (&metadataService{kube: kube, snapshots: snapshots, store: store}).serve(metadata, tls)
		}()
	}
	return <-failed
}

func listen(socket string) (net.Listener, error) {
	if err := os.RemoveAll(socket); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, err
	}
	return net.Listen("unix", socket)
}

func serveCSI(socket string, d *driver) error {
	listener, err := listen(socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	csi.RegisterIdentityServer(server, d)
	csi.RegisterControllerServer(server, d)
	csi.RegisterGroupControllerServer(server, d)
	csi.RegisterNodeServer(server, d)
	return server.Serve(listener)
}

// registrar tells kubelet of the driver.
type registrar struct {
	registerapi.UnimplementedRegistrationServer
	socket string
}

func register(path, socket string) error {
	listener, err := listen(path)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	registerapi.RegisterRegistrationServer(server, &registrar{socket: socket})
	return server.Serve(listener)
}

func (r *registrar) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{Type: registerapi.CSIPlugin, Name: driverName, Endpoint: r.socket, SupportedVersions: []string{"1.0.0"}}, nil
}

func (r *registrar) NotifyRegistrationStatus(_ context.Context, status *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	if !status.PluginRegistered {
		log.Printf("kubelet refuses the driver: %s", status.Error)
	}
	return &registerapi.RegistrationStatusResponse{}, nil
}
