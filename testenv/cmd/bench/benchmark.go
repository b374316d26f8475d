package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
)

// benchmark is one comparison.
type benchmark struct {
	name    string
	unit    string
	against string // the reference, in a few words
	how     string // what was measured and how, in one line
	// lessIsBetter is for seconds and bytes: the ratio is then the reference over ours.
	lessIsBetter bool
	runs         int  // how often each side is measured
	warm         bool // measure each side once before, for the caches
	// prepare sets up what both sides work on.
	prepare func(ctx context.Context, on *stage) (sides, error)
}

// sides are the two that are compared; each call measures one run, in the benchmark's unit.
type sides struct {
	ours, reference func(ctx context.Context) (float64, error)
	notes           func() []string // what else was seen, for people; may be nil
}

// result is a benchmark that was run.
type result struct {
	benchmark
	ours, reference []float64 // all runs
	notes           []string
}

// ratio is more than 1 when ours is better.
func (r result) ratio() float64 {
	if r.lessIsBetter {
		return median(r.reference) / median(r.ours)
	}
	return median(r.ours) / median(r.reference)
}

// measure runs a benchmark in a folder of its own; runs of 0 means the benchmark's own number.
func (b benchmark) measure(ctx context.Context, dir string, runs int) (r result, err error) {
	if runs > 0 {
		b.runs = runs
	}
	on := &stage{dir: dir}
	defer func() { err = errors.Join(err, on.close(context.WithoutCancel(ctx))) }()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return result{}, err
	}
	say("%s: preparing", b.name)
	both, err := b.prepare(ctx, on)
	if err != nil {
		return result{}, err
	}
	r = result{benchmark: b}
	if b.warm {
		if err := r.round(ctx, both); err != nil {
			return result{}, err
		}
		r.ours, r.reference = nil, nil
	}
	for range b.runs {
		if err := r.round(ctx, both); err != nil {
			return result{}, err
		}
		say("%s: %s against %s %s", b.name, figure(r.ours[len(r.ours)-1]), figure(r.reference[len(r.reference)-1]), b.unit)
	}
	if both.notes != nil {
		r.notes = both.notes()
	}
	return r, nil
}

// round measures both sides once.
func (r *result) round(ctx context.Context, both sides) error {
	ours, err := both.ours(ctx)
	if err != nil {
		return fmt.Errorf("ours: %w", err)
	}
	reference, err := both.reference(ctx)
	if err != nil {
		return fmt.Errorf("reference: %w", err)
	}
	r.ours, r.reference = append(r.ours, ours), append(r.reference, reference)
	return ctx.Err()
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// stage is where a benchmark plays: its own folder, and what must be cleaned up after it.
type stage struct {
	dir      string
	cleanups []func(ctx context.Context) error
	made     int
}

// after has something cleaned up at the end, the last first.
func (s *stage) after(clean func(ctx context.Context) error) { s.cleanups = append(s.cleanups, clean) }

// fresh is a path in the folder where nothing stands yet.
func (s *stage) fresh(what string) string {
	s.made++
	return fmt.Sprintf("%s/%s-%d", s.dir, what, s.made)
}

func (s *stage) close(ctx context.Context) error {
	var problems []error
	for _, clean := range slices.Backward(s.cleanups) {
		problems = append(problems, clean(ctx))
	}
	return errors.Join(append(problems, os.RemoveAll(s.dir))...)
}
