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

func namespaceCapture() benchmark {
	return benchmark{
		name: "namespace-capture", unit: "objects/s", against: "a plain paged list", runs: 3, warm: true,
		how: "20,000 Secrets, ConfigMaps and custom resources in 20 namespaces of a real API server. Ours is cluster.Capture and a flush: discover the kinds, list all " +
			"at one revision, digest each object, store each as a YAML file, and an index. The reference lists the same kinds in pages of 500 with client-go's dynamic client, unthrottled, and keeps nothing.",
		prepare: prepareNamespaceCapture,
	}
}

// captureBench is a filled API server.
type captureBench struct {
	on     *stage
	server *apiserver.Server
	client *cluster.Client
	kinds  []cluster.Resource
}

func prepareNamespaceCapture(ctx context.Context, on *stage) (sides, error) {
	c := &captureBench{on: on}
	var err error
	if c.server, err = startServer(ctx, on); err != nil {
		return sides{}, err
	}
	if err := newPopulation().create(ctx, c.server.Kubeconfig); err != nil {
		return sides{}, err
	}
	if c.client, err = cluster.Connect(cluster.Access{Kubeconfig: c.server.Kubeconfig}); err != nil {
		return sides{}, err
	}
	c.kinds, _, err = c.client.Discover(ctx)
	return sides{ours: c.ours, reference: c.reference}, err
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
