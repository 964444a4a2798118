package ssefanin

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// refusal is why a client gets no stream.
type refusal string

const (
	refusedFull    refusal = "full"    // max_clients
	refusedStreams refusal = "streams" // max_streams
	refusedKey     refusal = "key"     // a value that cannot be one of a key
	refusedOnly    refusal = "only"    // a placeholder of `only` without a value
	refusedExit    refusal = "exit"    // the process exits, or the stream was removed while the client came
)

// allRefusals are all there are, in the order of their counters.
var allRefusals = [...]refusal{refusedFull, refusedStreams, refusedKey, refusedOnly, refusedExit}

// refusalOf returns the reason behind an error of onlySettings.choiceOf,
// definition.stream or hub.subscribe.
func refusalOf(err error) refusal {
	var bad *keyError
	var nothing *onlyError
	switch {
	case errors.As(err, &bad):
		return refusedKey
	case errors.As(err, &nothing):
		return refusedOnly
	case errors.Is(err, errTooManyStreams):
		return refusedStreams
	case errors.Is(err, errFull):
		return refusedFull
	default: // errGone
		return refusedExit
	}
}

// refusalLogInterval is how often at most a stream's refusals of one reason
// are logged: a stream that is full refuses as often as clients try again.
const refusalLogInterval = time.Minute

// refusals counts and logs the clients that a stream refused. The first one of
// a reason is logged at once, the following ones together.
//
// Safe for concurrent use.
type refusals struct {
	counts [len(allRefusals)]atomic.Uint64

	mu    sync.Mutex // protects the fields below; taken last
	lines [len(allRefusals)]refusalLine
	ended bool // the stream was removed: nothing is logged any more
}

// refusalLine is a line to be logged about one reason.
type refusalLine struct {
	waiting uint64             // refused since the last line
	log     func(count uint64) // writes the next line; nil: the interval after the last one is over
}

// add counts a refusal. log writes a line for a number of them: at once, or
// at the end of the interval.
func (r *refusals) add(why refusal, log func(count uint64)) {
	i := slices.Index(allRefusals[:], why)
	r.counts[i].Add(1)
	if r.note(i, log) {
		log(1)
		r.endSilence(i)
	}
}

// note reports whether a refusal is to be logged at once.
func (r *refusals) note(i int, log func(count uint64)) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	line := &r.lines[i]
	switch {
	case r.ended:
		return false
	case line.log != nil:
		line.waiting++
		return false
	}
	line.log = log
	return true
}

// endSilence has the silence end after an interval, and the refusals in it
// logged. The timer is not stopped when the stream is removed: it keeps the counts
// alone, while what it logs with, which has the stream, goes with end.
func (r *refusals) endSilence(i int) {
	time.AfterFunc(refusalLogInterval, func() {
		r.mu.Lock()
		line := &r.lines[i]
		count, log := line.waiting, line.log
		line.waiting = 0
		if count == 0 {
			line.log = nil
		}
		r.mu.Unlock()
		if count > 0 {
			log(count)
			r.endSilence(i)
		}
	})
}

// end is called when the stream is removed.
func (r *refusals) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended, r.lines = true, [len(allRefusals)]refusalLine{}
}

// load returns the counts, by reason.
func (r *refusals) load() map[refusal]uint64 {
	counts := make(map[refusal]uint64, len(allRefusals))
	for i, why := range allRefusals {
		counts[why] = r.counts[i].Load()
	}
	return counts
}

// refused counts a client that gets no stream for an error, and has it logged.
func (d *definition) refused(err error) {
	why := refusalOf(err)
	severity := zap.WarnLevel
	if why == refusedExit {
		severity = zap.InfoLevel
	}
	refusing := d.target()
	refusing.counted().refused.add(why, func(count uint64) { logRefused(refusing, severity, why, err, count) })
}

// logRefused logs with a configuration that is in use at the time: the one
// that refused may be gone.
func logRefused(refusing stream, severity zapcore.Level, why refusal, err error, count uint64) {
	def := refusing.inUse()
	if def == nil || len(def.services) == 0 {
		return
	}
	if entry := def.services[0].logger.Check(severity, "clients refused"); entry != nil {
		entry.Write(zap.String("stream", def.label), zap.String("reason", string(why)), zap.Uint64("count", count), zap.Error(err))
	}
}

// maxClients is the limit of the clients of a stream, 0 if there is none. It
// is each handler's own; the lowest is where the refusals begin.
func (d *definition) maxClients() int {
	if len(d.services) == 0 && d.clients != nil {
		return d.clients.resolve().maxClients
	}
	lowest := 0
	for _, h := range d.services {
		lowest = lowerLimit(lowest, h.settings.maxClients)
	}
	return lowest
}

// lowerLimit is the lower of two limits, where 0 is none.
func lowerLimit(a, b int) int {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}

func (h *hub) counted() *streamCounts         { return h.counts }
func (k *keyedStream) counted() *streamCounts { return k.counts }
