package ssefanin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/option"
)

// Defaults of the configuration, as docs/configuration.md lists them.
const (
	defaultBackoffBase  = time.Second
	defaultBackoffMax   = time.Minute
	defaultMaxEventSize = 1 << 20
	defaultRetainEvents = 10_000
	defaultRetainSize   = 64 << 20
	defaultHeartbeat    = 15 * time.Second
	defaultRetryMin     = 2 * time.Second
	defaultRetryMax     = 5 * time.Second
	defaultWriteTimeout = 10 * time.Second
	defaultDrain        = 5 * time.Second
	defaultLinger       = 30 * time.Second
	defaultMaxStreams   = 1000
	defaultLastValues   = 10_000

	// of each stream of a keyed one
	defaultKeyedMaxEventSize = 256 << 10
	defaultKeyedRetainEvents = 1000
	defaultKeyedRetainSize   = 1 << 20
)

// Limits of the configuration.
const (
	// leastDuration is the shortest time that makes sense for anything here.
	// In JSON, a duration that was meant in seconds and came as a number is
	// nanoseconds, and found out by this.
	leastDuration = time.Millisecond

	// mostEventSize keeps an event within what the log can store (4 GiB), with
	// room for the additions of shaping.
	mostEventSize = 1 << 30

	// mostRetainSize is above any memory there is; more is a mistake.
	mostRetainSize = 1 << 40

	// mostRetainEvents is the largest number that fits int everywhere.
	mostRetainEvents = 1<<31 - 1
)

// The words of the settings that are a choice.
const (
	idsStream   = "stream"
	idsUpstream = "upstream"
	idsNone     = "none"

	policyFailover = "failover"
	policyMirror   = "mirror"
	policyBalance  = "balance"
	policyMerge    = "merge"

	envelopeJSON = "json"

	connectEager    = "eager"
	connectOnDemand = "on_demand"

	resumeOn  = "on"
	resumeOff = "off"

	startLive   = "live"
	startOldest = "oldest"
	startValues = "last_value"

	primeAuto = "auto"
	primeOn   = "on"
	primeOff  = "off"

	slowSkip       = "skip"
	slowDisconnect = "disconnect"

	fullReject = "reject"
	fullRetry  = "retry"

	reloadKeep  = "keep"
	reloadDrain = "drain"
)

// Stream configures one merged stream: where its events come from, how many
// of them are kept, and how clients are served.
type Stream struct {
	// The sources of events. Each is connected once per process, however many
	// streams name it.
	Upstreams []*Upstream `json:"upstreams,omitempty"`

	// Defaults for every upstream of the stream.
	UpstreamOptions

	// How many events are kept for clients that come back. Whichever bound is
	// reached first counts.
	// Default: 10000 events, 64 MiB, any age.
	Retain *Retain `json:"retain,omitempty"`

	// Where the retained events are kept besides memory, so that they outlive the
	// process. It needs the stream's name. Default: nowhere.
	LogRaw json.RawMessage `json:"log,omitempty" caddy:"namespace=http.handlers.sse_fanin.log inline_key=kind"`

	// Which last values are kept for longer than events are: the newest event of
	// each source, type and key. Clients get them with `start last_value`, and after
	// a gap. Default: none.
	LastValue *LastValue `json:"last_value,omitempty"`

	// The `id` that clients get with each event: `stream` is the position in
	// the merged stream, with which a client resumes; `upstream` passes on the
	// upstream's own id, for streams of one upstream; `none` writes no id, and
	// nothing can be resumed. Default: `stream`.
	IDs string `json:"ids,omitempty"`

	// `json` wraps the data of each event: {"source","type","id","time","data"}.
	// Default: none, the data is passed on as it is.
	Envelope string `json:"envelope,omitempty"`

	// Whether clients get `fanin.source` events when an upstream goes up or
	// down. Default: `off`.
	SourceEvents option.Switch `json:"source_events,omitempty"`

	// Whether upstreams are connected always (`eager`) or only while there are
	// clients (`on_demand`). Default: `eager`; keyed streams are on demand.
	Connect *Connect `json:"connect,omitempty"`

	// How many streams a keyed stream may have at once, one for each key.
	// Default: 1000.
	MaxStreams int `json:"max_streams,omitempty"`

	ClientSettings
}

// Upstream is one source of events.
type Upstream struct {
	// The name used in logs, of letters, digits and `_.-`.
	// Default: host and path of the first URL, every other character `-`.
	Name string `json:"name,omitempty"`

	// The URLs of the upstream: http://, https:// or
	// unix//path/to.sock|/path/of/the/request. Placeholders such as `{env.*}`
	// are evaluated once, when the configuration is loaded; placeholders of the
	// request make the stream a keyed one. Several URLs are replicas of the
	// same content, see policy.
	URLs []string `json:"urls,omitempty"`

	// The treatment of several URLs or addresses: `failover` connects one, and
	// the next when it fails; `mirror` connects all and delivers each event
	// once; `balance` is failover in an order that differs from node to node
	// and from key to key; `merge` takes each as a source of its own.
	// Default: `failover`; with dynamic addresses `merge`.
	Policy string `json:"policy,omitempty"`

	// Where the addresses to dial for the one URL come from: an upstream
	// source module of `reverse_proxy`.
	DynamicRaw json.RawMessage `json:"dynamic,omitempty" caddy:"namespace=http.reverse_proxy.upstreams inline_key=source"`

	UpstreamOptions
}

// UpstreamOptions are the settings of an upstream's connections.
type UpstreamOptions struct {
	// Changes to the request's header, as in `reverse_proxy`. Placeholders such
	// as `{env.*}` and `{file.*}` are evaluated at every dial. The stream's
	// changes come first, then the upstream's own.
	HeaderUp *headers.HeaderOps `json:"header_up,omitempty"`

	// How to connect: an HTTP transport module of `reverse_proxy`.
	// Default: `http`.
	TransportRaw json.RawMessage `json:"transport,omitempty" caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`

	// Whether to ask for missed events (`Last-Event-ID`) when reconnecting, and
	// to drop repeated ones: `on`, `off`, or an id to begin with at the very
	// first connection.
	// Default: `on`.
	Resume string `json:"resume,omitempty"`

	// How long to wait before reconnecting. Default: `1s` to `1m`.
	Backoff *Backoff `json:"backoff,omitempty"`

	// How long an upstream may send nothing at all before it is reconnected.
	// 0 is no limit. Default: no limit.
	IdleTimeout *caddy.Duration `json:"idle_timeout,omitempty"`

	// The largest event that is taken over, in bytes; larger ones are skipped.
	// At most 1 GiB, and at most the size of all that is retained.
	// Default: 1 MiB.
	// For keyed streams 256 KiB.
	MaxEventSize int64 `json:"max_event_size,omitempty"`

	// Only events of these types are taken over (`message` for unnamed ones). `*`
	// stands for any characters.
	// Default: all.
	Events []string `json:"events,omitempty"`

	// Put before the type of every event (unnamed ones are `message`).
	// Default: none.
	Prefix string `json:"prefix,omitempty"`
}

// Connect determines when upstreams are connected. In JSON the mode alone may
// stand for it.
type Connect struct {
	// `eager` or `on_demand`. Default: `eager`.
	Mode string `json:"mode,omitempty"`

	// How long upstreams stay connected after the last client has left.
	// Default: `30s`.
	Linger *caddy.Duration `json:"linger,omitempty"`
}

// UnmarshalJSON accepts an object or the mode.
func (c *Connect) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &c.Mode)
	}
	type plain Connect
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	return dec.Decode((*plain)(c))
}

// Backoff is the wait before a reconnect: base + random(0, min(max, base·2ⁿ) − base)
// after n failures in a row.
type Backoff struct {
	// The shortest wait. Replaced by the upstream's own `retry:`. Default: `1s`.
	Base caddy.Duration `json:"base,omitempty"`

	// The longest wait. Default: `1m`.
	Max caddy.Duration `json:"max,omitempty"`
}

// Retain bounds the events that are kept.
type Retain struct {
	// The largest number of events. 0 is any. Default: 10000.
	Events *int `json:"events,omitempty"`

	// The most memory, in bytes; with a log besides memory, the most room there.
	// Default: 64 MiB.
	Size int64 `json:"size,omitempty"`

	// The greatest age of an event. 0 is any. Default: 0.
	Age caddy.Duration `json:"age,omitempty"`
}

// longest is the longest duration that is of use. Clocks are Unix nanoseconds,
// which end in 2262: the time that a longer one leads to might be in the past.
const longest = 100 * 365 * 24 * time.Hour

// given reports whether there is JSON; null stands for none.
func given(raw json.RawMessage) bool {
	return len(raw) > 0 && string(raw) != "null"
}

func durationOr(d *caddy.Duration, def time.Duration) time.Duration {
	if d == nil {
		return def
	}
	return min(time.Duration(*d), longest)
}

func wordOr(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// checkDuration validates a duration. With orOff, 0 is one, too.
func checkDuration(setting string, d caddy.Duration, orOff bool) error {
	switch dur := time.Duration(d); {
	case dur < 0:
		return fmt.Errorf("%s: %s is negative", setting, dur)
	case dur == 0 && orOff, dur >= leastDuration:
		return nil
	case orOff:
		return fmt.Errorf("%s: %s is too short, it must be 0 or at least %s", setting, dur, leastDuration)
	default:
		return fmt.Errorf("%s: %s is too short, it must be at least %s", setting, dur, leastDuration)
	}
}

// checkGiven does the same for a duration that may be absent.
func checkGiven(setting string, d *caddy.Duration, orOff bool) error {
	if d == nil {
		return nil
	}
	return checkDuration(setting, *d, orOff)
}

// validate validates the upstream options that were given.
func (o *UpstreamOptions) validate() error {
	if b := o.Backoff; b != nil {
		if b.Base == 0 && b.Max == 0 {
			return fmt.Errorf("backoff: neither base nor max is above 0; upstreams would be reconnected without a pause")
		}
		for _, wait := range []caddy.Duration{b.Base, b.Max} {
			if wait == 0 { // the default
				continue
			}
			if err := checkDuration("backoff", wait, false); err != nil {
				return err
			}
		}
		base := time.Duration(b.Base)
		if base == 0 {
			base = defaultBackoffBase
		}
		if b.Max != 0 && time.Duration(b.Max) < base {
			return fmt.Errorf("backoff: the maximum %s is below the base %s", time.Duration(b.Max), base)
		}
	}
	if err := checkGiven("idle_timeout", o.IdleTimeout, true); err != nil {
		return err
	}
	if err := option.CheckSize("max_event_size", o.MaxEventSize, mostEventSize); err != nil {
		return err
	}
	if strings.ContainsFunc(o.Resume, isControl) {
		return fmt.Errorf("resume: an event id in a request cannot contain control characters")
	}
	if p := findRequestPlaceholder(o.Resume); p != "" {
		return fmt.Errorf("resume: the placeholder %s belongs to a client's request; placeholders may stand in the path and the query of a URL and in header_up", p)
	}
	for _, typ := range o.Events {
		if typ == "" || strings.ContainsAny(typ, "\r\n") {
			return fmt.Errorf("events: '%s' is not the type of an event; unnamed events are '%s'", typ, unnamedType)
		}
	}
	if strings.HasPrefix(o.Prefix, controlPrefix) {
		return fmt.Errorf("prefix: '%s' begins with '%s', which is kept for the module's own events", o.Prefix, controlPrefix)
	}
	if strings.ContainsAny(o.Prefix, "\r\n") {
		return fmt.Errorf("prefix: a type cannot contain line ends")
	}
	return checkHeaderUp(o.HeaderUp)
}

// isControl reports whether r is a character that no field of a header may
// have.
func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// validField matches the names of header fields, and '*' in its place.
var validField = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")

// checkHeaderUp rejects operations that would fail at every dial.
func checkHeaderUp(ops *headers.HeaderOps) error {
	if ops == nil {
		return nil
	}
	fields := slices.Clone(ops.Delete)
	for _, h := range []http.Header{ops.Add, ops.Set} {
		for field, values := range h {
			fields = append(fields, field)
			for _, value := range values {
				if strings.ContainsFunc(value, isControl) {
					return fmt.Errorf("header_up: the value of '%s' cannot contain control characters", shownField(field))
				}
			}
		}
	}
	fields = slices.AppendSeq(fields, maps.Keys(ops.Replace))
	for _, field := range fields {
		if !validField.MatchString(field) && !hasPlaceholder(field) {
			return fmt.Errorf("header_up: '%s' is not the name of a header field", shownField(field))
		}
	}
	for field, replacements := range ops.Replace {
		for _, r := range replacements {
			if r.Search != "" && r.SearchRegexp != "" {
				return fmt.Errorf("header_up: '%s' has both a substring and a regular expression to search for", shownField(field))
			}
			if _, err := regexp.Compile(r.SearchRegexp); err != nil && !hasPlaceholder(r.SearchRegexp) {
				return fmt.Errorf("header_up: '%s': %w", shownField(field), err)
			}
		}
	}
	return nil
}

// shownField is the name of a header field for errors, without the value that
// may have slipped into it.
func shownField(field string) string {
	if i := strings.IndexAny(field, ": \t="); i >= 0 && i+1 < len(field) {
		return field[:i+1] + "…"
	}
	return field
}

func (r *Retain) validate() error {
	switch {
	case r.Events == nil:
	case *r.Events < 0:
		return fmt.Errorf("retain: events: %d is negative", *r.Events)
	case int64(*r.Events) > mostRetainEvents:
		return fmt.Errorf("retain: events: %d is too much, it must be at most %d", *r.Events, mostRetainEvents)
	}
	if err := option.CheckSize("retain: size", r.Size, mostRetainSize); err != nil {
		return err
	}
	return checkDuration("retain: age", r.Age, true)
}

// validate validates the stream's own settings, without its upstreams.
func (s *Stream) validate() error {
	for _, err := range []error{
		option.CheckWord("ids", s.IDs, idsStream, idsUpstream, idsNone),
		option.CheckWord("envelope", s.Envelope, envelopeJSON),
		option.CheckWord("source_events", string(s.SourceEvents), option.On, option.Off),
	} {
		if err != nil {
			return err
		}
	}
	if c := s.Connect; c != nil {
		if err := option.CheckWord("connect", c.Mode, connectEager, connectOnDemand); err != nil {
			return err
		}
		if err := checkGiven("connect", c.Linger, true); err != nil {
			return err
		}
		if c.Linger != nil && c.Mode != connectOnDemand {
			return fmt.Errorf("connect: a linger belongs to '%s'", connectOnDemand)
		}
	}
	if s.MaxStreams < 0 {
		return fmt.Errorf("max_streams: %d is negative", s.MaxStreams)
	}
	if s.Retain != nil {
		if err := s.Retain.validate(); err != nil {
			return err
		}
	}
	if s.LastValue != nil {
		if err := s.LastValue.validate(); err != nil {
			return err
		}
	}
	if err := s.UpstreamOptions.validate(); err != nil {
		return err
	}
	return s.ClientSettings.validate()
}

// hasSourceSide returns a setting that was given and is not a client setting;
// empty if there is none.
func (s *Stream) hasSourceSide() string {
	switch {
	case len(s.Upstreams) > 0:
		return "upstream"
	case s.Retain != nil:
		return "retain"
	case given(s.LogRaw):
		return "log"
	case s.LastValue != nil:
		return "last_value"
	case s.IDs != "":
		return "ids"
	case s.Envelope != "":
		return "envelope"
	case s.SourceEvents != "":
		return "source_events"
	case s.Connect != nil:
		return "connect"
	case s.MaxStreams != 0:
		return "max_streams"
	case s.Events != nil:
		return "events"
	case s.Prefix != "":
		return "prefix"
	case s.HeaderUp != nil:
		return "header_up"
	case given(s.TransportRaw):
		return "transport"
	case s.Resume != "":
		return "resume"
	case s.Backoff != nil:
		return "backoff"
	case s.IdleTimeout != nil:
		return "idle_timeout"
	case s.MaxEventSize != 0:
		return "max_event_size"
	}
	return ""
}

// keyed returns a placeholder that makes the stream a keyed one, or "".
func (s *Stream) keyed() string {
	all := []*headers.HeaderOps{s.HeaderUp}
	var texts []string
	for _, u := range s.Upstreams {
		if u != nil {
			all = append(all, u.HeaderUp)
			texts = append(texts, u.URLs...)
		}
	}
	if names := append(placeholdersIn(texts...), headerPlaceholders(all...)...); len(names) > 0 {
		return "{" + names[0] + "}"
	}
	return ""
}

// policy returns the upstream's policy, or its default.
func (u *Upstream) policy() string {
	if u.Policy == "" && given(u.DynamicRaw) {
		return policyMerge
	}
	return wordOr(u.Policy, policyFailover)
}

// retainOptions returns the bounds of the log.
func (s *Stream) retainOptions() eventlog.Options {
	o := eventlog.Options{
		MaxEvents: defaultRetainEvents,
		MaxBytes:  defaultRetainSize,
		IDs:       wordOr(s.IDs, idsStream) == idsStream,
	}
	if s.keyed() != "" {
		o.MaxEvents, o.MaxBytes = defaultKeyedRetainEvents, defaultKeyedRetainSize
	}
	if s.Retain != nil {
		if s.Retain.Events != nil {
			o.MaxEvents = *s.Retain.Events
		}
		if s.Retain.Size != 0 {
			o.MaxBytes = s.Retain.Size
		}
		o.MaxAge = time.Duration(s.Retain.Age)
	}
	return o
}
