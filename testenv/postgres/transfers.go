package postgres

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Accounts is how many there are, of 1000 each.
const Accounts = 10000

// Transfers moves money between accounts, each transfer with a number that is logged in the same transaction.
type Transfers struct {
	server *Server

	mu      sync.Mutex
	changed *sync.Cond
	done    int // acknowledged
	err     error
	ending  bool
	ended   sync.WaitGroup
}

// StartTransfers makes the accounts and begins.
func StartTransfers(t *testing.T, s *Server) *Transfers {
	t.Helper()
	s.Must(t, "postgres", fmt.Sprintf(`create table account (id int primary key, balance bigint not null); insert into account select i, 1000 from generate_series(1, %d) i;
		create table transfer (n int primary key, s bigserial, at timestamptz not null default clock_timestamp());`, Accounts))
	w := &Transfers{server: s}
	w.changed = sync.NewCond(&w.mu)
	w.ended.Go(func() {
		for n := 1; ; n++ {
			_, err := s.SQL(t.Context(), "postgres", fmt.Sprintf(`begin; update account set balance = balance - 7 where id = %d; update account set balance = balance + 7 where id = %d;
				insert into transfer (n) values (%d); commit`, n*31%Accounts+1, n*17%Accounts+1, n))
			w.mu.Lock()
			if err == nil {
				w.done = n
			}
			w.err = err
			over := w.ending || err != nil
			w.changed.Broadcast()
			w.mu.Unlock()
			if over {
				return
			}
		}
	})
	return w
}

// Past waits until n more transfers are acknowledged, and returns the number of the last.
func (w *Transfers) Past(t *testing.T, n int) int {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for want := w.done + n; w.done < want && w.err == nil; {
		w.changed.Wait()
	}
	if w.err != nil {
		t.Fatal(w.err)
	}
	return w.done
}

// Stop ends it, and returns the number of the last transfer.
func (w *Transfers) Stop(t *testing.T) int {
	t.Helper()
	w.mu.Lock()
	w.ending = true
	w.mu.Unlock()
	w.ended.Wait()
	if w.err != nil {
		t.Fatal(w.err)
	}
	return w.done
}

// Restored expects every transfer up to `least`, none after `most`, none missing between, and no money lost. It
// returns the last.
func Restored(t *testing.T, s *Server, least, most int) int {
	t.Helper()
	if sum := s.Must(t, "postgres", "select sum(balance) from account"); sum != strconv.Itoa(Accounts*1000) {
		t.Errorf("the accounts hold %s", sum)
	}
	count, last, _ := strings.Cut(s.Must(t, "postgres", "select count(*), coalesce(max(n), 0) from transfer"), "|")
	n, err := strconv.Atoi(last)
	if err != nil {
		t.Fatal(err)
	}
	if count != last {
		t.Errorf("%s transfers up to number %s", count, last)
	}
	if n < least || n > most {
		t.Errorf("the last transfer is %d, want %d to %d", n, least, most)
	}
	return n
}
