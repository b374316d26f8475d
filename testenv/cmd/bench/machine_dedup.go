package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/musterdr/muster/testenv"
)

func machineDedup() benchmark {
	return benchmark{
		name: "machine-dedup", unit: "bytes", against: "one machine", lessIsBetter: true, runs: 1,
		how: "Ten blank machines of the lab, which differ in their names, addresses and keys, captured into one repository. Ours is the size of all its files after the tenth, " +
			"the reference the size after the first: a ratio of 1 means that ten cost as much as one, 0.1 that nothing was shared.",
		prepare: prepareMachineDedup,
	}
}

const alike = 10 // machines

func prepareMachineDedup(ctx context.Context, on *stage) (sides, error) {
	sizes, err := captureAlike(ctx, on)
	if err != nil {
		return sides{}, err
	}
	size := func(i int) func(context.Context) (float64, error) {
		return func(context.Context) (float64, error) { return float64(sizes[i]), nil }
	}
	return sides{ours: size(alike - 1), reference: size(0), notes: func() []string {
		return []string{fmt.Sprintf("Each machine after the first added %s MB on average.", figure(float64(sizes[alike-1]-sizes[0])/(alike-1)/1e6))}
	}}, nil
}

// captureAlike returns the repository's size after each of the machines.
func captureAlike(ctx context.Context, on *stage) (sizes []int64, err error) {
	lab, err := newLab(ctx, on)
	if err != nil {
		return nil, err
	}
	v, err := newVault(ctx, on)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, v.remove(ctx)) }()
	for i := range alike {
		name := fmt.Sprintf("bench-blank-%d", i)
		if err := captureOnce(ctx, lab, name, v); err != nil {
			return nil, err
		}
		size, err := v.bytes()
		if err != nil {
			return nil, err
		}
		sizes = append(sizes, size)
	}
	return sizes, nil
}

// captureOnce makes a machine, captures it and destroys it.
func captureOnce(ctx context.Context, lab *testenv.Lab, name string, v *vault) error {
	if err := lab.NewMachine(ctx, testenv.Machine{Name: name, Role: testenv.RoleBlank}); err != nil {
		return err
	}
	if _, err := captureMachine(ctx, lab, name, v); err != nil {
		return err
	}
	return lab.Destroy(ctx, name)
}
