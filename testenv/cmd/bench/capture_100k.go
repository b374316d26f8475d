package main

import (
	"context"
	"errors"
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
			"Before that, all are captured by one process, replayed into another API server by another, and compared.",
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
