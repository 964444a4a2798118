package ssefanin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/sse-fanin/caddy-sse-fanin/internal/option"
	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
	"github.com/sse-fanin/caddy-sse-fanin/internal/urltext"
)

func init() {
	caddy.RegisterModule(StatusPage{})
	httpcaddyfile.RegisterHandlerDirective("sse_fanin_status", parseStatusPage)
	httpcaddyfile.RegisterDirectiveOrder("sse_fanin_status", httpcaddyfile.Before, "reverse_proxy")
}

const (
	defaultQuorum = 1

	// statusStep is the time between two snapshots to one viewer.
	statusStep = time.Second

	// With show_data: how many of the newest events are shown, and how much of
	// each, in bytes as stored. That is at most 40 KiB a stream and snapshot.
	newestEvents    = 10
	newestEventSize = 4 << 10
)

// statusTimeout is how long writing one snapshot may take.
var statusTimeout = 10 * time.Second // longer in a test

// StatusPage shows operators what the streams of this process do: as a page, as
// JSON, or as a stream of one JSON snapshot a second, whichever the client
// accepts. Asked for `?ready`, it reports whether the streams are fed, for load
// balancers.
//
// It is for operators: names, addresses and errors of the upstreams are shown
// to everyone who may open it.
type StatusPage struct {
	// The names of the streams to show. Default: all of the process.
	Streams []string `json:"streams,omitempty"`

	// How many upstreams of each stream must be up for `?ready`. It does not
	// concern streams that are connected on demand. Default: 1.
	Quorum int `json:"quorum,omitempty"`

	// Show the newest events of each stream with their data. Default: false,
	// types only.
	ShowData bool `json:"show_data,omitempty"`

	node string

	// ended is done when the viewers of this configuration are to go.
	ended context.Context
	end   context.CancelFunc
}

// CaddyModule returns the Caddy module information.
func (StatusPage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sse_fanin_status",
		New: func() caddy.Module { return new(StatusPage) },
	}
}

// Provision validates the configuration.
func (p *StatusPage) Provision(ctx caddy.Context) error {
	if err := p.validate(); err != nil {
		return err
	}
	val, err := ctx.App("sse_fanin")
	if err != nil {
		return fmt.Errorf("getting the sse_fanin app: %w", err)
	}
	app := val.(*App)
	for _, name := range p.Streams {
		if app.byKey[namedKey(name)] == nil && !app.definedLater(name) {
			return errUndefined(name, app.streamNames())
		}
	}
	if p.Quorum == 0 {
		p.Quorum = defaultQuorum
	}
	// which node it is that a load balancer has chosen; nothing depends on it
	p.node, _ = os.Hostname()
	p.ended, p.end = context.WithCancel(exitBegun)
	return nil
}

func (p *StatusPage) validate() error {
	seen := make(map[string]bool)
	for _, name := range p.Streams {
		if err := checkName("stream", name); err != nil {
			return err
		}
		if seen[name] {
			return fmt.Errorf("stream '%s' is listed twice", name)
		}
		seen[name] = true
	}
	if p.Quorum < 0 {
		return fmt.Errorf("quorum: %d is less than 1", p.Quorum)
	}
	return nil
}

// Cleanup ends the viewers. EventSource comes back, to the next configuration.
func (p *StatusPage) Cleanup() error {
	if p.end != nil {
		p.end()
	}
	return nil
}

// ServeHTTP serves the status. It does not call the next handler.
func (p *StatusPage) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	ignoreBody(w, r)
	leaveServer(w, r)
	header := w.Header()
	header.Add("Vary", "Accept")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodOptions:
		answerOptions(w)
		return nil
	default:
		header.Set("Allow", allowedMethods)
		return caddyhttp.Error(http.StatusMethodNotAllowed, fmt.Errorf("method %s is not allowed on the status", r.Method))
	}
	if r.URL.Query().Has("ready") {
		return p.serveReady(w, r)
	}
	switch accepted(r.Header.Values("Accept"), typeJSON, typeHTML, typeEvents) {
	case typeHTML:
		header.Set("Content-Type", typeHTML+"; charset=utf-8")
		header.Set("Content-Security-Policy", statusPolicy)
		return writeBody(w, r, http.StatusOK, statusHTML)
	case typeJSON:
		if missing := p.undefined(); missing != nil {
			return caddyhttp.Error(http.StatusServiceUnavailable, missing)
		}
		return writeStatusJSON(w, r, http.StatusOK, p.snapshot())
	case typeEvents:
		if missing := p.undefined(); missing != nil {
			return caddyhttp.Error(http.StatusServiceUnavailable, missing)
		}
		return p.serveEvents(w, r)
	default:
		return caddyhttp.Error(http.StatusNotAcceptable, fmt.Errorf("the status comes as %s, %s or %s", typeHTML, typeJSON, typeEvents))
	}
}

// statusSnapshot is the status at one time.
type statusSnapshot struct {
	Time    int64         `json:"time"` // Unix milliseconds
	Node    string        `json:"node"`
	Streams []shownStream `json:"streams"`
	// What is wrong, the worst first.
	Troubles []trouble `json:"troubles"`
	// The beginning of a command for the admin API; empty while that is off.
	Admin string `json:"admin"`
}

// shownStream is a stream as the page shows it.
type shownStream struct {
	streamStatus

	// The newest events, newest first; with show_data only.
	Recent []recentEvent `json:"recent,omitempty"`

	// The last hour, or what has come to it since the snapshot before; in the
	// stream of snapshots only.
	History *shownHistory `json:"history,omitempty"`
}

type recentEvent struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	Time int64  `json:"time"` // of its arrival, Unix milliseconds
	Data string `json:"data"` // cut where it is long
}

func (p *StatusPage) snapshot() statusSnapshot {
	s := statusSnapshot{Node: p.node, Streams: []shownStream{}}
	if adminOn.Load() > 0 {
		s.Admin = adminCommand("")
	}
	all := p.streams()
	for _, st := range all {
		shown := shownStream{streamStatus: st}
		if p.ShowData && !st.Keyed && !st.Removed {
			shown.Recent = recentOf(st.Name)
		}
		s.Streams = append(s.Streams, shown)
	}
	now := time.Now()
	s.Time = now.UnixMilli() // nothing in it is later
	s.Troubles = streamSampler.troubles(all, now)
	return s
}

// streams returns the status of the streams that are to be shown.
func (p *StatusPage) streams() []streamStatus {
	all := snapshotStreams()
	if len(p.Streams) == 0 {
		return all
	}
	return slices.DeleteFunc(all, func(st streamStatus) bool { return !slices.Contains(p.Streams, st.Name) })
}

// undefined returns an error if a listed stream does not exist: not every
// configuration that lists one can be refused when it is loaded.
func (p *StatusPage) undefined() error {
	all := p.streams()
	for _, name := range p.Streams {
		if !slices.ContainsFunc(all, func(st streamStatus) bool { return st.Name == name }) {
			return errUndefined(name, labelsOf(snapshotStreams()))
		}
	}
	return nil
}

// labelsOf are the names of streams, each once.
func labelsOf(all []streamStatus) []string {
	names := make([]string, 0, len(all))
	for _, st := range all {
		names = append(names, st.Name)
	}
	return slices.Compact(names) // they are sorted
}

// recentOf returns the newest events of a stream, newest first.
func recentOf(name string) []recentEvent {
	var log *streamLog
	hubs.Range(func(_, value any) bool { // the configured ones
		if h := value.(*hub); h.label == name {
			log = h.log.Load()
		}
		return log == nil
	})
	if log == nil {
		return nil
	}
	log.expire(time.Now())
	var events []recentEvent
	log.newest(newestEvents, func(stored []byte, arrived int64) {
		if ev, ok := decodeRecent(stored); ok {
			ev.Time = arrived
			events = append(events, ev)
		}
	})
	slices.Reverse(events)
	return events
}

// decodeRecent decodes one stored event, of which it looks at the beginning.
func decodeRecent(stored []byte) (ev recentEvent, ok bool) {
	cut := len(stored) > newestEventSize
	if cut {
		stored = append(stored[:newestEventSize:newestEventSize], "\n\n"...)
	}
	sse.NewDecoder(newestEventSize).Decode(stored, func(e *sse.Event) {
		data := string(e.Data)
		if cut {
			data = strings.ToValidUTF8(data, "") + "…"
		}
		ev, ok = recentEvent{Type: string(e.Type), ID: string(e.ID), Data: data}, true
		if ev.Type == "" {
			ev.Type = "message"
		}
	})
	return ev, ok
}

// readiness is the answer to ?ready.
type readiness struct {
	Ready   bool           `json:"ready"`
	Missing []missingInput `json:"missing,omitempty"`
}

type missingInput struct {
	Stream string   `json:"stream"`
	Up     int      `json:"up"`
	Quorum int      `json:"quorum"` // 0: none is asked for
	Down   []string `json:"down"`   // the upstreams that are not up
	Error  string   `json:"error,omitempty"`
}

func (p *StatusPage) serveReady(w http.ResponseWriter, r *http.Request) error {
	missing := p.missing(p.streams(), time.Now())
	status := http.StatusOK
	if len(missing) > 0 {
		status = http.StatusServiceUnavailable
	}
	return writeStatusJSON(w, r, status, readiness{Ready: len(missing) == 0, Missing: missing})
}

// missing returns the streams that are not fed as they should be. The upstreams
// of one that another process writes are not this one's.
func (p *StatusPage) missing(all []streamStatus, now time.Time) []missingInput {
	var missing []missingInput
	seen := make(map[string]bool)
	for _, st := range all {
		if st.Removed {
			continue
		}
		seen[st.Name] = true
		if st.Keyed {
			continue
		}
		m := missingInput{Stream: st.Name, Down: []string{}, Error: st.Log.Store.unready(now)}
		if !st.OnDemand && !st.Log.Store.follows() {
			m.Quorum = p.Quorum
			for _, u := range st.Upstreams {
				if u.State == phaseUp {
					m.Up++
				} else {
					m.Down = append(m.Down, u.Name)
				}
			}
		}
		if m.Up < m.Quorum || m.Error != "" {
			missing = append(missing, m)
		}
	}
	for _, name := range p.Streams {
		if !seen[name] {
			missing = append(missing, missingInput{Stream: name, Quorum: p.Quorum, Down: []string{}, Error: errUndefined(name, nil).Error()})
		}
	}
	return missing
}

func writeStatusJSON(w http.ResponseWriter, r *http.Request, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return caddyhttp.Error(http.StatusInternalServerError, fmt.Errorf("encoding the status: %w", err))
	}
	w.Header().Set("Content-Type", typeJSON)
	return writeBody(w, r, status, append(body, '\n'))
}

// serveEvents writes a snapshot a second until the viewer, the configuration
// or the process ends. The header is written in any case: from there on,
// nothing may be reported any more.
func (p *StatusPage) serveEvents(w http.ResponseWriter, r *http.Request) error {
	writeHeader(w)
	if r.Method == http.MethodHead {
		return nil
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	body := bodyOf(w, r)
	defer body.stop()
	body.start(cancel)
	v := newViewer(w, r)
	defer v.close()
	stop := context.AfterFunc(p.ended, func() {
		cancel()
		v.cut()
	})
	defer stop()
	var hard <-chan time.Time
	if at := v.deadline.hard; !at.IsZero() {
		left := time.Until(at)
		timer := time.NewTimer(left - min(hardMargin, left/4))
		defer timer.Stop()
		hard = timer.C
	}

	again := time.NewTicker(statusStep)
	defer again.Stop()
	buf := sse.AppendRetry(nil, statusStep)
	var read historyRead
	for {
		next := p.snapshot()
		streamSampler.read(next.Streams, &read)
		data, err := json.Marshal(next)
		if err != nil {
			return nil // strings and numbers cannot fail
		}
		buf = sse.AppendEvent(buf, &sse.Event{Data: data})
		if err := v.write(buf); err != nil {
			return nil
		}
		buf = buf[:0]
		select {
		case <-ctx.Done():
			return nil
		case <-hard:
			return nil
		case <-again.C:
		}
	}
}

// parseStatusPage parses the directive.
func parseStatusPage(helper httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	p := new(StatusPage)
	return p, p.UnmarshalCaddyfile(helper.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens:
//
//	sse_fanin_status [<matcher>] [<stream>...] {
//		quorum    <n>
//		show_data
//	}
func (p *StatusPage) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	for d.NextArg() {
		name := d.Val()
		if err := checkNameArgument("stream", name); err != nil {
			return d.WrapErr(err)
		}
		if slices.Contains(p.Streams, name) {
			return d.Errf("stream '%s' is listed twice", name)
		}
		p.Streams = append(p.Streams, name)
	}
	_, err := option.Block(d, func() (err error) {
		switch d.Val() {
		case "quorum":
			p.Quorum, err = option.Number(d, 1, "<n>")
		case "show_data":
			p.ShowData, err = true, alone(d)
		default:
			err = unrecognized(d, "", []string{"quorum", "show_data"})
		}
		return err
	})
	return err
}

// alone makes sure that the current subdirective stands alone.
func alone(d *caddyfile.Dispenser) error {
	setting := d.Val()
	if d.NextArg() {
		return d.Errf("%s: unexpected '%s', expected %s alone", setting, urltext.Redact(d.Val()), setting)
	}
	return option.NoBlock(d, "expected "+setting+" alone")
}

// Interface guards
var (
	_ caddy.Provisioner           = (*StatusPage)(nil)
	_ caddy.CleanerUpper          = (*StatusPage)(nil)
	_ caddyhttp.MiddlewareHandler = (*StatusPage)(nil)
	_ caddyfile.Unmarshaler       = (*StatusPage)(nil)
)
