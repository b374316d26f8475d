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

const (
	byReplay = "Ours is cluster.ReadPoint and cluster.Replay out of a repository with a cold cache, in dependency order, each answer read."
	byHand   = " The reference creates them from memory with 64 clients on 4 connections, typed and in protobuf (custom resources in JSON, which is all they know), unthrottled."
)

// mixed are 20,000 objects.
func mixed() size { return size{namespaces: 20, secrets: 8_000, configMaps: 8_000, widgets: 4_000} }

func replaySecrets() benchmark {
	return benchmark{
		name: "replay-secrets", unit: "objects/s", against: "the raw create ceiling", runs: 3,
		how: "31,000 Secrets into a new namespace of a fresh API server each time. " + byReplay + byHand,
		prepare: func(ctx context.Context, on *stage) (sides, error) {
			r, err := newReplayBench(ctx, on, size{namespaces: 1, secrets: 31_000})
			return sides{ours: r.creating, reference: r.ceiling}, err
		},
	}
}

func replayMixed() benchmark {
	return benchmark{
		name: "replay-mixed", unit: "objects/s", against: "the raw create ceiling", runs: 3,
		how: "The same 20,000 Secrets, ConfigMaps and custom resources in 20 namespaces into a fresh API server each time. " + byReplay + byHand,
		prepare: func(ctx context.Context, on *stage) (sides, error) {
			r, err := newReplayBench(ctx, on, mixed())
			return sides{ours: r.creating, reference: r.ceiling}, err
		},
	}
}

func replayExisting() benchmark {
	return benchmark{
		name: "replay-existing", unit: "objects/s", against: "creating them", runs: 3,
		how: "The 20,000 objects of replay-mixed, replayed twice into a fresh API server each time. Ours is the second replay, which finds all as they are to be; the reference is the first.",
		prepare: func(ctx context.Context, on *stage) (sides, error) {
			r, err := newReplayBench(ctx, on, mixed())
			return sides{ours: r.again, reference: func(context.Context) (float64, error) { return r.first, nil }}, err
		},
	}
}

const replayPoint = "bench"

// replayBench is a recovery point of a cluster that is gone.
type replayBench struct {
	on     *stage
	made   population
	stored *vault
	first  float64 // rate of the replay that created what again found
}

func newReplayBench(ctx context.Context, on *stage, of size) (*replayBench, error) {
	r := &replayBench{on: on, made: newPopulation(of)}
	var err error
	if r.stored, err = newVault(ctx, on); err != nil {
		return r, err
	}
	on.after(r.stored.remove)
	err = withServer(ctx, func(server *apiserver.Server) error {
		if err := r.made.create(ctx, server.Kubeconfig); err != nil {
			return err
		}
		client, err := cluster.Connect(cluster.Access{Kubeconfig: server.Kubeconfig})
		if err != nil {
			return err
		}
		defer client.Close()
		_, err = seal(ctx, client, r.stored)
		return err
	})
	return r, err
}

// withServer lets work have an API server that is new and ends after it.
func withServer(ctx context.Context, work func(*apiserver.Server) error) error {
	server, err := apiserver.Start(ctx, apiserver.Config{})
	if err != nil {
		return err
	}
	return errors.Join(work(server), server.Stop())
}

// seal captures a cluster as replayPoint.
func seal(ctx context.Context, client *cluster.Client, v *vault) (cluster.Captured, error) {
	captured, err := capture(ctx, client, v)
	if err != nil {
		return captured, err
	}
	now := time.Now().UTC()
	_, err = v.Seal(ctx, repository.Manifest{
		Version: repository.ManifestVersion, ID: replayPoint, Cluster: "bench", Created: now, Instant: now, Namespaces: &captured.Layer,
	}, []repository.Subtree{
		{Path: "cluster", Tree: captured.Cluster}, {Path: "namespaces", Tree: captured.Namespaces},
		{Path: cluster.IndexPath, File: &captured.Index},
	})
	return captured, err
}

// replay brings replayPoint back.
func replay(ctx context.Context, client *cluster.Client, v *vault) (replayed cluster.Replayed, took time.Duration, err error) {
	lost := ""
	began := time.Now()
	recorded, err := cluster.ReadPoint(ctx, v.Repository, replayPoint)
	if err != nil {
		return replayed, 0, err
	}
	replayed, err = cluster.Replay(ctx, cluster.ReplayConfig{
		Client: client, Recorded: recorded, Wait: 2 * time.Minute, Progress: silence{},
		Report: func(note cluster.Note) { lost = note.Subject + ": " + note.Text },
	})
	if err == nil && replayed.Lost > 0 {
		err = fmt.Errorf("%d objects were lost: %s", replayed.Lost, lost)
	}
	return replayed, time.Since(began), err
}

// creating is the rate of a replay into an empty cluster.
func (r *replayBench) creating(ctx context.Context) (rate float64, err error) {
	err = withServer(ctx, func(server *apiserver.Server) error {
		rate, err = r.replay(ctx, server, func(replayed cluster.Replayed) int { return replayed.Created })
		return err
	})
	return rate, err
}

// again is the rate of a replay over what stands there.
func (r *replayBench) again(ctx context.Context) (rate float64, err error) {
	err = withServer(ctx, func(server *apiserver.Server) error {
		if r.first, err = r.replay(ctx, server, func(replayed cluster.Replayed) int { return replayed.Created }); err != nil {
			return err
		}
		rate, err = r.replay(ctx, server, func(replayed cluster.Replayed) int { return replayed.Present })
		return err
	})
	return rate, err
}

// replay makes sure that all objects have the wanted outcome.
func (r *replayBench) replay(ctx context.Context, server *apiserver.Server, wanted func(cluster.Replayed) int) (float64, error) {
	client, err := cluster.Connect(cluster.Access{Kubeconfig: server.Kubeconfig})
	if err != nil {
		return 0, err
	}
	defer client.Close()
	if err := r.stored.reopen(ctx, r.on); err != nil {
		return 0, err
	}
	replayed, took, err := replay(ctx, client, r.stored)
	if err == nil && wanted(replayed) != r.made.count() {
		err = fmt.Errorf("of %d objects %d were created, %d there already", r.made.count(), replayed.Created, replayed.Present)
	}
	return each(r.made.count(), took), err
}

// ceiling is the rate of the bare creations.
func (r *replayBench) ceiling(ctx context.Context) (rate float64, err error) {
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
