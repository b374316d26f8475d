package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/state/repository"
	"github.com/musterdr/muster/testenv/apiserver"
)

// roundTrip is what it took to capture a cluster and to replay it into another one, each by a process of
// its own.
type roundTrip struct{ captured, replayed half }

// half is what one of the two processes did.
type half struct {
	Objects int
	Peak    int64 // VmHWM, bytes
}

func (r roundTrip) String() string {
	return fmt.Sprintf("%d objects were captured with at most %s MiB of memory, %d created again with %s MiB, and none differed.",
		r.captured.Objects, mib(r.captured.Peak), r.replayed.Objects, mib(r.replayed.Peak))
}

func mib(bytes int64) string { return figure(float64(bytes) / (1 << 20)) }

// roundTrip fails when anything that came back is not as it was.
func (c *captureBench) roundTrip(ctx context.Context) (trip roundTrip, err error) {
	v, err := newVault(ctx, c.on)
	if err != nil {
		return trip, err
	}
	defer func() { err = errors.Join(err, v.remove(ctx)) }()
	if err := v.config.Key.WriteFile(v.keyFile(), nil); err != nil {
		return trip, err
	}
	if trip.captured, err = runHalf(ctx, "capture", c.server, v); err != nil {
		return trip, err
	}
	err = withServer(ctx, func(server *apiserver.Server) error {
		if trip.replayed, err = runHalf(ctx, "replay", server, v); err != nil {
			return err
		}
		if err := v.reopen(ctx, c.on); err != nil {
			return err
		}
		return same(ctx, server, v)
	})
	return trip, err
}

// same compares a cluster with replayPoint.
func same(ctx context.Context, server *apiserver.Server, v *vault) error {
	client, err := cluster.Connect(cluster.Access{Kubeconfig: server.Kubeconfig})
	if err != nil {
		return err
	}
	defer client.Close()
	recorded, err := cluster.ReadPoint(ctx, v.Repository, replayPoint)
	if err != nil {
		return err
	}
	compared, err := cluster.Compare(ctx, cluster.CompareConfig{Client: client, Recorded: recorded, Mode: cluster.ModeReplay})
	if err == nil && !compared.Same() {
		err = fmt.Errorf("not all is as it was: %+v, first %+v", compared.Tally, compared.Differences[0])
	}
	return err
}

// halfEnv makes the bench one of a round trip's processes, and says which.
const halfEnv = "MUSTER_BENCH_HALF"

// errand is what such a process reads from its standard input.
type errand struct {
	Kubeconfig             []byte
	URL, KeyFile, CacheDir string
}

func runHalf(ctx context.Context, what string, server *apiserver.Server, v *vault) (done half, err error) {
	self, err := os.Executable()
	if err != nil {
		return done, err
	}
	told, err := json.Marshal(errand{Kubeconfig: server.Kubeconfig, URL: v.config.URL, KeyFile: v.keyFile(), CacheDir: v.config.CacheDir + "-" + what})
	if err != nil {
		return done, err
	}
	var out bytes.Buffer
	c := command(ctx, self)
	c.Env, c.Stdin, c.Stdout = append(os.Environ(), halfEnv+"="+what), bytes.NewReader(told), &out
	if err := run(c); err != nil {
		return done, err
	}
	return done, json.Unmarshal(out.Bytes(), &done)
}

// ownHalf is such a process's work. The kernel counts its memory since it began: exec gave it a new one.
func ownHalf(ctx context.Context, what string) (err error) {
	debug.SetGCPercent(40) // as muster does
	var told errand
	if err := json.NewDecoder(os.Stdin).Decode(&told); err != nil {
		return err
	}
	client, err := cluster.Connect(cluster.Access{Kubeconfig: told.Kubeconfig})
	if err != nil {
		return err
	}
	defer client.Close()
	key, err := repository.ReadKey(told.KeyFile, nil)
	if err != nil {
		return err
	}
	v := &vault{config: repository.Config{URL: told.URL, Key: key, CacheDir: told.CacheDir, Now: time.Now}}
	if v.Repository, err = repository.Open(ctx, v.config); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close(ctx)) }()
	var done half
	if what == "capture" {
		var captured cluster.Captured
		captured, err = seal(ctx, client, v)
		done.Objects = captured.Layer.Objects
	} else {
		var replayed cluster.Replayed
		replayed, _, err = replay(ctx, client, v)
		done.Objects = replayed.Created
	}
	if err != nil {
		return err
	}
	done.Peak = peak(os.Getpid())
	return json.NewEncoder(os.Stdout).Encode(done)
}
