package orchestrator

import (
	"sync"
	"time"

	"github.com/musterdr/muster/state/journal"
)

// Observer is told what a run does as it happens. Its methods are called concurrently and must
// return quickly.
type Observer interface {
	// Journaled is called after an event became durable.
	Journaled(journal.Event)
	// Replayed is called once when a run is resumed, with every event of its journal so far.
	Replayed([]journal.Event)
	// Progressed is called now and then while a task works; updates may be dropped.
	Progressed(Update)
}

// Update is how far a task has come. Updates are not journaled.
type Update struct {
	Step   string `json:"step"`
	Item   string `json:"item,omitempty"`
	Done   Amount `json:"done"`
	Total  Amount `json:"total"`
	Status string `json:"status,omitempty"`
}

// updateInterval bounds how often one task reports.
const updateInterval = 100 * time.Millisecond

// taskProgress is the Progress of one attempt of one task.
type taskProgress struct {
	observe func(Update)
	finding func(Finding)
	now     func() time.Time

	mu     sync.Mutex
	update Update
	last   time.Time
}

func (p *taskProgress) Total(bytes, items int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.update.Total = Amount{bytes, items}
	p.emit(false)
}

func (p *taskProgress) Add(bytes, items int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.update.Done.Bytes += bytes
	p.update.Done.Items += items
	p.emit(false)
}

func (p *taskProgress) Status(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.update.Status == text {
		return
	}
	p.update.Status = text
	p.emit(true)
}

func (p *taskProgress) Report(finding Finding) { p.finding(finding) }

func (p *taskProgress) done() Amount {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.update.Done
}

// emit is called with mu held.
func (p *taskProgress) emit(now bool) {
	at := p.now()
	if !now && at.Sub(p.last) < updateInterval {
		return
	}
	p.last = at
	p.observe(p.update)
}
