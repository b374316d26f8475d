package registry

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/metrics"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
	kmsapi "k8s.io/kms/apis/v2"
	kms "k8s.io/kms/pkg/service"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv/apiserver"
)

// vault is a key management service with one key.
type vault struct{ key cipher.AEAD }

func newVault(secret string) vault {
	sum := sha256.Sum256([]byte(secret))
	block, err := aes.NewCipher(sum[:])
	if err != nil {
		panic(err) // a key of 32 bytes is right
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // and so are blocks of 16
	}
	return vault{gcm}
}

func (v vault) Encrypt(_ context.Context, _ string, data []byte) (*kms.EncryptResponse, error) {
	return &kms.EncryptResponse{Ciphertext: v.key.Seal(nil, nil, data, nil), KeyID: "one", Annotations: map[string][]byte{"kind.example.org": []byte("test")}}, nil
}

func (v vault) Decrypt(_ context.Context, _ string, r *kms.DecryptRequest) ([]byte, error) {
	if r.KeyID != "one" || string(r.Annotations["kind.example.org"]) != "test" {
		return nil, errors.New("that is not of this vault")
	}
	return v.key.Open(nil, nil, r.Ciphertext, nil)
}

func (v vault) Status(context.Context) (*kms.StatusResponse, error) {
	return &kms.StatusResponse{Version: "v2", Healthz: "ok", KeyID: "one"}, nil
}

// transformer encrypts as an API server does.
func (v vault) transformer(t testing.TB) value.Transformer {
	t.Helper()
	metrics.RegisterMetrics()
	inner, sealed, key, err := kmsv2.GenerateTransformer(t.Context(), "uid", v, true)
	must(t, err)
	return kmsv2.NewEnvelopeTransformer(v, "vault", func() (kmsv2.State, error) {
		return kmsv2.State{
			Transformer: inner, EncryptedObjectKeyID: sealed.KeyID, EncryptedObjectEncryptedDEKSource: sealed.EncryptedDEKSource,
			EncryptedObjectAnnotations: sealed.Annotations, EncryptedObjectEncryptedDEKSourceType: sealed.EncryptedDEKSourceType,
			ExpirationTimestamp: time.Now().Add(time.Hour), CacheKey: key,
		}, nil
	}, "")
}

// serve serves a vault on a socket until stop, as a plugin on a control plane does, and returns its configuration.
func serve(t *testing.T, v vault) (config string, stop func()) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "kms.sock")
	listener, err := net.Listen("unix", socket)
	must(t, err)
	server, ended := grpc.NewServer(), make(chan error, 1)
	kmsapi.RegisterKeyManagementServiceServer(server, kms.NewGRPCService(socket, time.Second, v))
	go func() { ended <- server.Serve(listener) }()
	stop = func() {
		server.Stop()
		must(t, <-ended)
	}
	return fmt.Sprintf(`
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [secrets]
    providers:
      - kms: {apiVersion: v2, name: vault, endpoint: "unix://%s", timeout: 20s}
`, socket), stop
}

// TestPlugin reads what a real API server has encrypted by a plugin of KMS v2: with that plugin, with another one,
// and with none.
func TestPlugin(t *testing.T) {
	config, stop := serve(t, newVault("kept"))
	server := apiserver.Need(t, apiserver.Config{Encryption: []byte(config)})
	access, err := clientcmd.RESTConfigFromKubeConfig(server.Kubeconfig)
	must(t, err)
	client, err := dynamic.NewForConfig(access)
	must(t, err)
	c := &cluster{server, client}
	for i := range 5 {
		c.put(t, secrets, "Secret", fmt.Sprint("s", i), map[string]any{"stringData": map[string]any{"password": fmt.Sprint("planted", i)}})
	}
	list, err := client.Resource(secrets).Namespace("default").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	entries, err := read(t, c.snapshot(t), Query{Wanted: func(key string) bool { return strings.HasPrefix(key, "/registry/secrets/default/") }})
	must(t, err)
	if len(entries) != 5 || len(list.Items) != 5 {
		t.Fatalf("%d entries, %d secrets", len(entries), len(list.Items))
	}
	keys, err := ReadKeys(t.Context(), []byte(config))
	must(t, err)
	for i, e := range entries {
		if !strings.HasPrefix(string(e.Value), "k8s:enc:kms:v2:vault:") {
			t.Errorf("%s is not encrypted", e.Key)
		}
		got, err := Object(t.Context(), e, keys)
		must(t, err)
		if !reflect.DeepEqual(plain(t, got), plain(t, &list.Items[i])) {
			t.Errorf("%s is %v", e.Key, plain(t, got))
		}
	}
	stop()
	refused(t, entries, config, "its plugin does not answer at unix:///")
	config, stop = serve(t, newVault("another"))
	defer stop()
	refused(t, entries, config, "message authentication failed")
	refused(t, entries, strings.ReplaceAll(config, "v2", "v1"), "whose key is not in the encryption configuration")
	if _, err := ReadKeys(t.Context(), []byte(strings.ReplaceAll(config, "unix:", "tcp:"))); !fault.Is(err, fault.Invalid) {
		t.Errorf("a plugin elsewhere: %v", err)
	}
}

func refused(t *testing.T, entries []Entry, config, want string) {
	t.Helper()
	keys, err := ReadKeys(t.Context(), []byte(config))
	must(t, err)
	for _, e := range entries {
		if _, err := Object(t.Context(), e, keys); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", e.Key, err, want)
		}
	}
}
