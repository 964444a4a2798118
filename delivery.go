package ssefanin

import (
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// sent is the record of one client's deliveries.
type sent struct {
	events, bytes, replayed, gaps uint64

	head uint64 // of the log when the client came: up to it, events are replayed
}

// countWrite counts a flushed write: a few atomics, however many events it had.
func (c *client) countWrite(bytes, events int, now time.Time) {
	counts := c.hub.counts
	c.sent.bytes += uint64(bytes)
	counts.bytes.Add(uint64(bytes))
	if events == 0 {
		return
	}
	n := uint64(events)
	c.sent.events += n
	counts.events.Add(n)
	last := c.at.reader.Position() - 1
	if first := last - n + 1; first <= c.sent.head {
		replayed := min(last, c.sent.head) - first + 1
		c.sent.replayed += replayed
		counts.replayed.Add(replayed)
	}
	if last > c.sent.head { // a replayed event's age is no delay
		// It arrived while the client was here. Any other result is no delay,
		// but a wall clock that was set in between.
		delay := now.UnixMilli() - c.at.reader.Arrived()
		if here := (monotonic(now) - c.sub.came) / int64(time.Millisecond); delay >= 0 && delay <= here+1 {
			counts.delay.observe(delay)
		}
	}
}

// countReplayed counts last values that were written.
func (c *client) countReplayed(n uint64) {
	c.sent.events += n
	c.sent.replayed += n
	c.hub.counts.events.Add(n)
	c.hub.counts.replayed.Add(n)
}

// countGap counts a gap and announces it to the configuration's event handlers.
func (c *client) countGap(why string, missed *uint64) {
	c.sent.gaps++
	c.hub.counts.gap(why)
	n := uint64(0)
	if missed != nil {
		n = *missed
	}
	announceGap(c.hub.label, why, n)
}

// logSent adds the deliveries to the request's line in the access log.
func (c *client) logSent(r *http.Request) {
	extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields)
	if !ok {
		return
	}
	for _, field := range c.logFields() {
		extra.Add(field)
	}
}

// logFields are the client's deliveries, for the access log.
func (c *client) logFields() []zap.Field {
	return []zap.Field{
		zap.Uint64("sse_events", c.sent.events),
		zap.Uint64("sse_bytes", c.sent.bytes),
		zap.Uint64("sse_replayed", c.sent.replayed),
		zap.Uint64("sse_gaps", c.sent.gaps),
		zap.String("sse_end", string(c.ended)),
	}
}
