package ssefanin

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
)

// lastWord is how long a configuration that stops waits for the handlers of one
// event.
const lastWord = time.Second

// announcer emits events to one configuration's event handlers. The App starts
// and stops it.
type announcer struct {
	ctx    caddy.Context
	events *caddyevents.App
	logger *zap.Logger
	cancel context.CancelFunc
	done   chan struct{} // closed when run has returned
}

// announceOnceStarted starts the configuration's announcer, once all apps have
// started: they start in any order, and before the events app has, it knows no
// handlers.
func (a *App) announceOnceStarted(ctx caddy.Context) error {
	val, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("getting the events app: %w", err)
	}
	events := val.(*caddyevents.App)
	return events.On("started", startedHandler(func() {
		a.announcer = startAnnouncer(ctx, events, a.logger)
	}))
}

// startedHandler is called when a configuration has started.
type startedHandler func()

// Handle implements caddyevents.Handler.
func (f startedHandler) Handle(context.Context, caddy.Event) error {
	f()
	return nil
}

// startAnnouncer starts an announcer, which the caller is to stop once.
func startAnnouncer(ctx caddy.Context, events *caddyevents.App, logger *zap.Logger) *announcer {
	t := &announcer{ctx: ctx, events: events, logger: logger, done: make(chan struct{})}
	t.ctx.Context, t.cancel = context.WithCancel(ctx.Context)
	go t.run()
	return t
}

// stop ends the announcer. A handler that is running sees its context end; one
// that takes no notice is left behind after a second.
func (t *announcer) stop() {
	t.cancel()
	timer := time.NewTimer(lastWord)
	defer timer.Stop()
	select {
	case <-t.done:
	case <-timer.C:
		t.logger.Warn("an event handler has not ended with its configuration")
	}
}

// run emits events, once the configuration before has stopped. The App owns it;
// stop ends it.
func (t *announcer) run() {
	defer close(t.done)
	select {
	case announcements.announcer <- struct{}{}:
	case <-t.ctx.Done():
		return
	}
	defer func() { <-announcements.announcer }()
	for t.ctx.Err() == nil {
		a, dropped := nextAnnouncement()
		if a == nil {
			select {
			case <-announcements.signal:
			case <-t.ctx.Done():
			}
			continue
		}
		if dropped > 0 {
			t.logger.Warn("event handlers are too slow; events were dropped", zap.Int("dropped", dropped))
		}
		t.events.Emit(t.ctx, a.name, a.data())
	}
	// The next one looks without a signal; it may have been the one to get it.
}
