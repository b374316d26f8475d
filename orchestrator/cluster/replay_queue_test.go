package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"
)

// queued is a queue of objects in the core group whose names are their numbers.
func queued(ctx context.Context, waves []int, late int, wait time.Duration) (*queue, []*task) {
	var tasks []*task
	most := late
	for i, wave := range waves {
		tasks = append(tasks, &task{Entry: &Entry{Resource: "things", Name: fmt.Sprint(i)}, wave: wave})
		most = max(most, wave+1)
	}
	q := newQueue(ctx, tasks, most, late, wait)
	q.poll = time.Millisecond
	return q, tasks
}

func needsOf(hard bool, numbers ...int) []Reference {
	var needs []Reference
	for _, n := range numbers {
		needs = append(needs, Reference{Key: Key{Resource: "things", Name: fmt.Sprint(n)}, Hard: hard})
	}
	return needs
}

// turn takes the next task and reports its name.
func turn(t *testing.T, q *queue) *task {
	t.Helper()
	next, gaveUp := q.next(t.Context())
	if next == nil || gaveUp {
		t.Fatalf("the queue gave %v, %v", next, gaveUp)
	}
	return next
}

func TestQueueHasNoBarriers(t *testing.T) {
	q, tasks := queued(t.Context(), []int{1, 0, 1}, 2, time.Minute)
	defer q.close()
	first := turn(t, q)
	second := turn(t, q) // the wave of first is not over
	if first != tasks[1] || second != tasks[0] {
		t.Fatalf("first %s, then %s", first.Name, second.Name)
	}
	if !q.await(second, needsOf(false, 1, 7)) { // 7 is not part of the replay
		t.Fatal("it does not wait for what is not settled")
	}
	third := turn(t, q)
	q.settle(first, Outcome{Result: Created})
	if again := turn(t, q); again != second {
		t.Fatalf("what waited is not next, but %s", again.Name)
	}
	if q.await(second, needsOf(true, 1)) {
		t.Fatal("it waits for what is settled")
	}
	q.settle(second, Outcome{Result: Created})
	q.settle(third, Outcome{Result: Created})
	if next, _ := q.next(t.Context()); next != nil {
		t.Fatalf("after the last one comes %s", next.Name)
	}
}

func TestQueueBreaksCircles(t *testing.T) {
	for _, hard := range []bool{false, true} {
		q, tasks := queued(t.Context(), []int{0, 0}, 1, time.Minute)
		for range tasks {
			a := turn(t, q)
			other := 1
			if a == tasks[1] {
				other = 0
			}
			if !q.await(a, needsOf(hard, other)) {
				t.Fatal("it does not wait")
			}
		}
		first := turn(t, q)
		for hard && q.await(first, needsOf(hard, 0, 1)) { // without soft needs it still waits for a hard one
			first = turn(t, q)
		}
		if first != tasks[0] && first != tasks[1] {
			t.Fatalf("the circle gave %v", first)
		}
		q.close()
	}
}

func TestQueueKeepsLateWavesForTheEnd(t *testing.T) {
	q, tasks := queued(t.Context(), []int{1, 0}, 1, time.Minute)
	defer q.close()
	early := turn(t, q)
	came := make(chan *task)
	go func() {
		late, _ := q.next(context.Background())
		came <- late
	}()
	select {
	case late := <-came:
		t.Fatalf("%s came while another one was under way", late.Name)
	case <-time.After(20 * time.Millisecond):
	}
	q.settle(early, Outcome{Result: Created})
	if late := <-came; late != tasks[0] {
		t.Fatalf("got %v", late)
	}
}

func TestQueueGivesUpWhatIsNeverTaken(t *testing.T) {
	q, tasks := queued(t.Context(), []int{0, 0}, 1, 20*time.Millisecond)
	defer q.close()
	cause := errors.New("not yet")
	tries := 0
	for {
		next, gaveUp := q.next(t.Context())
		if gaveUp {
			if next != tasks[0] || !errors.Is(next.cause, cause) || tries < 2 {
				t.Fatalf("gave up %s after %d tries: %v", next.Name, tries, next.cause)
			}
			q.settle(next, Outcome{Result: Failed})
			return
		}
		if next == tasks[1] {
			q.settle(next, Outcome{Result: Created})
			continue
		}
		tries++
		q.park(next, cause)
	}
}

// TestQueueSettlesEverything works at random graphs with several workers: with circles, with objects
// that are not taken at first. Each is settled once, and no hard need comes after what needs it, but in
// a circle.
func TestQueueSettlesEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		waves := rapid.SliceOfN(rapid.IntRange(0, 4), 1, 40).Draw(t, "waves")
		needs := make([][]Reference, len(waves))
		for i := range waves {
			hard := rapid.SliceOfN(rapid.IntRange(0, max(i-1, 0)), 0, 2).Draw(t, "hard") // of earlier ones: no circle
			soft := rapid.SliceOfN(rapid.IntRange(0, len(waves)-1), 0, 3).Draw(t, "soft")
			needs[i] = append(needsOf(true, hard...), needsOf(false, soft...)...)
		}
		stubborn := rapid.SliceOfN(rapid.IntRange(0, 2), len(waves), len(waves)).Draw(t, "refusals")
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		q, tasks := queued(ctx, waves, 4, time.Minute)
		defer q.close()
		var mu sync.Mutex
		number, settled := map[*task]int{}, map[Key]bool{}
		for i, task := range tasks {
			number[task] = i
		}
		work := func() error {
			for {
				task, _ := q.next(ctx)
				if task == nil {
					return ctx.Err()
				}
				mine := needs[number[task]]
				if q.await(task, mine) {
					continue
				}
				mu.Lock()
				refused := stubborn[number[task]] > 0
				stubborn[number[task]]--
				for _, need := range mine {
					if need.Hard && need.Key != task.Key() && !settled[need.Key] {
						mu.Unlock()
						return fmt.Errorf("%s goes before %s, which it needs", task.Name, need.Key.Name)
					}
				}
				if !refused && settled[task.Key()] {
					mu.Unlock()
					return fmt.Errorf("%s came twice", task.Name)
				}
				settled[task.Key()] = !refused
				mu.Unlock()
				if refused {
					q.park(task, errors.New("not yet"))
				} else {
					q.settle(task, Outcome{Result: Created})
				}
			}
		}
		var workers errgroup.Group
		for range 4 {
			workers.Go(work)
		}
		if err := workers.Wait(); err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			if !settled[task.Key()] {
				t.Fatalf("%s was never settled", task.Name)
			}
		}
	})
}
