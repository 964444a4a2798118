package ssetest

import (
	"context"
	"sync"
)

// monitor is a mutex whose state can be waited for together with a context,
// which sync.Cond cannot do.
type monitor struct {
	sync.Mutex
	changed chan struct{} // nil while nobody waits
}

// signalLocked wakes everybody who waits for a change.
func (m *monitor) signalLocked() {
	if m.changed != nil {
		close(m.changed)
		m.changed = nil
	}
}

// changedLocked returns a channel that is closed at the next change.
func (m *monitor) changedLocked() <-chan struct{} {
	if m.changed == nil {
		m.changed = make(chan struct{})
	}
	return m.changed
}

// wait blocks until cond, called with the lock held, is true or ctx ends.
func (m *monitor) wait(ctx context.Context, cond func() bool) error {
	for {
		m.Lock()
		if cond() {
			m.Unlock()
			return nil
		}
		changed := m.changedLocked()
		m.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
