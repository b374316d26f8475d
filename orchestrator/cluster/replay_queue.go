package cluster

import (
	"context"
	"slices"
	"sync"
	"time"
)

// queue hands out the objects of a replay. There are no barriers: an object goes as soon as what it
// needs is settled, and among those that can go the ones of earlier waves go first. The last waves
// alone wait until nothing else is under way. A need that can't come, and a circle of needs, hold
// nobody up for ever: see unblock.
type queue struct {
	late int // waves from this one on come last

	mu      sync.Mutex
	changed *sync.Cond
	tasks   map[Key]*task
	ready   [][]*task        // by wave, first come first served
	waiting map[Key][]ticket // by the key that is waited for
	parked  []*task          // the cluster does not take these yet
	running int
	left    int  // tasks that are not settled
	again   bool // the parked ones are worth another try: something was settled, or some time has passed
	alarmed bool // a timer will set again
	expired bool // nothing was settled for the whole wait
	// patience sets expired, and starts anew whenever something is settled.
	wait     time.Duration
	patience *time.Timer
	poll     time.Duration // how often parked objects are tried when nothing else happens
	watch    func() bool   // ends the watch over the context
}

// task is one object on its way.
type task struct {
	*Entry
	wave    int
	state   taskState
	unmet   int    // how many of its needs are not settled
	ticket  int    // of its present wait; older ones are void
	heeds   heeds  // which of its needs it still waits for
	cause   error  // why the cluster did not take it
	there   Key    // in the cluster, as far as it is known
	uid     string // in the cluster, once it stands there
	deleted bool   // what stood in its place
	insists bool   // waits no longer until its backend answers
	outcome Outcome
}

type taskState uint8

const (
	taskReady taskState = iota
	taskRunning
	taskWaiting
	taskParked
	taskSettled
)

// heeds says which needs an object waits for.
type heeds uint8

const (
	allNeeds heeds = iota
	hardNeeds
	noNeeds
)

type ticket struct {
	*task
	number int
}

// newQueue takes all tasks, which are ready. The context ends the waits of next.
func newQueue(ctx context.Context, tasks []*task, waves, late int, wait time.Duration) *queue {
	q := &queue{
		wait: wait, late: late, tasks: make(map[Key]*task, len(tasks)), ready: make([][]*task, waves),
		waiting: map[Key][]ticket{}, left: len(tasks), poll: pollEvery,
	}
	q.changed = sync.NewCond(&q.mu)
	for _, t := range tasks {
		q.tasks[t.Key()] = t
		q.ready[t.wave] = append(q.ready[t.wave], t)
	}
	q.patience = time.AfterFunc(wait, q.locked(func() { q.expired = true }))
	q.watch = context.AfterFunc(ctx, q.locked(func() {}))
	return q
}

// close ends the queue's timers.
func (q *queue) close() {
	q.patience.Stop()
	q.watch()
}

// locked is a change that others may wait for.
func (q *queue) locked(change func()) func() {
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		change()
		q.changed.Broadcast()
	}
}

// next returns the task to work at, nil when all are settled or the context has ended. What it returns
// goes back by settle, defer or park. A task that it returns with gaveUp is to be settled as lost.
func (q *queue) next(ctx context.Context) (t *task, gaveUp bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for ctx.Err() == nil && q.left > 0 {
		if t := q.pop(q.late); t != nil {
			return t, false
		}
		if q.running > 0 {
			q.changed.Wait()
			continue
		}
		if q.unblock() {
			continue
		}
		if t := q.pop(len(q.ready)); t != nil {
			return t, false
		}
		if len(q.parked) == 0 && q.force(noNeeds) {
			continue
		}
		if len(q.parked) > 0 && q.expired {
			return q.giveUp(), true
		}
		q.alarm()
		q.changed.Wait()
	}
	return nil, false
}

func (q *queue) pop(limit int) *task {
	for wave := range q.ready[:limit] {
		if len(q.ready[wave]) == 0 {
			continue
		}
		t := q.ready[wave][0]
		q.ready[wave] = q.ready[wave][1:]
		q.start(t)
		return t
	}
	return nil
}

// giveUp takes a parked task. After the last one those that waited for them have a whole wait of their own.
func (q *queue) giveUp() *task {
	t := q.parked[0]
	q.parked = q.parked[1:]
	if len(q.parked) == 0 {
		q.expired = false
		q.patience.Reset(q.wait)
	}
	q.start(t)
	return t
}

func (q *queue) start(t *task) {
	t.state = taskRunning
	q.running++
}

// unblock finds work when nothing is under way: parked objects, after something else was settled or
// some time has passed; objects that could do without what they wait for.
func (q *queue) unblock() bool {
	if len(q.parked) > 0 && q.again && !q.expired {
		q.again = false
		for _, t := range q.parked {
			q.enqueue(t)
		}
		q.parked = nil
		return true
	}
	return q.force(hardNeeds)
}

// force lets the waiting objects of the earliest wave go on without all that they need.
func (q *queue) force(to heeds) bool {
	var chosen []*task
	for _, t := range q.tasks {
		if t.state != taskWaiting || t.heeds >= to {
			continue
		}
		if len(chosen) > 0 && t.wave < chosen[0].wave {
			chosen = chosen[:0]
		}
		if len(chosen) == 0 || t.wave == chosen[0].wave {
			chosen = append(chosen, t)
		}
	}
	slices.SortFunc(chosen, func(a, b *task) int { return a.Key().Compare(b.Key()) })
	for _, t := range chosen {
		t.heeds = to
		t.ticket++ // nobody counts down its needs any more
		q.enqueue(t)
	}
	return len(chosen) > 0
}

// alarm wakes the waiting when parked objects are to be tried again, or given up.
func (q *queue) alarm() {
	if len(q.parked) == 0 || q.alarmed {
		return
	}
	q.alarmed = true
	time.AfterFunc(q.poll, q.locked(func() { q.again, q.alarmed = true, false }))
}

func (q *queue) enqueue(t *task) {
	t.state = taskReady
	q.ready[t.wave] = append(q.ready[t.wave], t)
}

// await makes a running task wait for those of its needs that are not settled; it reports false when
// there are none.
func (q *queue) await(t *task, needs []Reference) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	t.unmet = 0
	t.ticket++
	for _, need := range needs {
		other := q.tasks[need.Key]
		if other == nil || other == t || other.state == taskSettled || t.heeds == noNeeds || t.heeds == hardNeeds && !need.Hard {
			continue
		}
		t.unmet++
		q.waiting[need.Key] = append(q.waiting[need.Key], ticket{t, t.ticket})
	}
	if t.unmet == 0 {
		return false
	}
	t.state = taskWaiting
	q.running--
	q.changed.Broadcast()
	return true
}

// park sets a running task aside that the cluster does not take yet.
func (q *queue) park(t *task, cause error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t.state, t.cause = taskParked, cause
	q.parked = append(q.parked, t)
	q.running--
	q.changed.Broadcast()
}

// settle ends a running task and lets those go that waited for it.
func (q *queue) settle(t *task, outcome Outcome) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t.state, t.outcome, t.cause = taskSettled, outcome, nil
	q.running--
	q.left--
	if !q.expired { // what is given up is no progress
		q.again = true
		q.patience.Reset(q.wait)
	}
	key := t.Key()
	for _, w := range q.waiting[key] {
		if w.number != w.ticket || w.state != taskWaiting {
			continue
		}
		if w.unmet--; w.unmet == 0 {
			q.enqueue(w.task)
		}
	}
	delete(q.waiting, key)
	q.changed.Broadcast()
}

// parkedCount is how many objects the cluster does not take yet.
func (q *queue) parkedCount() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.parked)
}

// outcomeOf tells what became of an object; ok is false while it is not settled, or not part of the
// replay.
func (q *queue) outcomeOf(key Key) (outcome Outcome, uid string, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.tasks[key]
	if t == nil || t.state != taskSettled {
		return Outcome{}, "", false
	}
	return t.outcome, t.uid, true
}

// entryOf finds an object that is part of the replay.
func (q *queue) entryOf(key Key) (Entry, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.tasks[key]
	if t == nil {
		return Entry{}, false
	}
	return *t.Entry, true
}
