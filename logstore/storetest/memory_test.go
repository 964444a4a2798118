package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

func TestMemory(t *testing.T) {
	for name, delay := range map[string]time.Duration{"at once": 0, "slowly": time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			Run(t, func(t *testing.T) Opener { return memoryOpener(delay) })
		})
	}
}

func memoryOpener(delay time.Duration) Opener {
	m, nodes := NewMemory(), 0
	m.SetDelay(delay)
	return Opener{
		Open: func(*testing.T) logstore.Store {
			nodes++
			return m.Open(fmt.Sprint("node ", nodes))
		},
		Shared: true,
		Block:  func(*testing.T) func() { return m.Stall() },
	}
}

func TestMemoryIsAsSlowAsItIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory()
		m.SetDelay(time.Minute)
		store := m.Open("a")
		term := campaign(t, store)
		begun := time.Now()
		for range 2 {
			appendRecords(t, term, 1, 1) // others might miss its commit
			time.Sleep(59 * time.Second)
			synctest.Wait()
			before := store.Status().Last
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if after := store.Status().Last; after != before+1 {
				t.Errorf("offset %d, then %d after %v", before, after, time.Since(begun))
			}
		}
		closeStore(t, store)
	})
}

func TestMemoryDeposes(t *testing.T) {
	m := NewMemory()
	a, b := m.Open("a"), m.Open("b")
	defer closeStore(t, b)
	na, nb := follow(t, a, 1), follow(t, b, 1)
	term := campaign(t, a)
	appendRecords(t, term, 1, 10)
	na.await(10)
	resume := m.Stall()
	appendRecords(t, term, 11, 20)
	if st := a.Status(); st.State != logstore.Stalled || st.Buffered != 10 || st.Writer != "a" || st.Err == nil {
		t.Errorf("status %+v", st)
	}
	m.Depose()
	<-term.Done()
	if err := term.Append(record(21)); !errors.Is(err, logstore.ErrOver) {
		t.Errorf("appending for a node that was deposed: %v", err)
	}
	resume()
	second := campaign(t, b)
	if second.Number() < term.Number()+2 {
		t.Errorf("term %d comes after %d and another one", second.Number(), term.Number())
	}
	appendRecords(t, second, 11, 12)
	same(t, nb.await(12), 1, 12)
	if got := na.await(12); got[11].Term != second.Number() {
		t.Errorf("offset 12 is of term %d", got[11].Term)
	}
	closeStore(t, a)
}

func TestMemoryLoses(t *testing.T) {
	m := NewMemory()
	store := m.Open("a")
	n := follow(t, store, 1)
	appendRecords(t, campaign(t, store), 1, 10)
	n.await(10)
	epoch := store.Epochs()[0].ID
	closeStore(t, store)
	m.Lose(4)
	store = m.Open("a")
	defer closeStore(t, store)
	epochs := store.Epochs()
	if len(epochs) != 2 || store.Status().Last != 6 || !logstore.Good(epochs, epoch, 6) || logstore.Good(epochs, epoch, 7) {
		t.Errorf("epochs %v, the log ends with %d", epochs, store.Status().Last)
	}
}

// Whoever keeps what was handed over has something else then.
func TestMemoryTakesBackWhatItHandsOver(t *testing.T) {
	m := NewMemory()
	store := m.Open("a")
	defer closeStore(t, store)
	appendRecords(t, campaign(t, store), 1, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var kept []logstore.Record
	var body []byte
	_ = store.Follow(ctx, 1, func(batch []logstore.Record) {
		kept, body = batch, batch[0].Body
		cancel()
	})
	if kept[0].Offset != 0 || body[0] != '?' {
		t.Errorf("kept %+v and %q", kept[0], body)
	}
}
