package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
	"github.com/musterdr/muster/testenv/apiserver"
)

// shared is the API server of all tests here; each test works in namespaces of its own.
var shared apiserver.Shared

func TestMain(m *testing.M) {
	code := m.Run()
	if err := shared.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func connect(t testing.TB, server *apiserver.Server) *Client {
	t.Helper()
	client, err := Connect(Access{Kubeconfig: server.Kubeconfig})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// memory is a Store that keeps everything, for tests that look at what was stored.
type memory struct {
	mu      sync.Mutex
	objects map[repository.ID][]byte
	trees   map[repository.ID][]repository.File
}

func newMemory() *memory {
	return &memory{objects: map[repository.ID][]byte{}, trees: map[repository.ID][]repository.File{}}
}

func (m *memory) Put(_ context.Context, _ string, content io.Reader) (repository.Object, error) {
	data, err := io.ReadAll(content)
	if err != nil {
		return repository.Object{}, err
	}
	sum := sha256.Sum256(data)
	id := repository.ID(hex.EncodeToString(sum[:]))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[id] = data
	return repository.Object{ID: id, Size: int64(len(data)), SHA256: string(id)}, nil
}

func (m *memory) PutTree(_ context.Context, files []repository.File) (repository.Tree, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := repository.ID(fmt.Sprintf("tree-%d", len(m.trees)))
	m.trees[id] = slices.Clone(files)
	return repository.Tree{ID: id, Files: len(files)}, nil
}

func (m *memory) read(_ context.Context, id repository.ID) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, found := m.objects[id]
	if !found {
		return nil, fault.New("read", fault.NotFound, string(id), nil)
	}
	return data, nil
}

// index reads the index of a capture by key.
func (m *memory) index(t testing.TB, captured Captured) map[string]Entry {
	t.Helper()
	reader, writer := io.Pipe()
	go func() {
		_, err := writer.Write(m.objects[captured.Index.ID])
		writer.CloseWithError(err)
	}()
	entries, err := ReadIndex(reader)
	if err != nil {
		t.Fatal(err)
	}
	byKey := map[string]Entry{}
	for _, entry := range entries {
		byKey[entry.Key().String()] = entry
	}
	return byKey
}

// recorded is what a replay or a comparison reads of a capture.
func (m *memory) recorded(t testing.TB, captured Captured) Recorded {
	t.Helper()
	var entries []Entry
	for _, entry := range m.index(t, captured) {
		entries = append(entries, entry)
	}
	SortEntries(entries)
	return Recorded{Layer: captured.Layer, Entries: entries, Load: m.read}
}

// counted is a Progress that adds up.
type counted struct {
	mu    sync.Mutex
	items int64
	bytes int64
}

func (c *counted) Total(int64, int64) {}
func (c *counted) Status(string)      {}
func (c *counted) Add(bytes, items int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes, c.items = c.bytes+bytes, c.items+items
}

// create posts an object and returns it as the server stored it.
func create(t testing.TB, client *Client, path string, object Object) Object {
	t.Helper()
	var made Object
	err := client.call(t.Context(), request{method: http.MethodPost, path: path, body: appendCanonical(nil, object)}, &made)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func newNamespace(t testing.TB, client *Client, name string) {
	t.Helper()
	create(t, client, "/api/v1/namespaces", Object{"metadata": map[string]any{"name": name}})
}

func secret(name string, data map[string]any) Object {
	return Object{"metadata": map[string]any{"name": name}, "stringData": data}
}

func captureAll(t testing.TB, client *Client, change func(*CaptureConfig)) (Captured, *memory) {
	t.Helper()
	store := newMemory()
	config := CaptureConfig{Client: client, Store: store, Progress: &counted{}, Now: time.Now}
	if change != nil {
		change(&config)
	}
	captured, err := Capture(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	return captured, store
}

func object(t testing.TB, text string) Object {
	t.Helper()
	o, err := decodeObject([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func toJSON(t testing.TB, value any) string {
	t.Helper()
	text, err := json.MarshalIndent(value, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func keysOf[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

type leftOut = repository.LeftOut

// discard is a Store that keeps nothing.
type discard struct{}

func (discard) Put(_ context.Context, name string, content io.Reader) (repository.Object, error) {
	size, err := io.Copy(io.Discard, content)
	return repository.Object{ID: repository.ID(name), Size: size}, err
}

func (discard) PutTree(_ context.Context, files []repository.File) (repository.Tree, error) {
	return repository.Tree{Files: len(files)}, nil
}

// fill creates n Secrets of a kilobyte in a new namespace.
func fill(t testing.TB, client *Client, namespace string, n int) {
	t.Helper()
	newNamespace(t, client, namespace)
	var group errgroup.Group
	group.SetLimit(64)
	for i := range n {
		group.Go(func() error {
			o := secret(fmt.Sprintf("s-%06d", i), map[string]any{"payload": strings.Repeat(fmt.Sprintf("%06d", i), 120)})
			return client.call(context.Background(), request{
				method: http.MethodPost, path: "/api/v1/namespaces/" + namespace + "/secrets", body: appendCanonical(nil, o),
			}, nil)
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

// signingRequest makes a certificate signing request, in the base64 of PEM that the API takes.
func signingRequest(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "test"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}
