package cluster

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
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv/apiserver"
)

// followNamespace makes a namespace and returns its ConfigMaps' resource.
func followNamespace(t *testing.T, c *Client, name string) Resource {
	t.Helper()
	newNamespace(t, c, name)
	r, err := c.Resolve(t.Context(), "v1", "ConfigMap")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func put(t *testing.T, c *Client, namespace, name, value string) {
	t.Helper()
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "web"}}, Data: map[string]string{"k": value}}
	maps := c.Kubernetes().CoreV1().ConfigMaps(namespace)
	_, err := maps.Update(t.Context(), m, metav1.UpdateOptions{})
	if statusCode(err) == 404 {
		_, err = maps.Create(t.Context(), m, metav1.CreateOptions{})
	}
	if err != nil {
		t.Error(err)
	}
}

func TestResolve(t *testing.T) {
	c := connect(t, shared.Need(t))
	r, err := c.Resolve(t.Context(), "apps/v1", "Deployment")
	if err != nil || r.Name != "deployments" || !r.Namespaced || !r.Watchable {
		t.Errorf("%+v, %v", r, err)
	}
	for _, tt := range []struct {
		apiVersion, kind string
		want             fault.Kind
	}{
		{"apps/v1", "Deploymnet", fault.Invalid}, {"v1", "Deployment", fault.Invalid}, {"v1", "Binding", fault.Invalid},
		{"none.example/v1", "Thing", fault.NotFound}, {"a/b/c", "Thing", fault.Invalid}, {"", "Thing", fault.Invalid},
	} {
		if _, err := c.Resolve(t.Context(), tt.apiVersion, tt.kind); !fault.Is(err, tt.want) {
			t.Errorf("%s %s: error is %v, want %s", tt.apiVersion, tt.kind, err, tt.want)
		}
	}
}

// TestFollowSeesEveryState: each look causes the next change, so nothing is seen by a lucky list.
func TestFollowSeesEveryState(t *testing.T) {
	c := connect(t, shared.Need(t))
	const namespace = "follow-states"
	r := followNamespace(t, c, namespace)
	var seen []string
	err := c.Follow(t.Context(), r, Subset{Namespace: namespace, Name: "one"}, time.Hour, func(objects []Object) (bool, error) {
		state := "absent"
		if len(objects) == 1 {
			state = objects[0].text("data", "k")
			if at(objects[0], "metadata", "managedFields") != nil || objects[0].kind() != "ConfigMap" {
				t.Errorf("the object is %v", objects[0])
			}
		}
		seen = append(seen, state)
		switch len(seen) {
		case 1:
			put(t, c, namespace, "another", "x") // not selected
			put(t, c, namespace, "one", "a")
		case 2:
			put(t, c, namespace, "one", "b")
		case 3:
			if err := c.Kubernetes().CoreV1().ConfigMaps(namespace).Delete(t.Context(), "one", metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		}
		return len(seen) == 4, nil
	})
	if want := "[absent a b absent]"; err != nil || fmt.Sprint(seen) != want {
		t.Errorf("saw %v, want %s; %v", seen, want, err)
	}
}

func TestFollowBySelectorInAllNamespaces(t *testing.T) {
	c := connect(t, shared.Need(t))
	r := followNamespace(t, c, "follow-one")
	followNamespace(t, c, "follow-two")
	put(t, c, "follow-two", "b", "1")
	looks := 0
	err := c.Follow(t.Context(), r, Subset{Selector: "app=web"}, time.Hour, func(objects []Object) (bool, error) {
		if looks++; looks == 1 {
			put(t, c, "follow-one", "a", "1")
		}
		var names []string
		for _, o := range objects {
			if o.namespace() == "follow-one" || o.namespace() == "follow-two" {
				names = append(names, o.namespace()+"/"+o.name())
			}
		}
		return fmt.Sprint(names) == "[follow-one/a follow-two/b]", nil
	})
	if err != nil || looks < 2 {
		t.Errorf("after %d looks: %v", looks, err)
	}
}

func TestFollowEnds(t *testing.T) {
	c := connect(t, shared.Need(t))
	const namespace = "follow-ends"
	r := followNamespace(t, c, namespace)
	broken := errors.New("the caller's own")
	if err := c.Follow(t.Context(), r, Subset{Namespace: namespace}, time.Hour, func([]Object) (bool, error) { return false, broken }); !errors.Is(err, broken) {
		t.Errorf("error is %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := c.Follow(ctx, r, Subset{Namespace: namespace}, time.Hour, func([]Object) (bool, error) {
		time.AfterFunc(50*time.Millisecond, cancel) // while the watch is open
		return false, nil
	})
	if !fault.Is(err, fault.Transient) {
		t.Errorf("error is %v", err)
	}
}

// impatient is a server between that cuts every watch which it has kept open for a moment.
func impatient(t *testing.T, server *apiserver.Server, cuts *atomic.Int32) *Client {
	t.Helper()
	config, err := clientcmd.RESTConfigFromKubeConfig(server.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, Transport: transport, FlushInterval: -1}
	between := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("watch") != "" {
			cuts.Add(1)
			ctx, cancel := context.WithTimeout(r.Context(), 50*time.Millisecond)
			defer cancel()
			r = r.WithContext(ctx)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(between.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: between.Certificate().Raw})
	return connect(t, &apiserver.Server{Kubeconfig: fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: c
clusters: [{name: c, cluster: {server: %q, certificate-authority-data: %s}}]
contexts: [{name: c, context: {cluster: c, user: ""}}]
`, between.URL, base64.StdEncoding.EncodeToString(ca))})
}

func TestFollowGoesOnWhenWatchesBreak(t *testing.T) {
	server := shared.Need(t)
	direct, cuts := connect(t, server), &atomic.Int32{}
	c := impatient(t, server, cuts)
	const namespace = "follow-cut"
	r := followNamespace(t, direct, namespace)
	changed := false
	err := c.Follow(t.Context(), r, Subset{Namespace: namespace, Name: "one"}, 10*time.Millisecond, func(objects []Object) (bool, error) {
		if !changed && cuts.Load() >= 3 {
			changed = true
			put(t, direct, namespace, "one", "a")
		}
		return len(objects) == 1, nil
	})
	if err != nil || !changed {
		t.Errorf("after %d cuts: %v", cuts.Load(), err)
	}
}
