package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/state/repository"
	"github.com/musterdr/muster/testenv/apiserver"
)

func namespaceReplay() benchmark {
	return benchmark{
		name: "namespace-replay", unit: "objects/s", against: "the raw create ceiling", runs: 3,
		how: "The same 20,000 objects into a fresh API server each time. Ours is cluster.ReadPoint and cluster.Replay out of a repository with a cold cache, in dependency order, " +
			"each answer read. The reference creates them from memory with 64 clients on 4 connections, typed and in protobuf (custom resources in JSON, which is all they know), unthrottled.",
		prepare: prepareNamespaceReplay,
	}
}

const replayPoint = "bench"

// replayBench is a recovery point of a cluster that is gone.
type replayBench struct {
	on     *stage
	made   population
	stored *vault
}

func prepareNamespaceReplay(ctx context.Context, on *stage) (sides, error) {
	r := &replayBench{on: on, made: newPopulation()}
	var err error
	if r.stored, err = newVault(ctx, on); err != nil {
		return sides{}, err
	}
	on.after(r.stored.remove)
	err = withServer(ctx, func(server *apiserver.Server) error {
		if err := r.made.create(ctx, server.Kubeconfig); err != nil {
			return err
		}
		return r.capture(ctx, server)
	})
	return sides{ours: r.ours, reference: r.reference}, err
}

// withServer lets work have an API server that is new and ends after it.
func withServer(ctx context.Context, work func(*apiserver.Server) error) error {
	server, err := apiserver.Start(ctx, apiserver.Config{})
	if err != nil {
		return err
	}
	return errors.Join(work(server), server.Stop())
}

func (r *replayBench) capture(ctx context.Context, server *apiserver.Server) error {
	client, err := cluster.Connect(cluster.Access{Kubeconfig: server.Kubeconfig})
	if err != nil {
		return err
	}
	defer client.Close()
	captured, err := capture(ctx, client, r.stored)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	_, err = r.stored.Seal(ctx, repository.Manifest{
		Version: repository.ManifestVersion, ID: replayPoint, Cluster: "bench", Created: now, Instant: now, Namespaces: &captured.Layer,
	}, []repository.Subtree{
		{Path: "cluster", Tree: captured.Cluster}, {Path: "namespaces", Tree: captured.Namespaces},
		{Path: cluster.IndexPath, File: &captured.Index},
	})
	return err
}

func (r *replayBench) ours(ctx context.Context) (rate float64, err error) {
	if err := r.stored.reopen(ctx, r.on); err != nil {
		return 0, err
	}
	err = withServer(ctx, func(server *apiserver.Server) error {
		rate, err = r.replay(ctx, server)
		return err
	})
	return rate, err
}

func (r *replayBench) replay(ctx context.Context, server *apiserver.Server) (float64, error) {
	client, err := cluster.Connect(cluster.Access{Kubeconfig: server.Kubeconfig})
	if err != nil {
		return 0, err
	}
	defer client.Close()
	lost := ""
	began := time.Now()
	recorded, err := cluster.ReadPoint(ctx, r.stored.Repository, replayPoint)
	if err != nil {
		return 0, err
	}
	replayed, err := cluster.Replay(ctx, cluster.ReplayConfig{
		Client: client, Recorded: recorded, Wait: 2 * time.Minute, Progress: silence{},
		Report: func(note cluster.Note) { lost = note.Subject + ": " + note.Text },
	})
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	if replayed.Created != r.made.count() || replayed.Lost != 0 {
		return 0, fmt.Errorf("%d objects were created of %d, %d lost: %s", replayed.Created, r.made.count(), replayed.Lost, lost)
	}
	return each(replayed.Created, took), nil
}

func (r *replayBench) reference(ctx context.Context) (rate float64, err error) {
	err = withServer(ctx, func(server *apiserver.Server) error {
		began := time.Now()
		if err := r.made.create(ctx, server.Kubeconfig); err != nil {
			return err
		}
		rate = each(r.made.count(), time.Since(began))
		return nil
	})
	return rate, err
}
