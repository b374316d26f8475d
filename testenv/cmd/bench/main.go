// Command bench measures Muster side by side with a peer, on this machine and in one run, and writes pages: each as
// docs/<page>.md for people and docs/<page>.json for programs.
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

// page is what is measured in one run and reported together, in this order.
type page struct {
	name, title string
	benchmarks  []benchmark
}

// pages are all there are.
func pages() []page {
	return []page{
		{"benchmarks", "Benchmarks", clusterBenchmarks()},
		{"benchmarks-databases", "Benchmarks of databases", []benchmark{postgresLogical(), postgresPhysical(), mariadbLogical(), mariadbPhysical()}},
	}
}

func clusterBenchmarks() []benchmark {
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
	}
}

func main() {
	only := flag.String("only", "", "names of the benchmarks to run, separated by commas; results are then shown and not written")
	pageName := flag.String("page", "", "the page to measure and write (default all)")
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
	if err := bench(ctx, *pageName, *only, *runs); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, pageName, only string, runs int) error {
	if only != "" {
		chosen, err := choose(only)
		if err != nil {
			return err
		}
		r, err := measure(ctx, chosen, runs)
		if err == nil {
			fmt.Print(table(r.results), details(r.results))
		}
		return err
	}
	known := pages()
	chosen := slices.DeleteFunc(known, func(p page) bool { return pageName != "" && p.name != pageName })
	if len(chosen) == 0 {
		return fmt.Errorf("-page %q: there is no such page", pageName)
	}
	for _, p := range chosen {
		r, err := measure(ctx, p.benchmarks, runs)
		if err != nil {
			return err
		}
		if err := write("docs", p, r); err != nil {
			return err
		}
	}
	return nil
}

func measure(ctx context.Context, chosen []benchmark, runs int) (r report, err error) {
	dir, err := filepath.Abs(workDir)
	if err != nil {
		return r, err
	}
	if err := clean(ctx, dir); err != nil { // what a killed bench left
		return r, err
	}
	defer func() { err = errors.Join(err, clean(context.WithoutCancel(ctx), dir)) }()
	if r.platform, err = look(ctx); err != nil {
		return r, err
	}
	r.date = time.Now()
	for _, b := range chosen {
		result, err := b.measure(ctx, filepath.Join(dir, b.name), runs)
		if err != nil {
			return r, fmt.Errorf("%s: %w", b.name, err)
		}
		r.results = append(r.results, result)
	}
	r.took = time.Since(r.date)
	say("%d benchmarks took %s", len(r.results), r.took.Round(time.Second))
	return r, nil
}

// choose picks benchmarks by name.
func choose(only string) ([]benchmark, error) {
	var all, chosen []benchmark
	for _, p := range pages() {
		all = append(all, p.benchmarks...)
	}
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
