package database

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/musterdr/muster/orchestrator/shell"
)

const (
	// beatEvery is how often the scripts of a server are given a sign of life.
	beatEvery = 20 * time.Second
	// deadAfter is when a script ends that was given none: whoever ran it is gone, or can't be heard.
	deadAfter = 90 * time.Second
)

// pulse is the sign of life of one try of a task. Where a connection breaks, what it ran is not always told.
type pulse struct {
	try              string // a name of its own
	every, deadAfter time.Duration

	mu   sync.Mutex
	last time.Time
}

// env is what scripts know their task by.
func (p *pulse) env(token string) map[string]string {
	return map[string]string{"TOKEN": token, "TRY": p.try, "DEAD_AFTER": strconv.Itoa(int(p.deadAfter.Seconds()))}
}

// beatScript reaches every script of a try; they have folders of their own.
const beatScript = `read -r up _ </proc/uptime
for dir in /dev/shm "${TMPDIR:-/tmp}" /tmp; do
	for task in "$dir"/muster-db.*/task; do
		[ "$(cat "$task" 2>/dev/null)" != "$TOKEN $TRY" ] || echo "${up%.*}" >"${task%/task}/beat"
	done
done 2>/dev/null`

// beat gives signs of life until it is stopped.
func (s *Server) beat() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() {
		ticker := time.NewTicker(s.pulse.every)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-ticker.C:
				if s.pulse.due(now) {
					_, _ = s.Place.Run(ctx, shell.Script{Text: beatScript, Env: s.pulse.env(s.Token)}) // the next one may come through
				}
			}
		}
	})
	return func() {
		cancel()
		ended.Wait()
	}
}

// due lets one beat through for all scripts.
func (p *pulse) due(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.last) < p.every/2 {
		return false
	}
	p.last = now
	return true
}
