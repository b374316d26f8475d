package cluster

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/musterdr/muster/providers/fault"
)

// Target is one machine that the cluster runs on now.
type Target struct {
	Name         string // its node's
	Was          string // the captured node's that it replaces; empty when it replaces none
	Address      string
	ControlPlane bool
}

// Weight says what a note means for the verdict. Its values are those of orchestrator.Severity.
type Weight string

// The weights.
const (
	Info    Weight = "info"
	Changed Weight = "changed" // came back, but not as it was
	Lost    Weight = "lost"    // did not come back
)

// Note is something that Settle or Replay found, did or could not do.
type Note struct {
	Weight  Weight `json:"weight"`
	Subject string `json:"subject"` // "Node worker-1"
	Text    string `json:"text"`    // what happened, and what to do
}

// SettleConfig says what to settle, after etcd was restored and the API servers are up.
type SettleConfig struct {
	Client *Client
	// Targets are all machines of the cluster. A Node that none of them carries is a ghost.
	Targets []Target
	// Before is the instant of the recovery point: what is older comes from it.
	Before time.Time
	// Recorded tells how many pods of each workload were ready; nil means as many as it wants.
	Recorded *Recorded
	// StartKubelet starts container runtime and kubelet on a machine. It is called once for each.
	StartKubelet func(ctx context.Context, target Target) error
	// Wait bounds the whole.
	Wait   time.Duration
	Report func(Note)
	Status func(text string)
	Now    func() time.Time
}

// Settled is what Settle found and did.
type Settled struct {
	Items []SettledItem `json:"items"`
	Notes []Note        `json:"notes,omitempty"`
}

// SettledItem is one of the things that a restore of etcd leaves stale.
type SettledItem struct {
	Name  string `json:"name"`
	Text  string `json:"text"`            // what was found, in a few words
	Acted int    `json:"acted,omitempty"` // objects changed or deleted
	// Seconds is how long after the start it was settled.
	Seconds float64 `json:"seconds"`
}

// pollEvery is how often a condition is looked at that cannot be watched more cheaply.
const pollEvery = 500 * time.Millisecond

// Settle deals with what a restore of etcd leaves stale, each thing checked, acted on where nobody
// else would, and noted. What does not come right in time is noted as lost and is no error: the
// comparison with the recovery point comes after it. It can be repeated.
//
// All things are looked at side by side, because each can hold up the others: a webhook without a
// backend can keep nodes from getting ready, and nodes that are not ready have no backends.
func Settle(ctx context.Context, config SettleConfig) (Settled, error) {
	ctx, cancel := context.WithTimeout(ctx, config.Wait)
	defer cancel()
	s := &settling{SettleConfig: config, kube: config.Client.Kubernetes(), began: config.Now(), targets: map[string]Target{}}
	for _, target := range config.Targets {
		s.targets[target.Name] = target
	}
	group, working := errgroup.WithContext(ctx)
	for _, item := range s.items() {
		group.Go(func() error { return s.settle(working, item) })
	}
	err := group.Wait()
	return s.result(), err
}

// settling is one Settle at work.
type settling struct {
	SettleConfig
	kube    kubernetes.Interface
	began   time.Time
	targets map[string]Target
	orphans []corev1.Pod // bound to ghosts, without a controller; only the item "ghost nodes" uses it

	mu    sync.Mutex
	done  []SettledItem
	notes []Note
}

type settleItem struct {
	name string
	do   func(ctx context.Context) (text string, acted int, err error)
}

// items is the whole list of what is settled.
func (s *settling) items() []settleItem {
	return []settleItem{
		{"service-account tokens", s.tokens},
		{"certificate signing requests", s.signingRequests},
		{"kubelets", s.kubelets},
		{"API server addresses", s.serverAddresses},
		{"ghost nodes", s.ghosts},
		{"leases", s.leases},
		{"webhooks", s.webhooks},
		{"API services", s.apiServices},
		{"pods with a stale status", s.stalePods},
		{"workloads", s.workloads},
	}
}

func (s *settling) settle(ctx context.Context, item settleItem) error {
	text, acted, err := item.do(ctx)
	for err != nil && ctx.Err() == nil {
		failed := classify("settle "+item.name, s.Client.Server(), err)
		if !heldUp(failed) {
			return failed
		}
		if err = sleep(ctx, pollEvery); err == nil {
			text, acted, err = item.do(ctx)
		}
	}
	if ctx.Err() != nil && text == "" { // the time is up: whatever the request said then
		text = "not settled in time"
		s.note(Lost, item.name, text+": look at it by hand")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = append(s.done, SettledItem{Name: item.name, Text: text, Acted: acted, Seconds: s.Now().Sub(s.began).Seconds()})
	return nil
}

// heldUp reports an error that another item may put right: a webhook without a backend, an API server
// that restarts.
func heldUp(err error) bool {
	return fault.KindOf(err).Retryable() || strings.Contains(err.Error(), "failed calling webhook")
}

func (s *settling) note(weight Weight, subject, text string) {
	note := Note{Weight: weight, Subject: subject, Text: text}
	s.Report(note)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes = append(s.notes, note)
}

func (s *settling) notef(weight Weight, subject, format string, arguments ...any) {
	s.note(weight, subject, fmt.Sprintf(format, arguments...))
}

// result lists the items in the order of items.
func (s *settling) result() Settled {
	s.mu.Lock()
	defer s.mu.Unlock()
	result := Settled{Notes: s.notes}
	for _, item := range s.items() {
		for _, done := range s.done {
			if done.Name == item.name {
				result.Items = append(result.Items, done)
			}
		}
	}
	return result
}

// until polls until the condition holds or the context ends. Errors of the API server count as "not
// yet": it restarts while a cluster settles.
func until(ctx context.Context, holds func() (bool, error)) error {
	for {
		held, err := holds()
		if held {
			return err
		}
		if waitErr := sleep(ctx, pollEvery); waitErr != nil {
			if err != nil {
				return err
			}
			return waitErr
		}
	}
}
