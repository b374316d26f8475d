package steps

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/musterdr/muster/orchestrator/machine"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/testenv"
)

const labName = "steps"

// shared is a lab with one control plane and a pod, for all tests here.
var shared struct {
	once sync.Once
	lab  *testenv.Lab
	err  error
}

func needLab(t *testing.T) *testenv.Lab {
	t.Helper()
	testenv.Need(t)
	shared.once.Do(func() { shared.err = makeLab() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.lab
}

const boxes = `
apiVersion: v1
kind: Pod
metadata: {name: box, labels: {app: box}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - {name: first, image: IMAGE, imagePullPolicy: Never, command: [/bin/busybox, sleep, "2147483647"]}
    - name: second
      image: IMAGE
      imagePullPolicy: Never
      command: [/bin/busybox, sleep, "2147483647"]
      env: [{name: OF_THE_CONTAINER, value: kept}]
`

func makeLab() error {
	ctx := context.Background()
	if err := testenv.Remove(ctx, labName); err != nil {
		return err
	}
	l, err := testenv.Up(ctx, testenv.Config{Name: labName, ControlPlanes: 1}, func(string, ...any) {})
	if err != nil {
		return errors.Join(err, testenv.Remove(ctx, labName))
	}
	shared.lab = l
	file := filepath.Join(filepath.Dir(l.KubeconfigFile()), "boxes.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(boxes, "IMAGE", testenv.BusyboxImage)), 0o600); err != nil {
		return err
	}
	_, err = l.Kubectl(ctx, "apply", "-f", file)
	return err
}

// inLab is a run with the lab's Cluster document.
func inLab(t *testing.T, l *testenv.Lab) *watched {
	t.Helper()
	set, err := plans.Read("lab.yaml", strings.NewReader(l.Inventory()))
	if err != nil {
		t.Fatal(err)
	}
	w := newWatched()
	w.Cluster = set.Clusters[labName]
	return w
}

// onMachine is a session of the test's own on the lab's machine.
func onMachine(t *testing.T, w *watched) *machine.Host {
	t.Helper()
	host, err := machine.Dial(t.Context(), w.Cluster.Spec.Machines[0], w.Cluster.Spec.SSH)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Close() })
	return host
}

func output(t *testing.T, host *machine.Host, script string) string {
	t.Helper()
	out, err := host.Output(t.Context(), script)
	if err != nil {
		t.Error(err)
	}
	return strings.TrimSpace(out)
}

// between is a server before the lab's API server that meddles with upgraded connections.
type between struct {
	mu       sync.Mutex
	upgrades []string           // the protocols that were asked for
	refuse   string             // a protocol that it does not know
	cut      context.CancelFunc // of the last upgraded connection
}

// stand puts it into the run's way.
func (b *between) stand(t *testing.T, w *watched) {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", w.Cluster.Spec.KubeconfigFile)
	if err != nil {
		t.Fatal(err)
	}
	config.NextProtos = []string{"http/1.1"} // the only one with upgrades
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, Transport: transport, FlushInterval: -1, ErrorLog: quiet()}
	server := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if protocol := r.Header.Get("Upgrade"); protocol != "" {
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			b.mu.Lock()
			b.upgrades, b.cut = append(b.upgrades, protocol), cancel
			refused := protocol == b.refuse
			b.mu.Unlock()
			if refused {
				http.Error(rw, "nothing known of this", http.StatusBadRequest)
				return
			}
			r = r.WithContext(ctx)
		}
		proxy.ServeHTTP(rw, r)
	}))
	t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: c
clusters: [{name: c, cluster: {server: %q, certificate-authority-data: %s}}]
contexts: [{name: c, context: {cluster: c, user: ""}}]
`, server.URL, base64.StdEncoding.EncodeToString(ca))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Cluster.Spec.KubeconfigFile = file
}

func (b *between) seen() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.upgrades, " ")
}
