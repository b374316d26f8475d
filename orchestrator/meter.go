package orchestrator

import "time"

// meterWindow is the time over which a rate is measured: long enough to be calm, short enough to show
// that something got slower.
const meterWindow = 30 * time.Second

// Pace is how fast a task or step goes. What is not known yet is 0.
type Pace struct {
	Share          float64 `json:"share,omitempty"` // that is done, from 0 to 1
	BytesPerSecond float64 `json:"bytesPerSecond,omitempty"`
	ItemsPerSecond float64 `json:"itemsPerSecond,omitempty"`
	Left           float64 `json:"leftSeconds,omitempty"` // an estimate
}

// sample is how far something was at a moment.
type sample struct {
	at    time.Time
	done  Amount
	share float64
}

// meter measures paces from samples.
type meter struct {
	samples map[string][]sample
	seen    map[string]bool // since the last sweep
}

func newMeter() *meter { return &meter{samples: map[string][]sample{}, seen: map[string]bool{}} }

// pace takes a sample of what began at a moment, and tells its pace.
func (m *meter) pace(key string, began time.Time, now sample) Pace {
	m.seen[key] = true
	known := m.samples[key]
	if n := len(known); n > 0 && (now.done.Bytes < known[n-1].done.Bytes || now.done.Items < known[n-1].done.Items) {
		known = nil // a new attempt counts from 0
	}
	for len(known) > 1 && now.at.Sub(known[1].at) >= meterWindow {
		known = known[1:]
	}
	from := sample{at: began}
	if len(known) > 0 && now.at.Sub(known[0].at) >= 2*time.Second {
		from = known[0]
	}
	m.samples[key] = append(known, now)
	return paceBetween(from, now)
}

func paceBetween(from, to sample) Pace {
	pace := Pace{Share: to.share}
	seconds := to.at.Sub(from.at).Seconds()
	if seconds < 0.2 {
		return pace
	}
	pace.BytesPerSecond = float64(max(0, to.done.Bytes-from.done.Bytes)) / seconds
	pace.ItemsPerSecond = float64(max(0, to.done.Items-from.done.Items)) / seconds
	// Below a fiftieth, or in the first second, nobody can tell.
	if gained := to.share - from.share; gained > 0 && to.share >= 0.02 && to.share < 1 && seconds >= 1 {
		pace.Left = (1 - to.share) * seconds / gained
	}
	return pace
}

// sweep forgets what no sample came from since the last sweep.
func (m *meter) sweep() {
	for key := range m.samples {
		if !m.seen[key] {
			delete(m.samples, key)
		}
	}
	clear(m.seen)
}

// share is how much of its work a task has done. It never says that all is done: that is for the journal
// to say.
func (u Update) share() float64 {
	const almost = 0.99
	switch {
	case u.Total.Bytes > 0:
		return min(almost, float64(u.Done.Bytes)/float64(u.Total.Bytes))
	case u.Total.Items > 0:
		return min(almost, float64(u.Done.Items)/float64(u.Total.Items))
	}
	return 0
}
