// Command bench measures Muster side by side with a peer, on this machine and in one run, and writes
// docs/benchmarks.md for people and docs/benchmarks.json for programs.
//
// A benchmark is one comparison; its two sides are Muster's way, called ours, and the reference. Both
// sides are measured in turn, several times, and the medians are compared. The ratio is such that more
// is better and 1 is equal.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/musterdr/muster/testenv"
)

const (
	labName = "bench"
	workDir = "build/bench" // databases, repositories, logs; removed at the end
)

// benchmarks are all there are, in the order in which they run and are reported.
func benchmarks() []benchmark {
	return []benchmark{
		etcdSnapshot(),
		extractEtcd(),
		capture100k(),
		replaySecrets(),
		replayMixed(),
		replayExisting(),
		machineCapture(),
		machineDedup(),
		runnerOverhead(),
		runnerThroughput(),
		runAdoption(),
		rebuildRTO(),
		rbdFull(),
		rbdIncremental(),
		rbdRestore(),
		rbdSparse(),
		glusterCapture(),
		ebsBlocks(),
		postgresLogical(),
		postgresPhysical(),
		mariadbLogical(),
		mariadbPhysical(),
	}
}

func main() {
	only := flag.String("only", "", "names of the benchmarks to run, separated by commas; results are then shown and not written")
	debug.SetGCPercent(40) // as muster does
	runs := flag.Int("runs", 0, "how often each side is measured (default: each benchmark's own number)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if dir := os.Getenv(ownerEnv); dir != "" {
		if err := ownRun(ctx, dir); err != nil {
			fmt.Fprintln(os.Stderr, "bench: owner:", err)
			os.Exit(1)
		}
		return
	}
	if what := os.Getenv(halfEnv); what != "" {
		if err := ownHalf(ctx, what); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", what+":", err)
			os.Exit(1)
		}
		return
	}
	if err := bench(ctx, *only, *runs); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, only string, runs int) (err error) {
	chosen, err := choose(benchmarks(), only)
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(workDir)
	if err != nil {
		return err
	}
	if err := clean(ctx, dir); err != nil { // what a killed bench left
		return err
	}
	defer func() { err = errors.Join(err, clean(context.WithoutCancel(ctx), dir)) }()
	at, err := look(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	var results []result
	for _, b := range chosen {
		r, err := b.measure(ctx, filepath.Join(dir, b.name), runs)
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		results = append(results, r)
	}
	say("%d benchmarks took %s", len(results), time.Since(began).Round(time.Second))
	if only != "" {
		fmt.Print(table(results), details(results))
		return nil
	}
	return write("docs", report{results: results, platform: at, date: began, took: time.Since(began)})
}

// choose picks benchmarks by name; no names mean all.
func choose(all []benchmark, only string) ([]benchmark, error) {
	if only == "" {
		return all, nil
	}
	var chosen []benchmark
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(all, func(b benchmark) bool { return b.name == name })
		if i < 0 {
			var names []string
			for _, b := range all {
				names = append(names, b.name)
			}
			return nil, fmt.Errorf("-only %q: want names out of %s", name, strings.Join(names, ", "))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

func clean(ctx context.Context, dir string) error {
	return errors.Join(testenv.Remove(ctx, labName), os.RemoveAll(dir))
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05  ")+format+"\n", args...)
}
