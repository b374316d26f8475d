package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/musterdr/muster/orchestrator"
)

// receiver is an OpenTelemetry collector: it takes what is sent to it, over HTTP or gRPC.
type receiver struct {
	collector.UnimplementedTraceServiceServer

	mu       sync.Mutex
	spans    []*tracepb.Span
	services map[string]bool
}

func (r *receiver) Export(_ context.Context, request *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, resource := range request.GetResourceSpans() {
		for _, a := range resource.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				r.services[a.GetValue().GetStringValue()] = true
			}
		}
		for _, scope := range resource.GetScopeSpans() {
			r.spans = append(r.spans, scope.GetSpans()...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// ServeHTTP is OTLP/HTTP with binary protobuf.
func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err == nil && request.Header.Get("Content-Encoding") == "gzip" {
		var unzipped *gzip.Reader
		if unzipped, err = gzip.NewReader(bytes.NewReader(body)); err == nil {
			body, err = io.ReadAll(unzipped)
		}
	}
	var content collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &content)
	}
	if err != nil || request.URL.Path != "/v1/traces" || request.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, "no traces", http.StatusBadRequest)
		return
	}
	response, _ := r.Export(request.Context(), &content)
	answer, _ := proto.Marshal(response)
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(answer)
}

func newReceiver(t *testing.T) (*receiver, string) {
	t.Helper()
	r := &receiver{services: map[string]bool{}}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	return r, server.URL
}

// named are the spans of a name.
func (r *receiver) named(name string) []*tracepb.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*tracepb.Span
	for _, s := range r.spans {
		if s.GetName() == name {
			out = append(out, s)
		}
	}
	return out
}

// one is the only span of a name.
func (r *receiver) one(t *testing.T, name string) *tracepb.Span {
	t.Helper()
	found := r.named(name)
	if len(found) != 1 {
		t.Fatalf("%d spans %q among %d", len(found), name, len(r.spans))
	}
	return found[0]
}

func valueOf(s *tracepb.Span, key string) string {
	for _, a := range s.GetAttributes() {
		if a.GetKey() == key {
			return a.GetValue().GetStringValue()
		}
	}
	return ""
}

const decidingPlans = `apiVersion: muster.dev/v1alpha1
kind: Cluster
metadata: {name: prod}
spec: {kubeconfigFile: admin.conf}
---
apiVersion: muster.dev/v1alpha1
kind: Repository
metadata: {name: vault}
spec: {url: "file://$DIR/repo", keyFile: muster.key}
---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: quick}
spec:
  purpose: capture
  steps:
    - {id: first, uses: approve, forEach: [a, b], with: {text: one, within: 50ms, onTimeout: approve}}
    - {id: second, uses: approve, needs: [first], with: {text: two, within: 300ms, onTimeout: approve}}
---
apiVersion: muster.dev/v1alpha1
kind: Plan
metadata: {name: rejected}
spec:
  purpose: capture
  steps:
    - {id: first, uses: approve, with: {text: one, within: 50ms}}
`

// desk is a folder with documents, a repository and a state, and a person who types there.
type desk struct {
	t   *testing.T
	dir string
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	return equipped(t, decidingPlans, nil)
}

const clusterAndRepository = `apiVersion: muster.dev/v1alpha1
kind: Cluster
metadata: {name: prod}
spec: {kubeconfigFile: $DIR/kubeconfig}
---
apiVersion: muster.dev/v1alpha1
kind: Repository
metadata: {name: vault}
spec: {url: "file://$DIR/repo", keyFile: $DIR/muster.key}
---
`

// clusterDesk has the documents of a cluster and of a repository before the plans.
func clusterDesk(t *testing.T, kubeconfig []byte, plans string) *desk {
	t.Helper()
	return equipped(t, clusterAndRepository+plans, kubeconfig)
}

// equipped is a desk with documents, in which $DIR is its folder, a kubeconfig if there is one, and a repository.
func equipped(t *testing.T, documents string, kubeconfig []byte) *desk {
	t.Helper()
	d := &desk{t, t.TempDir()}
	for name, content := range map[string][]byte{"muster.yaml": []byte(strings.ReplaceAll(documents, "$DIR", d.dir)), "kubeconfig": kubeconfig} {
		if content == nil {
			continue
		}
		if err := os.WriteFile(d.path(name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, said, err := d.muster(t.Context(), "init", "--repository", d.path("repo"), "--key-file", d.path("muster.key")); err != nil {
		t.Fatal(err, said)
	}
	return d
}

func (d *desk) path(name string) string { return filepath.Join(d.dir, name) }

// muster runs a command in this process, and returns what it printed and what it said beside.
func (d *desk) muster(ctx context.Context, args ...string) (printed, said string, err error) {
	d.t.Helper()
	diagnostics, err := os.CreateTemp(d.dir, "stderr")
	if err != nil {
		d.t.Fatal(err)
	}
	defer diagnostics.Close()
	var out bytes.Buffer
	app := &app{out: &out, diagnostics: diagnostics, now: time.Now}
	command := app.command()
	command.SetArgs(append(args, "--state-dir", d.path("state"), "-f", d.path("muster.yaml")))
	err = command.ExecuteContext(ctx)
	content, readErr := os.ReadFile(diagnostics.Name())
	if readErr != nil {
		d.t.Fatal(readErr)
	}
	return out.String(), string(content), err
}

// hasSaid reports that a command, which may still be at work, said something beside its result.
func (d *desk) hasSaid(text string) bool {
	said, _ := filepath.Glob(d.path("stderr*")) // the pattern is well
	for _, file := range said {
		if content, err := os.ReadFile(file); err == nil && strings.Contains(string(content), text) {
			return true
		}
	}
	return false
}

func (d *desk) run() string {
	d.t.Helper()
	printed, _, err := d.muster(d.t.Context(), "runs", "list")
	if err != nil {
		d.t.Fatal(err)
	}
	return strings.Fields(strings.Split(printed, "\n")[1])[0]
}

func TestTracesReachACollector(t *testing.T) {
	r, url := newReceiver(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
	d := newDesk(t)
	if _, said, err := d.muster(t.Context(), "run", "quick"); err != nil {
		t.Fatal(err, said)
	}
	id := d.run()
	root, step, item := r.one(t, "run quick"), r.one(t, "step first"), r.one(t, "item first/b")
	trace := orchestrator.TraceID(id)
	for _, s := range r.spans {
		if !bytes.Equal(s.GetTraceId(), trace[:]) {
			t.Errorf("span %s is in trace %s", s.GetName(), hex.EncodeToString(s.GetTraceId()))
		}
	}
	if len(r.spans) != 5 || len(root.GetParentSpanId()) > 0 || !bytes.Equal(step.GetParentSpanId(), root.GetSpanId()) || !bytes.Equal(item.GetParentSpanId(), step.GetSpanId()) {
		t.Errorf("%d spans, root %v", len(r.spans), root)
	}
	if valueOf(root, "muster.run.id") != id || valueOf(root, "muster.cluster.name") != "prod" || valueOf(step, "muster.step.uses") != "approve" || valueOf(item, "muster.item") != "b" {
		t.Errorf("attributes: %v %v %v", root.GetAttributes(), step.GetAttributes(), item.GetAttributes())
	}
	if took := time.Duration(item.GetEndTimeUnixNano() - item.GetStartTimeUnixNano()); took < 50*time.Millisecond || took > time.Minute {
		t.Errorf("the item took %s", took)
	}
	if !r.services["muster"] {
		t.Errorf("services: %v", r.services)
	}
}

func TestTracesTellErrors(t *testing.T) {
	r, url := newReceiver(t)
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url+"/v1/traces")
	t.Setenv("OTEL_SERVICE_NAME", "dr")
	d := newDesk(t)
	if _, _, err := d.muster(t.Context(), "run", "rejected"); err == nil {
		t.Fatal("it did not fail")
	}
	for _, name := range []string{"run rejected", "step first"} {
		s := r.one(t, name)
		if s.GetStatus().GetCode() != tracepb.Status_STATUS_CODE_ERROR || !strings.Contains(s.GetStatus().GetMessage(), "nobody decided within 50ms") {
			t.Errorf("%s: %v", name, s.GetStatus())
		}
		last := s.GetEvents()[len(s.GetEvents())-1]
		if last.GetName() != "exception" || last.GetAttributes()[0].GetValue().GetStringValue() != "denied" {
			t.Errorf("%s: %v", name, s.GetEvents())
		}
	}
	if !r.services["dr"] {
		t.Errorf("services: %v", r.services)
	}
}

// TestTracesAcrossAResume interrupts a run and resumes it: one trace, and the second span of the run is a
// child of the first, which another process told.
func TestTracesAcrossAResume(t *testing.T) {
	r, url := newReceiver(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
	d := newDesk(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // as Ctrl-C does, while the second step waits
		for ctx.Err() == nil && !d.hasSaid("step.intent      second") {
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
	}()
	if _, _, err := d.muster(ctx, "run", "quick"); exitCode(err) != exitInterrupted {
		t.Fatal(err)
	}
	if _, said, err := d.muster(t.Context(), "runs", "resume", "quick"); err != nil {
		t.Fatal(err, said)
	}
	runs := r.named("run quick")
	if len(runs) != 2 || len(runs[0].GetParentSpanId()) > 0 || !bytes.Equal(runs[1].GetParentSpanId(), runs[0].GetSpanId()) || !bytes.Equal(runs[0].GetTraceId(), runs[1].GetTraceId()) {
		t.Fatalf("runs: %v", runs)
	}
	if valueOf(runs[0], "muster.run.state") != "interrupted" || valueOf(runs[1], "muster.run.state") != "completed" {
		t.Errorf("states: %v", runs)
	}
	second := r.named("step second")
	if len(second) != 2 || !bytes.Equal(second[1].GetParentSpanId(), runs[1].GetSpanId()) || len(r.named("step first")) != 1 {
		t.Errorf("steps: %v", second)
	}
}

func TestTracesOverGRPC(t *testing.T) {
	r := &receiver{services: map[string]bool{}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, r)
	go server.Serve(listener) //nolint:errcheck // it ends with the test
	t.Cleanup(server.Stop)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+listener.Addr().String())
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
	d := newDesk(t)
	if _, said, err := d.muster(t.Context(), "run", "quick"); err != nil {
		t.Fatal(err, said)
	}
	r.one(t, "run quick")
}

// TestACollectorThatIsAway must neither fail a run nor keep it waiting, and is worth one warning.
func TestACollectorThatIsAway(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and never answers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	for name, url := range map[string]string{
		"silent": "http://" + silent.Addr().String(), "closed": "http://" + closed.Addr().String(), "no URL": "://",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
			d := newDesk(t)
			_, said, err := d.muster(t.Context(), "run", "quick")
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(said, "level=WARN"); n != 1 || strings.Count(said, "traces do not reach") != 1 {
				t.Errorf("%d warnings: %s", n, said)
			}
		})
	}
}

func TestFlushGivesUp(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+silent.Addr().String())
	traces := newTracing(t.Context(), slog.New(slog.NewTextHandler(io.Discard, nil)))
	_, span := traces.provider.Tracer("test").Start(t.Context(), "one")
	span.End()
	began := time.Now()
	traces.flush()
	if took := time.Since(began); took > 2*flushWithin || !traces.warn.warned() {
		t.Errorf("it gave up after %s, and warned: %t", took, traces.warn.warned())
	}
}

func TestWithoutACollectorNothingIsMade(t *testing.T) {
	for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"} {
		t.Setenv(name, "")
	}
	if made := newTracing(t.Context(), nil); made != nil || made.perRun() != nil {
		t.Error("there is one")
	}
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("OTEL_SDK_DISABLED", "true")
	if newTracing(t.Context(), nil) != nil {
		t.Error("it was turned off")
	}
}
