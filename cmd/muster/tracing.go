package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/musterdr/muster/orchestrator"
)

// What the collector of traces may cost at most: a run waits for it at its end alone.
const (
	flushWithin       = 3 * time.Second
	flushAfterFailure = 500 * time.Millisecond
	spansKept         = 16 << 10 // that wait to be sent; more are dropped
)

// tracing sends the spans of runs to an OpenTelemetry collector. A nil one does nothing.
type tracing struct {
	provider *sdktrace.TracerProvider
	warn     *warnOnce
}

// newTracing is nil unless the environment names a collector.
// https://opentelemetry.io/docs/specs/otel/protocol/exporter/
func newTracing(ctx context.Context, log *slog.Logger) *tracing {
	if environment("ENDPOINT") == "" || strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") || os.Getenv("OTEL_TRACES_EXPORTER") == "none" {
		return nil
	}
	t := &tracing{warn: &warnOnce{log: log}}
	if u, err := url.Parse(environment("ENDPOINT")); err != nil || u.Host == "" {
		t.warn.failed(fmt.Errorf("OTEL_EXPORTER_OTLP_ENDPOINT %q: want http://HOST:PORT", environment("ENDPOINT")))
		return nil
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(t.warn.failed))
	client := otlptracehttp.NewClient()
	if environment("PROTOCOL") == "grpc" {
		client = otlptracegrpc.NewClient()
	}
	exporter, err := otlptrace.New(ctx, client)
	if err != nil {
		t.warn.failed(err)
		return nil
	}
	t.provider = sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(&lenient{exporter, t.warn}, sdktrace.WithMaxQueueSize(spansKept)),
		sdktrace.WithIDGenerator(orchestrator.SpanIDs{}), sdktrace.WithSampler(sdktrace.AlwaysSample()),
		sdktrace.WithResource(traceResource(ctx, t.warn)),
	)
	return t
}

// environment is OTEL_EXPORTER_OTLP_TRACES_<name>, else OTEL_EXPORTER_OTLP_<name>.
func environment(name string) string {
	if value := os.Getenv("OTEL_EXPORTER_OTLP_TRACES_" + name); value != "" {
		return value
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_" + name)
}

// traceResource says what tells the spans; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES have the last
// word.
func traceResource(ctx context.Context, warn *warnOnce) *resource.Resource {
	made, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "muster"), attribute.String("service.version", buildVersion())),
		resource.WithTelemetrySDK(), resource.WithHost(), resource.WithFromEnv())
	if err != nil { // made holds what could be found
		warn.failed(err)
	}
	return made
}

// perRun is what makes the observer of a run.
func (t *tracing) perRun() []func(orchestrator.RunInfo) orchestrator.Observer {
	if t == nil {
		return nil
	}
	return []func(orchestrator.RunInfo) orchestrator.Observer{orchestrator.Tracing(t.provider.Tracer("github.com/musterdr/muster"))}
}

// flush sends what is left, and gives up after a while.
func (t *tracing) flush() {
	if t == nil {
		return
	}
	limit := flushWithin
	if t.warn.warned() {
		limit = flushAfterFailure
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		t.warn.failed(err)
	}
}

// lenient is an exporter whose failures are one warning: a run must not suffer from its traces.
type lenient struct {
	sdktrace.SpanExporter
	warn *warnOnce
}

// ExportSpans implements sdktrace.SpanExporter.
func (l *lenient) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if err := l.SpanExporter.ExportSpans(ctx, spans); err != nil {
		l.warn.failed(err)
	}
	return nil
}

// warnOnce warns of the first failure.
type warnOnce struct {
	log  *slog.Logger
	mu   sync.Mutex
	done bool
}

func (w *warnOnce) failed(err error) {
	w.mu.Lock()
	first := !w.done
	w.done = true
	w.mu.Unlock()
	if first {
		w.log.Warn("traces do not reach their collector; the run is not affected, and nothing more is said of it", "error", err)
	}
}

func (w *warnOnce) warned() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.done
}
