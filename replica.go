package ssefanin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

// replica is one place where an upstream can be dialled. Its runner uses it,
// and the source, under its mutex, gives the runner the list.
type replica struct {
	place

	// of the runner
	backoff   backoff
	notBefore time.Time // the next attempt
	finished  bool      // answered 204
	failed    string    // how it failed last, for people; empty: it has not since it was up. mu of the runner protects it
	logged    string    // kind of the failure that was logged last
	probed    time.Time // when it was looked whether it speaks TLS; see wantsTLS
	speaksTLS bool      // the result of that
}

func newReplica(p place, spec *sourceSpec) *replica {
	return &replica{place: p, backoff: backoff{base: spec.BackoffBase, max: spec.BackoffMax}}
}

// place is an address of an upstream.
type place struct {
	id      string // identifies it: the URL as configured, or the address
	url     int    // number of the URL
	address string // discovered; empty: the URL's
}

// runner keeps one connection to an upstream, over one or several replicas:
// the one it is connected to, and when that fails the next. A source has one
// runner, or with `mirror` one for each replica.
//
// Each replica waits for itself after a failure; so another is tried at once,
// and only when all have failed there is a pause.
type runner struct {
	source *source
	spec   *sourceSpec
	slot   int // in the source's mirror, if it has one

	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{} // closed when run has returned
	signal chan struct{} // capacity 1: "look again" needs to be said once

	mu        sync.Mutex // protects the fields below; never held over I/O
	replicas  []*replica
	at        int                     // number of the one that was tried last
	current   *replica                // being connected or read
	interrupt context.CancelCauseFunc // of the current attempt
	reset     bool                    // forget 204 answers
	afresh    bool                    // forget waits, too, and begin with the first
	state     sourceState

	// of run: the state of the upstream's stream, over connections and replicas
	decoder      *sse.Decoder
	buf          []byte
	connected    bool      // an answer was a stream at least once
	awaySince    time.Time // when the connection was lost, or the first attempt failed; zero: neither
	failed       int       // attempts since then
	badIDLogged  bool      // of the current id
	withoutID    bool      // the next attempt leaves the id out, once
	skippedSoFar uint64

	broughtNew atomic.Bool // the connection brought an event that was not sent before

	// of the source's intake, whose lock protects them
	recents recents     // unless intake.matches
	leading leading     // of the current connection
	release *time.Timer // of held events; nil until there were some
	enc     encoder
}

// Why an attempt was interrupted.
var (
	errUnwanted  = errors.New("no client wants it now")
	errWithdrawn = errors.New("its address was withdrawn")
	errReconnect = errors.New("an operator asked for another connection")
)

// newRunner returns a runner. The caller, its source, starts run once.
func newRunner(s *source, replicas []*replica, slot int) *runner {
	r := &runner{
		source:   s,
		spec:     s.spec,
		slot:     slot,
		done:     make(chan struct{}),
		signal:   make(chan struct{}, 1),
		replicas: replicas,
		at:       -1,
		state:    sourceState{phase: phaseIdle, since: time.Now()},
		decoder:  sse.NewDecoder(int(s.spec.MaxEventSize)),
	}
	r.ctx, r.cancel = context.WithCancel(s.ctx)
	if resume := s.spec.Resume; resume != resumeOn && resume != resumeOff {
		r.decoder.SetLastEventID(resume)
	}
	return r
}

// begin has a runner that has not been started go on where the log of its
// stream ends, as if it had been connected before.
func (r *runner) begin(p *startPoint) {
	if p.id != "" {
		r.decoder.SetLastEventID(p.id)
	}
	if !r.source.intake.matches() {
		r.recents.prints = p.prints[max(len(p.prints)-recentEvents, 0):]
	}
	r.connected = true
}

// soFar returns where a mirror goes on that takes the place of a runner that has ended.
// When its events arrived is not known: that is now.
func (r *runner) soFar() *startPoint {
	p := &startPoint{id: r.decoder.LastEventID(), prints: r.recents.prints}
	p.times = slices.Repeat([]int64{time.Now().UnixMilli()}, len(p.prints))
	return p
}

// wake has the runner look again for something to do.
func (r *runner) wake() {
	select {
	case r.signal <- struct{}{}:
	default:
	}
}

// setReplicas replaces the replicas. A connection to one that is no longer
// among them is ended.
func (r *runner) setReplicas(replicas []*replica) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var last *replica
	if r.at >= 0 && r.at < len(r.replicas) {
		last = r.replicas[r.at]
	}
	r.replicas = replicas
	r.at = slices.Index(replicas, last)
	if r.current != nil && slices.Contains(replicas, r.current) {
		return
	}
	if r.current != nil && r.interrupt != nil {
		r.interrupt(errWithdrawn)
	}
	r.wake()
}

// stopNow ends the current connection; the runner then looks whether it is
// still wanted.
func (r *runner) stopNow(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.interrupt != nil {
		r.interrupt(why)
	}
	r.wake()
}

// reconnect ends the current connection, forgets waits and 204 answers, and has
// the first replica dialled at once.
func (r *runner) reconnect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.afresh = true
	if r.interrupt != nil {
		r.interrupt(errReconnect)
	}
	r.wake()
}

// retryFinished has replicas asked again that answered 204.
func (r *runner) retryFinished() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reset = true
	r.wake()
}

// status returns the runner's state. Safe for concurrent use.
func (r *runner) status() sourceState {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// run keeps the connection until the runner's context ends. The source owns
// it, and waits for it in Destruct.
func (r *runner) run() {
	defer close(r.done)
	defer r.source.runnerEnded(r)
	for r.ctx.Err() == nil {
		env, wanted := r.source.wanted()
		if !wanted {
			r.setState(sourceState{phase: phaseIdle, reason: reasonClosed, text: "not wanted at present"})
			r.pause(-1)
			continue
		}
		rep, wait := r.pick(time.Now())
		if rep == nil {
			r.pause(wait)
			continue
		}
		r.try(env, rep)
	}
}

// pause waits for so long, for ever if it is negative, or for a signal.
func (r *runner) pause(wait time.Duration) {
	var after <-chan time.Time
	if wait >= 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		after = timer.C
	}
	select {
	case <-after:
	case <-r.signal:
	case <-r.ctx.Done():
	}
}

// pick returns the replica to try next: the first after the last one tried
// that need not wait. Without one, it returns how long to wait, negative for
// ever.
func (r *runner) pick(now time.Time) (*replica, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reset {
		r.reset = false
		for _, rep := range r.replicas {
			rep.finished = false
		}
	}
	if r.afresh {
		r.afresh, r.at = false, -1
		for _, rep := range r.replicas {
			rep.finished, rep.notBefore, rep.backoff.n = false, time.Time{}, 0
		}
	}
	wait := time.Duration(-1)
	start := r.at
	if len(r.replicas) == 1 || r.withoutID {
		start = r.at - 1 // the same one again
	}
	for i := range r.replicas {
		n := (max(start, -1) + 1 + i) % len(r.replicas)
		rep := r.replicas[n]
		if rep.finished {
			continue
		}
		left := rep.notBefore.Sub(now)
		if left <= 0 {
			r.at = n
			return rep, 0
		}
		if wait < 0 || left < wait {
			wait = left
		}
	}
	return nil, wait
}

// try makes one attempt, and notes the consequences for the replica.
func (r *runner) try(env *environment, rep *replica) {
	ctx, cancel := context.WithCancelCause(r.ctx)
	defer cancel(nil)
	r.mu.Lock()
	if !slices.Contains(r.replicas, rep) { // withdrawn since it was picked
		r.mu.Unlock()
		return
	}
	r.current, r.interrupt = rep, cancel
	last := r.state
	r.mu.Unlock()
	if _, wanted := r.source.wanted(); !wanted { // no more, since run asked
		cancel(errUnwanted)
	}
	r.setState(sourceState{phase: phaseConnecting, reason: last.reason, text: last.text})

	end := r.attempt(ctx, cancel, env, rep)

	r.mu.Lock()
	r.current, r.interrupt = nil, nil
	r.mu.Unlock()
	if r.ctx.Err() != nil {
		end.reason = reasonClosed
		r.source.counts.countEnd(end)
		return
	}
	now := time.Now()
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errUnwanted), errors.Is(cause, errWithdrawn), errors.Is(cause, errReconnect):
		end.reason, end.err, end.wait = reasonClosed, cause, 0
		end.finished, end.slow, end.mistake, end.hint = false, false, false, ""
	case end.wasUp && !r.source.uses(env):
		// the transport went with its configuration (HTTP/3 does); that is no
		// failure of the upstream
		end.wait = 0
	}
	r.source.counts.countEnd(end)
	r.noteAway(now, end)
	rep.finished = end.finished
	rep.notBefore = now.Add(end.wait)
	r.noteFailure(rep, end)
	st := sourceState{phase: phaseDown, reason: end.reason, text: end.text(), retryAt: rep.notBefore}
	if end.finished && r.allFinished() {
		st.phase = phaseFinished
	}
	r.setState(st)
	r.logDown(rep, end)
}

// several reports whether there are other replicas.
func (r *runner) several() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.replicas) > 1 || r.source.intake.mirrors()
}

// allFinished reports whether each replica has answered 204. The runner's
// goroutine calls it.
func (r *runner) allFinished() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rep := range r.replicas {
		if !rep.finished {
			return false
		}
	}
	return true
}

// setState notes the runner's state, and has the source notify its listeners.
func (r *runner) setState(st sourceState) {
	r.mu.Lock()
	st.since = time.Now()
	if st.phase == r.state.phase {
		st.since = r.state.since
	}
	r.state = st
	r.mu.Unlock()
	r.source.stateChanged()
}

// noteAway notes for how long the upstream is away, for the log. A connection
// that we have closed ourselves does not count.
func (r *runner) noteAway(now time.Time, end ending) {
	switch {
	case end.reason == reasonClosed:
		r.awaySince, r.failed = time.Time{}, 0
	case end.wasUp:
		r.awaySince, r.failed = now, 0
	default:
		if r.awaySince.IsZero() {
			r.awaySince = now
		}
		r.failed++
	}
}

// noteFailure notes how a replica failed, for the status. What we have closed
// ourselves is no failure.
func (r *runner) noteFailure(rep *replica, end ending) {
	failed := ""
	if end.reason != reasonClosed {
		failed = cmp.Or(end.detail(), reasonWords[end.reason], string(end.reason))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rep.failed = failed
}

// replicaStatus is what operators see of a replica.
type replicaStatus struct {
	place  place
	url    string // as configured, redacted
	up     bool
	failed string // how it failed last; empty: it has not since it was up
}

// replicaStatuses returns what operators see of the replicas, in the order in
// which they are tried.
func (r *runner) replicaStatuses() []*replicaStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*replicaStatus, 0, len(r.replicas))
	for _, rep := range r.replicas {
		all = append(all, &replicaStatus{
			place:  rep.place,
			url:    r.spec.shown(rep.url, rep.address),
			up:     rep == r.current && r.state.phase == phaseUp,
			failed: rep.failed,
		})
	}
	return all
}

// up is called when the upstream has answered with a stream.
func (r *runner) up(rep *replica, shown string) {
	r.noteFailure(rep, ending{reason: reasonClosed})
	r.source.counts.connects.Add(1)
	r.setState(sourceState{phase: phaseUp})
	rep.logged, rep.probed = "", time.Time{}
	fields := []zap.Field{zap.String("url", shown)}
	if !r.awaySince.IsZero() {
		fields = append(fields, zap.Duration("away", time.Since(r.awaySince)), zap.Int("attempts", r.failed+1))
		r.awaySince, r.failed = time.Time{}, 0
	}
	r.source.logger().Info("upstream connected", fields...)
}

// logDown writes a line when a replica's state changes, or the kind of its
// failure, not for every attempt.
func (r *runner) logDown(rep *replica, end ending) {
	kind := fmt.Sprint(end.url, " ", end.reason, " ", end.status)
	if !end.wasUp && (kind == rep.logged || end.reason == reasonClosed) {
		return
	}
	rep.logged = kind
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
	if end.hint != "" {
		fields = append(fields, zap.String("hint", end.hint))
	}
	if end.wait > 0 {
		fields = append(fields, zap.Duration("retry_in", end.wait))
	}
	logger := r.source.logger()
	switch {
	case end.reason == reasonClosed:
		logger.Info("upstream disconnected", fields...)
	case end.finished && r.several():
		logger.Warn("a replica finished; it is passed over until a reload", fields...)
	case end.finished:
		logger.Info("upstream finished; it is not connected again until a reload", fields...)
	case end.mistake:
		logger.Error("upstream cannot be connected", fields...)
	case end.slow:
		logger.Error("upstream refused; this looks like a mistake in its configuration", fields...)
	case !end.wasUp:
		logger.Warn("upstream cannot be connected", fields...)
	default:
		logger.Warn("upstream disconnected", fields...)
	}
}
