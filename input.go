package ssefanin

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
	"github.com/sse-fanin/caddy-sse-fanin/internal/urltext"
)

// input is one stream's use of a source: the listener that the source has of the
// stream. inputs owns it.
type input struct {
	hub      *hub
	name     string // of the upstream within the stream
	key      string // of the source
	source   *source
	use      *subscription
	sourceID uint32 // number of the name in the stream's tags
	shape    atomic.Pointer[shape]

	// from is the id of the event that the stream got last from the source in whose
	// place this one is; the lock of inputs protects it.
	from string

	// since has the source's counts when the stream joined it.
	since    upstreamCounts
	unwanted atomic.Uint64 // events that `events` drops
}

// newInput returns a stream's use of a source, not subscribed yet.
func newInput(h *hub, s *source, u *upstreamDef) *input {
	in := &input{hub: h, name: u.name, key: u.key, source: s, sourceID: h.tags.source(u.name, u.upstream)}
	in.since = s.countedSince()
	in.shape.Store(u.shape)
	return in
}

// names implements listener.
func (in *input) names() (upstream, streamName string) { return in.name, in.hub.label }

// deliver implements listener: it shapes an event and has it appended to the log.
func (in *input) deliver(ev *sse.Event, hadID bool, enc *encoder, now time.Time) {
	s := in.shape.Load()
	if !s.takes(ev.Type) {
		in.unwanted.Add(1)
		return
	}
	typ := s.finalType(enc, ev.Type)
	in.hub.publish(in, ev, typ, hadID, enc, now)
}

// hasRoom implements listener.
func (in *input) hasRoom() <-chan struct{} {
	if d := in.hub.log.Load().durable; d != nil {
		return d.hasRoom()
	}
	return nil
}

// stateChanged implements listener.
func (in *input) stateChanged(upOrDown bool) {
	if upOrDown {
		in.hub.sourceChanged()
	} else {
		in.hub.reasonChanged()
	}
}

// announce implements listener.
func (in *input) announce(up bool, why reason, text string) {
	announceState(in.hub.label, in.name, up, why, text)
}

// status returns the state of the source, without counts.
func (in *input) status() upstreamStatus {
	s := in.source
	st := s.status()
	us := upstreamStatus{
		Name:      in.name,
		Policy:    s.spec.Policy,
		State:     st.phase,
		Since:     unixMilli(st.since),
		LastEvent: s.counts.lastEvent.Load(),
	}
	if in.hub.keyed == nil { // the URLs of one key have its values filled in
		us.URLs = shownURLs(s.spec, s.addresses())
		us.replicas = s.replicas()
		for _, rep := range us.replicas {
			if rep.up {
				us.Connected = append(us.Connected, rep.url)
			}
		}
		us.partly = slices.ContainsFunc(s.spec.URLs, func(text string) bool { return urltext.Redact(text) != text })
	}
	if st.phase == phaseDown {
		us.RetryAt = unixMilli(st.retryAt)
	}
	if end := s.counts.lastEnd.Load(); end != nil {
		us.Reason, us.Error, us.endedAt = end.reason, end.text, end.at
		us.status, us.hint = end.status, end.hint
	}
	us.LastEventID = s.intake.lastID(in.use, shownID)
	return us
}

// count returns the source's counts since the stream joined it.
func (in *input) count() upstreamCounts {
	n := in.source.counts.load()
	n.combine(in.since, minus)
	n.unwanted = in.unwanted.Load()
	return n
}

// countedName is the name under which a source is counted: that of its upstream
// where addresses come and go, so that all names are configured ones.
func (in *input) countedName() string {
	if in.source.spec.Address != "" {
		if upstream := in.hub.tags.upstreamOf(in.name); upstream != "" {
			return upstream
		}
	}
	return in.name
}

// Interface guards
var _ listener = (*input)(nil)
