package ssefanin

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

// sources holds the upstream connections of the process, by sourceSpec key.
// Each subscription holds one reference, so that a source lives as long as a
// stream wants it, over config reloads.
var sources = caddy.NewUsagePool()

const (
	// controlPrefix begins the types of the module's own events; an upstream's
	// that begins with it is renamed.
	controlPrefix = "fanin."

	// keepScratch is the largest buffer, in bytes, that a source keeps for the
	// next event.
	keepScratch = 64 << 10
)

// source is one upstream, connected once for every stream that names it in
// the same way. It owns its connection, and hands each event to every
// subscription. It lives in the pool of sources.
//
// Safe for concurrent use.
type source struct {
	key  string
	spec *sourceSpec
	conn *connection

	// subs is replaced, never changed, so that delivering an event takes no lock.
	subs atomic.Pointer[[]*subscription]

	mu      sync.Mutex // protects subs (as writer), the envs of each, state, started
	state   sourceState
	started bool

	// of the run goroutine
	body       []byte // scratch: the encoded event
	typeBuf    []byte // scratch: a renamed type
	lastLogged string // kind of the failure that was logged last

	ctx     context.Context
	cancel  context.CancelFunc
	done    chan struct{} // closed when run has returned
	changed chan struct{} // capacity 1: "the environments changed" needs to be known once
}

// sourceState is what a source is doing; for people and logs.
type sourceState struct {
	phase   phase
	since   time.Time
	reason  string // why it is not up
	retryAt time.Time
}

// phase is the state of a connection.
type phase string

const (
	phaseIdle       phase = "idle"       // never dialled yet, or no configuration to dial with
	phaseConnecting phase = "connecting" // before the first answer
	phaseUp         phase = "up"
	phaseDown       phase = "down"     // waiting to try again
	phaseFinished   phase = "finished" // answered 204: not dialled again until a reload
)

// subscription is one stream's use of a source.
type subscription struct {
	source *source
	hub    *hub
	name   string // of the upstream within the stream
	key    string // of the source

	// envs are the environments of the configurations that use the stream and
	// this source, oldest first. The source's mutex protects it.
	envs []*environment
}

// acquireSource returns the source for a spec, with a reference that
// releaseSource gives back. resume, if any, is where a new source begins.
func acquireSource(key string, spec *sourceSpec, resume *resumeState) *source {
	val, _, _ := sources.LoadOrNew(key, func() (caddy.Destructor, error) {
		return newSource(key, spec, resume), nil
	})
	return val.(*source)
}

func releaseSource(s *source) {
	// the error is that of Destruct, which has none
	_, _ = sources.Delete(s.key)
}

func newSource(key string, spec *sourceSpec, resume *resumeState) *source {
	s := &source{
		key:     key,
		spec:    spec,
		done:    make(chan struct{}),
		changed: make(chan struct{}, 1),
		state:   sourceState{phase: phaseIdle, since: time.Now()},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.subs.Store(new([]*subscription))
	s.conn = newConnection(s, spec, resume)
	return s
}

// Destruct ends the connection and waits for it. The pool calls it when the
// last subscription has gone.
func (s *source) Destruct() error {
	s.cancel()
	s.mu.Lock()
	started := s.started
	s.started = true // never from here on
	s.mu.Unlock()
	if started {
		<-s.done
	}
	return nil
}

// subscribe adds a subscription: it gets every event from now on. The source
// is dialled once a subscription brings an environment to dial with.
func (s *source) subscribe(sub *subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	subs := append(slices.Clone(*s.subs.Load()), sub)
	s.subs.Store(&subs)
}

// unsubscribe removes a subscription. An event that is being delivered may
// still reach it.
func (s *source) unsubscribe(sub *subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	subs := slices.DeleteFunc(slices.Clone(*s.subs.Load()), func(other *subscription) bool { return other == sub })
	s.subs.Store(&subs)
	sub.envs = nil
}

// setEnvironments says which configurations a subscription can dial with,
// oldest first, and starts the source when it is the first to have one.
func (s *source) setEnvironments(sub *subscription, envs []*environment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	added := slices.ContainsFunc(envs, func(env *environment) bool { return !slices.Contains(sub.envs, env) })
	sub.envs = envs
	switch {
	case len(envs) == 0:
	case !s.started:
		s.started = true
		go s.run()
	case added:
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
}

// ended says whether the source was connected and has ended for good: nobody
// uses its connection any more.
func (s *source) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// environment returns the environment to dial with: the oldest that is in
// use, since a newer one may belong to a configuration that fails to load, and
// the oldest leaves before its configuration is cleaned up. Nil means that no
// configuration wants the source any more.
func (s *source) environment() *environment {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sub := range *s.subs.Load() {
		if len(sub.envs) > 0 {
			return sub.envs[0]
		}
	}
	return nil
}

// uses says whether an environment is still in use.
func (s *source) uses(env *environment) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sub := range *s.subs.Load() {
		if slices.Contains(sub.envs, env) {
			return true
		}
	}
	return false
}

// run keeps the source connected until Destruct. The source owns it.
func (s *source) run() {
	defer close(s.done)
	for s.ctx.Err() == nil {
		select {
		case <-s.changed: // what came before this attempt is no news
		default:
		}
		env := s.environment()
		if env == nil {
			s.setState(sourceState{phase: phaseIdle, reason: "no configuration uses it any more"})
			s.awaitReload()
			continue
		}
		s.setState(sourceState{phase: phaseConnecting, reason: s.status().reason})
		end := s.conn.attempt(s.ctx, env)
		if s.ctx.Err() != nil {
			return
		}
		if end.finished {
			s.setState(sourceState{phase: phaseFinished, reason: end.text()})
			s.logDown(end, 0)
			s.awaitReload()
			continue
		}
		if end.wasUp && !s.uses(env) {
			// the transport went with its configuration (HTTP/3 does); that is
			// no failure of the upstream
			end.wait = 0
		}
		s.setState(sourceState{phase: phaseDown, reason: end.text(), retryAt: time.Now().Add(end.wait)})
		s.logDown(end, end.wait)
		s.pause(end.wait)
	}
}

// awaitReload waits until a configuration brings a new environment, or the
// source ends.
func (s *source) awaitReload() {
	select {
	case <-s.changed:
	case <-s.ctx.Done():
	}
}

// pause waits before the next attempt, or until the source ends.
func (s *source) pause(wait time.Duration) {
	if wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.ctx.Done():
	}
}

// deliver hands an event to every subscription, encoded once for all. The
// connection calls it.
func (s *source) deliver(ev *sse.Event, now time.Time) {
	shaped := sse.Event{Type: ev.Type, Data: ev.Data} // ids are the log's business
	if bytes.HasPrefix(ev.Type, []byte(controlPrefix)) {
		s.typeBuf = append(append(s.typeBuf[:0], "upstream."...), ev.Type...)
		shaped.Type = s.typeBuf
	}
	s.body = sse.AppendEvent(s.body[:0], &shaped)
	for _, sub := range *s.subs.Load() {
		sub.hub.publish(s.body, now)
	}
	if cap(s.body) > keepScratch {
		s.body = nil
	}
}

func (s *source) status() sourceState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

func (s *source) setState(st sourceState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.since = time.Now()
	s.state = st
}

// logger is that of a configuration in use, with the upstream's name.
func (s *source) logger() *zap.Logger {
	logger := caddy.Log().Named("sse_fanin")
	if env := s.environment(); env != nil {
		logger = env.logger
	}
	var name string
	var streams []string
	for _, sub := range *s.subs.Load() {
		if name == "" {
			name = sub.name
		}
		streams = append(streams, sub.hub.label)
	}
	return logger.With(zap.String("upstream", name), zap.Strings("streams", streams))
}

// up is called by the connection when the upstream has answered with a stream.
func (s *source) up(shown string) {
	s.setState(sourceState{phase: phaseUp})
	s.lastLogged = ""
	s.logger().Info("upstream connected", zap.String("url", shown))
}

// logDown writes a line when the state changes, or the reason for it, not for
// every attempt.
func (s *source) logDown(end ending, wait time.Duration) {
	kind := fmt.Sprint(end.reason, " ", end.status)
	if !end.wasUp && kind == s.lastLogged {
		return
	}
	s.lastLogged = kind
	fields := []zap.Field{
		zap.String("url", end.url),
		zap.String("reason", string(end.reason)),
	}
	if end.status != 0 {
		fields = append(fields, zap.Int("status", end.status))
	}
	if end.err != nil {
		fields = append(fields, zap.Error(end.err))
	}
	logger := s.logger()
	switch {
	case end.finished:
		logger.Info("upstream finished; it is not connected again until a reload", fields...)
	case end.slow:
		logger.Error("upstream refused; this looks like a mistake in its configuration",
			append(fields, zap.Duration("retry_in", wait))...)
	default:
		logger.Warn("upstream disconnected", append(fields, zap.Duration("retry_in", wait))...)
	}
}
