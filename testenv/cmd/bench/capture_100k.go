package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/testenv/apiserver"
)

func capture100k() benchmark {
	return benchmark{
		name: "capture-100k", unit: "objects/s", against: "a plain paged list", runs: 3, warm: true,
		how: "100,000 Secrets, ConfigMaps, Deployments and custom resources in 500 namespaces of a real API server. Ours is cluster.Capture and a flush: discover the kinds, list all " +
			"at one revision, digest each object, store each as a YAML file, and an index. The reference lists the same kinds in pages of 500 with client-go's dynamic client, unthrottled, and keeps nothing. " +
			"Before that, all are captured, replayed into another API server, and compared.",
		prepare: prepareCapture100k,
	}
}

// captureBench is a filled API server.
type captureBench struct {
	on     *stage
	server *apiserver.Server
	client *cluster.Client
	kinds  []cluster.Resource
}

func prepareCapture100k(ctx context.Context, on *stage) (sides, error) {
	c, err := newCaptureBench(ctx, on, size{namespaces: 500, deployments: 10_000, secrets: 40_000, configMaps: 30_000, widgets: 20_000})
	if err != nil {
		return sides{}, err
	}
	trip, err := c.roundTrip(ctx)
	return sides{ours: c.ours, reference: c.reference, notes: func() []string { return []string{trip.String()} }}, err
}

func newCaptureBench(ctx context.Context, on *stage, of size) (*captureBench, error) {
	c := &captureBench{on: on}
	var err error
	if c.server, err = startServer(ctx, on); err != nil {
		return nil, err
	}
	if err := newPopulation(of).create(ctx, c.server.Kubeconfig); err != nil {
		return nil, err
	}
	if c.client, err = cluster.Connect(cluster.Access{Kubeconfig: c.server.Kubeconfig}); err != nil {
		return nil, err
	}
	c.kinds, _, err = c.client.Discover(ctx)
	return c, err
}

// startServer starts an empty API server that ends with the benchmark.
func startServer(ctx context.Context, on *stage) (*apiserver.Server, error) {
	server, err := apiserver.Start(ctx, apiserver.Config{})
	if err != nil {
		return nil, err
	}
	on.after(func(context.Context) error { return server.Stop() })
	return server, nil
}

// roundTrip is what it took to capture a cluster and to replay it into another one.
type roundTrip struct {
	objects         int
	created         int
	capture, replay int64 // VmHWM of this process meanwhile, bytes
}

func (r roundTrip) String() string {
	return fmt.Sprintf("%d objects were captured with at most %s MiB of memory, %d created again with %s MiB, and none differed.",
		r.objects, mib(r.capture), r.created, mib(r.replay))
}

func mib(bytes int64) string { return figure(float64(bytes) / (1 << 20)) }

// roundTrip fails when anything that came back is not as it was.
func (c *captureBench) roundTrip(ctx context.Context) (trip roundTrip, err error) {
	v, err := newVault(ctx, c.on)
	if err != nil {
		return trip, err
	}
	defer func() { err = errors.Join(err, v.remove(ctx)) }()
	trip.capture, err = peakOf(func() error {
		captured, err := seal(ctx, c.client, v)
		trip.objects = captured.Layer.Objects
		return err
	})
	if err != nil {
		return trip, err
	}
	err = withServer(ctx, func(server *apiserver.Server) error {
		into, err := cluster.Connect(cluster.Access{Kubeconfig: server.Kubeconfig})
		if err != nil {
			return err
		}
		defer into.Close()
		var outcomes []cluster.ObjectOutcome
		trip.replay, err = peakOf(func() error {
			replayed, _, err := replay(ctx, c.on, into, v)
			trip.created, outcomes = replayed.Created, replayed.Outcomes
			return err
		})
		if err != nil {
			return err
		}
		return same(ctx, into, v, outcomes)
	})
	return trip, err
}

// same compares a cluster with replayPoint.
func same(ctx context.Context, client *cluster.Client, v *vault, outcomes []cluster.ObjectOutcome) error {
	recorded, err := cluster.ReadPoint(ctx, v.Repository, replayPoint)
	if err != nil {
		return err
	}
	compared, err := cluster.Compare(ctx, cluster.CompareConfig{Client: client, Recorded: recorded, Mode: cluster.ModeReplay, Outcomes: outcomes})
	if err == nil && !compared.Same() {
		err = fmt.Errorf("not all is as it was: %+v, first %+v", compared.Tally, compared.Differences[0])
	}
	return err
}

func (c *captureBench) ours(ctx context.Context) (rate float64, err error) {
	v, err := newVault(ctx, c.on)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, v.remove(ctx)) }()
	began := time.Now()
	captured, err := capture(ctx, c.client, v)
	if err != nil {
		return 0, err
	}
	return each(captured.Layer.Objects, time.Since(began)), nil
}

// capture stores all objects of a cluster and makes them durable.
func capture(ctx context.Context, client *cluster.Client, v *vault) (cluster.Captured, error) {
	captured, err := cluster.Capture(ctx, cluster.CaptureConfig{Client: client, Store: v.Repository, Progress: silence{}, Now: time.Now})
	if err != nil {
		return captured, err
	}
	return captured, v.Flush(ctx)
}

func (c *captureBench) reference(ctx context.Context) (float64, error) {
	config, err := unthrottled(c.server.Kubeconfig)
	if err != nil {
		return 0, err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return 0, err
	}
	count := 0
	began := time.Now()
	for _, kind := range c.kinds {
		resource := client.Resource(schema.GroupVersionResource{Group: kind.Group, Version: kind.Version, Resource: kind.Name})
		for page := (metav1.ListOptions{Limit: 500}); ; {
			list, err := resource.List(ctx, page)
			if err != nil {
				return 0, err
			}
			count += len(list.Items)
			if page.Continue = list.GetContinue(); page.Continue == "" {
				break
			}
		}
	}
	return each(count, time.Since(began)), nil
}
