// Package conformance is what every provider must do, as a suite that runs in tests and in
// `muster provider validate`.
//
// A case is one promise of the contract. It is skipped, with the reason, when the provider does not claim
// the capability behind it; it fails when the provider claims it and does something else, "unsupported"
// included. "Another process" is tried by opening the backend anew: handles and tokens must work there.
// Everything that the suite makes carries tags of one run, by which it is removed at the end, also after
// failures.
//
// The suite does not import testing; tests use package conformancetest, others a Recorder.
package conformance

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterdr/muster/providers"
)

// T is where a suite reports to. Fatalf and Skipf do not return: they end the calling goroutine.
type T interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
	// Run runs body as a part with a name and reports whether it did not fail.
	Run(name string, body func(T)) bool
}

// Config says what is tried, and how. Open alone is always needed.
type Config struct {
	// Open gives a configured provider, each time a new client of the same backend. The suite closes it.
	Open func(ctx context.Context) (providers.Provider, error)
	// Unconfigured gives a provider before Configure, for cases that look at what it refuses. Without it they
	// are skipped.
	Unconfigured func() (providers.Provider, error)
	// Kill kills the process behind the provider that was opened last, in the middle of whatever it does,
	// and returns when it is dead. Without it the cases about deaths are skipped.
	Kill func()

	// Run is the value of providers.TagRun of all that the suite makes; empty: a random one.
	Run string
	// Contents are what is tried. Empty: blocks when the provider reads or writes blocks, files when it
	// attaches volumes, else blocks.
	Contents []providers.Content
	// Size is that of test volumes, in bytes: a multiple of what the backend wants, at least 1 MiB; 0: 16 MiB.
	Size int64
	// Align is what offsets and lengths of reads and writes must be multiples of; 0: 1.
	Align int64
	// Zone is where volumes and machines are made.
	Zone string
	// Parameters are those of Create and Write, by content.
	Parameters map[providers.Content]map[string]string
	// CopyTarget is CopyRequest.Target. Without it CopySnapshot is not tried.
	CopyTarget map[string]string
	// OpenCopies opens a client where copies end up; nil: Open.
	OpenCopies func(ctx context.Context) (providers.Provider, error)
	// Machine is a machine that can be made; without it CreateMachine is not tried.
	Machine *providers.MachineRequest
	// PV returns a PersistentVolume as Kubernetes has it for a driver of Info.Drivers, of the volume. nil: Bind
	// alone makes them, from one without a source whose annotation pv.kubernetes.io/provisioned-by is the driver.
	PV func(driver string, volume providers.Volume) *corev1.PersistentVolume

	// Volumes makes n volumes by the backend's own means which can be snapshotted together: for a
	// backend whose provider makes none, or not such that belong together. The caller of the suite removes
	// them.
	Volumes func(ctx context.Context, content providers.Content, n int) ([]providers.Volume, error)
	// Fill writes into a live block volume as an application would, for a provider without
	// providers.CapOverwrite.
	Fill func(ctx context.Context, volume providers.Volume, offset int64, data []byte) error

	// Patience bounds one case; 0: two minutes. A provider that does not come back is left behind.
	Patience time.Duration
	// Soon is how long a call may go on after its context has ended; 0: ten seconds.
	Soon time.Duration
	// KillAfter are the times after which calls are killed, one try each; nil: a few between 0 and 50 ms.
	KillAfter []time.Duration
	// AtOnce is how many cases run at a time; 0: one. It is for backends that let their callers wait. Cases that
	// kill a process run alone all the same.
	AtOnce int
	// Only runs the cases whose names begin with one of these; nil: all.
	Only []string
}

// Names of the cases, in the order in which they run.
func Names() []string {
	var names []string
	for _, c := range cases() {
		names = append(names, c.name)
	}
	return names
}

// Run tries a provider. Every case is a t.Run.
func Run(t T, config Config) {
	t.Helper()
	s, err := newSuite(config.withDefaults())
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer s.close()
	s.runAll(t, cases())
	s.sweep(t)
}
