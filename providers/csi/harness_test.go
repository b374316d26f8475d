package csi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	snapshots "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/musterdr/muster/providers/rpc"
	"github.com/musterdr/muster/providers/rpc/rpctest"
	"github.com/musterdr/muster/testenv"
)

const (
	labName = "csi"
	machine = labName + "-cp-0"
	rbac    = "../../docs/providers-csi-rbac.yaml"
)

// cluster is the lab that all tests of the package share: a kubeadm cluster of one machine with the lab's CSI
// driver, the real snapshot controller and the real csi-snapshotter.
type cluster struct {
	lab        *testenv.Lab
	kube       kubernetes.Interface
	snapshots  snapshots.Interface
	kubeconfig string // of the account in docs/providers-csi-rbac.yaml
	metadata   string // address of the SnapshotMetadata service
	dir        string
}

var shared struct {
	once    sync.Once
	cluster *cluster
	err     error
}

// keep lets a lab live on for the next run of these tests.
const keep = "MUSTER_KEEP_LAB"

func TestMain(m *testing.M) {
	if rpctest.IsProvider() {
		os.Exit(rpc.Serve(New(Config{Now: time.Now, Log: rpc.Log()})))
	}
	code := m.Run()
	if err := end(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// end looks at what all the tests have left in their cluster, and removes it.
func end() error {
	c := shared.cluster
	if c == nil {
		return nil
	}
	var problems []error
	if c.kube != nil {
		problems = append(problems, c.leavesNothing(context.Background()))
	}
	problems = append(problems, os.RemoveAll(c.dir))
	if os.Getenv(keep) == "" {
		problems = append(problems, testenv.Remove(context.Background(), labName))
	}
	return errors.Join(problems...)
}

// needCluster starts the cluster when it is the first to need it.
func needCluster(t *testing.T) *cluster {
	t.Helper()
	testenv.Need(t)
	shared.once.Do(func() { shared.cluster, shared.err = startCluster(context.Background()) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.cluster
}

func startCluster(ctx context.Context) (*cluster, error) {
	quiet := func(string, ...any) {}
	dir, err := os.MkdirTemp("", "muster-csi-")
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir}
	if c.lab, err = testenv.Open(ctx, labName, quiet); err != nil || os.Getenv(keep) == "" {
		if err := testenv.Remove(ctx, labName); err != nil {
			return nil, err
		}
		if c.lab, err = testenv.Up(ctx, testenv.Config{Name: labName, ControlPlanes: 1}, quiet); err != nil {
			return c, err
		}
		if _, err = c.lab.StartCSI(ctx, machine); err != nil {
			return c, err
		}
	}
	c.metadata = c.lab.State.Addresses[machine] + ":7443"
	return c, c.connect(ctx)
}

// connect makes clients of the administrator and a kubeconfig of the provider's own account.
func (c *cluster) connect(ctx context.Context) error {
	admin, err := clientcmd.BuildConfigFromFlags("", c.lab.KubeconfigFile())
	if err != nil {
		return err
	}
	admin.QPS, admin.Burst = -1, 0
	if c.kube, err = kubernetes.NewForConfig(admin); err != nil {
		return err
	}
	if c.snapshots, err = snapshots.NewForConfig(admin); err != nil {
		return err
	}
	manifest, err := os.ReadFile(rbac)
	if err != nil {
		return err
	}
	if err := c.lab.Apply(ctx, string(manifest)); err != nil {
		return err
	}
	hours := int64(4 * 3600)
	token, err := c.kube.CoreV1().ServiceAccounts("muster-volumes").CreateToken(ctx, "muster-volumes",
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hours}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["lab"] = &clientcmdapi.Cluster{Server: admin.Host, CertificateAuthorityData: admin.CAData}
	config.AuthInfos["muster"] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	config.Contexts["muster"] = &clientcmdapi.Context{Cluster: "lab", AuthInfo: "muster"}
	config.CurrentContext = "muster"
	c.kubeconfig = filepath.Join(c.dir, "kubeconfig")
	return clientcmd.WriteToFile(*config, c.kubeconfig)
}

// settings are the provider's, with changes.
func (c *cluster) settings(changes map[string]any) json.RawMessage {
	settings := map[string]any{
		"kubeconfigFile": c.kubeconfig, "image": testenv.BusyboxImage, "storageClass": "labcsi", "drivers": []string{testenv.CSIDriver},
		"metadataAddresses": map[string]string{testenv.CSIDriver: c.metadata}, "moverIdle": "20s",
	}
	for key, value := range changes {
		settings[key] = value
	}
	raw, err := json.Marshal(settings)
	if err != nil {
		panic(err)
	}
	return raw
}

// open is a configured provider that ends with the test.
func (c *cluster) open(t *testing.T, changes map[string]any) *Provider {
	t.Helper()
	p := New(Config{Now: time.Now})
	if err := p.Configure(t.Context(), c.settings(changes)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// leavesNothing tells pods and claims of ours that the tests have left behind.
func (c *cluster) leavesNothing(ctx context.Context) error {
	pods, err := c.kube.CoreV1().Pods("muster-volumes").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var left []string
	for _, pod := range pods.Items {
		left = append(left, "pod "+pod.Name)
	}
	claims, err := c.kube.CoreV1().PersistentVolumeClaims("muster-volumes").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, claim := range claims.Items {
		if claim.DeletionTimestamp == nil && len(claim.OwnerReferences) == 0 {
			left = append(left, "claim "+claim.Name)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("left in the cluster: %s", strings.Join(left, ", "))
	}
	return nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// name is one of a test that differs from run to run, also on a lab that is kept.
func name(t *testing.T) string {
	t.Helper()
	base := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	return fmt.Sprintf("%s-%s", base, digest(base, fmt.Sprint(os.Getpid()))[:6])
}
