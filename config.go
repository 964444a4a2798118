package ssefanin

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
)

// Defaults of the configuration, as the README lists them.
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
)

// The words of the settings that are a choice.
const (
	idsStream = "stream"
	idsNone   = "none"

	resumeOn  = "on"
	resumeOff = "off"

	startLive   = "live"
	startOldest = "oldest"

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

	// The `id` that clients get with each event: `stream` is the position in
	// the merged stream, with which a client resumes; `none` writes no id, and
	// nothing can be resumed. Default: `stream`.
	IDs string `json:"ids,omitempty"`

	ClientSettings
}

// Upstream is one source of events.
type Upstream struct {
	// The name used in logs, of letters, digits and `_.-`.
	// Default: host and path of the first URL, every other character `-`.
	Name string `json:"name,omitempty"`

	// The URLs of the upstream: http://, https:// or
	// unix//path/to.sock|/path/of/the/request. Placeholders such as `{env.*}`
	// are evaluated once, when the configuration is loaded.
	URLs []string `json:"urls,omitempty"`

	UpstreamOptions
}

// UpstreamOptions say how an upstream is connected.
type UpstreamOptions struct {
	// Changes to the request's header, as in `reverse_proxy`. Placeholders such
	// as `{env.*}` and `{file.*}` are evaluated at every dial. The stream's
	// changes come first, then the upstream's own.
	HeaderUp *headers.HeaderOps `json:"header_up,omitempty"`

	// How to connect: an HTTP transport module of `reverse_proxy`.
	// Default: `http`.
	TransportRaw json.RawMessage `json:"transport,omitempty" caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`

	// Whether to ask for what was missed (`Last-Event-ID`) when reconnecting:
	// `on`, `off`, or an id to begin with at the very first connection.
	// Default: `on`.
	Resume string `json:"resume,omitempty"`

	// How long to wait before reconnecting. Default: `1s` to `1m`.
	Backoff *Backoff `json:"backoff,omitempty"`

	// How long an upstream may send nothing at all before it is reconnected.
	// 0 is no limit. Default: no limit.
	IdleTimeout *caddy.Duration `json:"idle_timeout,omitempty"`

	// The largest event that is taken over, in bytes; larger ones are skipped.
	// Default: 1 MiB.
	MaxEventSize int64 `json:"max_event_size,omitempty"`
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
	// The largest number of events. Default: 10000.
	Events int `json:"events,omitempty"`

	// The most memory, in bytes. Default: 64 MiB.
	Size int64 `json:"size,omitempty"`

	// The greatest age of an event. 0 is any. Default: 0.
	Age caddy.Duration `json:"age,omitempty"`
}

// ClientSettings say how clients are served. They belong to a handler, never
// to the identity of a stream; in a stream of the global options they are the
// defaults for the handlers that name it.
type ClientSettings struct {
	// Where a client without a position begins: `live` (now), `oldest`
	// (everything retained), or a number (the last n). Default: `live`.
	Start Start `json:"start,omitempty"`

	// How often a comment is sent to a client that gets nothing else. 0 is
	// never. Default: `15s`.
	Heartbeat *caddy.Duration `json:"heartbeat,omitempty"`

	// The range from which each client's reconnection time is drawn.
	// Default: `2s` to `5s`.
	Retry *RetryRange `json:"retry,omitempty"`

	// What becomes of a client so slow that events it has not got yet are
	// dropped from the retained ones: `skip` tells it so and goes on,
	// `disconnect` ends it. Default: `skip`.
	Slow string `json:"slow,omitempty"`

	// How long one write to a client may take. Default: `10s`.
	WriteTimeout *caddy.Duration `json:"write_timeout,omitempty"`

	// How many clients the stream may have, over all handlers. 0 is no limit.
	// Default: 0.
	MaxClients *int `json:"max_clients,omitempty"`

	// What the next client gets when the stream is full: `reject` is a 503
	// with Retry-After, `retry` is a stream that ends at once with a long
	// reconnection time (EventSource never comes back from a 503).
	// Default: `reject`.
	WhenFull string `json:"when_full,omitempty"`

	// How long a client may stay; each ends after 80 to 100 % of it. 0 is for
	// ever. Default: 0.
	MaxAge *caddy.Duration `json:"max_age,omitempty"`

	// The time over which clients are ended when their stream is removed.
	// Default: `5s`.
	Drain *caddy.Duration `json:"drain,omitempty"`

	// What a reload does to connected clients: `keep` leaves them alone,
	// `drain` ends them over the drain time, so that they come back under the
	// new configuration. Default: `keep`.
	OnReload string `json:"on_reload,omitempty"`
}

// RetryRange is the range of the reconnection times told to clients.
type RetryRange struct {
	// The shortest. Default: `2s`.
	Min caddy.Duration `json:"min,omitempty"`

	// The longest. Default: `5s`, or the shortest where that is longer.
	Max caddy.Duration `json:"max,omitempty"`
}

// Start is where a client without a position begins: `live`, `oldest` or a
// number of events. In JSON a number may also stand without quotes.
type Start string

// UnmarshalJSON accepts a string or a number.
func (s *Start) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] != '"' {
		var n uint64
		if err := json.Unmarshal(b, &n); err != nil {
			return fmt.Errorf("start: %s is neither live, oldest nor a number of events", b)
		}
		*s = Start(strconv.FormatUint(n, 10))
		return nil
	}
	return json.Unmarshal(b, (*string)(s))
}

func (s Start) validate() error {
	if s == "" || s == startLive || s == startOldest {
		return nil
	}
	if _, err := strconv.ParseUint(string(s), 10, 63); err != nil {
		return fmt.Errorf("start: '%s' is neither live, oldest nor a number of events", s)
	}
	return nil
}

// checkWord says whether a setting has one of its words, or none.
func checkWord(setting, got string, want ...string) error {
	if got == "" {
		return nil
	}
	for _, w := range want {
		if got == w {
			return nil
		}
	}
	return fmt.Errorf("%s: unrecognized value '%s', expected %s", setting, got, strings.Join(want, " or "))
}

func checkDuration(setting string, d *caddy.Duration, least time.Duration) error {
	if d != nil && time.Duration(*d) < least {
		return fmt.Errorf("%s: %s is too short, it must be at least %s", setting, time.Duration(*d), least)
	}
	return nil
}

// validate judges the client settings that were given.
func (c *ClientSettings) validate() error {
	if err := c.Start.validate(); err != nil {
		return err
	}
	for _, err := range []error{
		checkWord("slow", c.Slow, slowSkip, slowDisconnect),
		checkWord("when_full", c.WhenFull, fullReject, fullRetry),
		checkWord("on_reload", c.OnReload, reloadKeep, reloadDrain),
		checkDuration("heartbeat", c.Heartbeat, 0),
		checkDuration("write_timeout", c.WriteTimeout, time.Millisecond),
		checkDuration("max_age", c.MaxAge, 0),
		checkDuration("drain", c.Drain, 0),
	} {
		if err != nil {
			return err
		}
	}
	if c.MaxClients != nil && *c.MaxClients < 0 {
		return fmt.Errorf("max_clients: %d is negative; 0 is no limit", *c.MaxClients)
	}
	if c.WhenFull != "" && c.MaxClients == nil {
		return fmt.Errorf("when_full: it says what happens beyond max_clients, which is not set")
	}
	if r := c.Retry; r != nil {
		if r.Min < 0 || r.Max < 0 {
			return fmt.Errorf("retry: a reconnection time cannot be negative")
		}
		if r.Min == 0 && r.Max == 0 {
			return fmt.Errorf("retry: a reconnection time of 0 makes clients reconnect without a pause")
		}
		if r.Max != 0 && r.Max < r.Min {
			return fmt.Errorf("retry: the maximum %s is below the minimum %s", time.Duration(r.Max), time.Duration(r.Min))
		}
	}
	return nil
}

// over returns the settings with those of base where c has none.
func (c ClientSettings) over(base *ClientSettings) ClientSettings {
	if base == nil {
		return c
	}
	if c.Start == "" {
		c.Start = base.Start
	}
	if c.Heartbeat == nil {
		c.Heartbeat = base.Heartbeat
	}
	if c.Retry == nil {
		c.Retry = base.Retry
	}
	if c.Slow == "" {
		c.Slow = base.Slow
	}
	if c.WriteTimeout == nil {
		c.WriteTimeout = base.WriteTimeout
	}
	if c.MaxClients == nil {
		c.MaxClients, c.WhenFull = base.MaxClients, base.WhenFull
	}
	if c.MaxAge == nil {
		c.MaxAge = base.MaxAge
	}
	if c.Drain == nil {
		c.Drain = base.Drain
	}
	if c.OnReload == "" {
		c.OnReload = base.OnReload
	}
	return c
}

// clientSettings are the ClientSettings with their defaults applied.
type clientSettings struct {
	start        Start
	heartbeat    time.Duration // 0 is off
	retryMin     time.Duration
	retryMax     time.Duration
	slow         string
	writeTimeout time.Duration
	maxClients   int // 0 is no limit
	whenFull     string
	maxAge       time.Duration // 0 is for ever
	drain        time.Duration
	onReload     string
}

func durationOr(d *caddy.Duration, def time.Duration) time.Duration {
	if d == nil {
		return def
	}
	return time.Duration(*d)
}

func wordOr(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// resolve applies the defaults.
func (c ClientSettings) resolve() clientSettings {
	r := clientSettings{
		start:        Start(wordOr(string(c.Start), startLive)),
		heartbeat:    durationOr(c.Heartbeat, defaultHeartbeat),
		retryMin:     defaultRetryMin,
		retryMax:     defaultRetryMax,
		slow:         wordOr(c.Slow, slowSkip),
		writeTimeout: durationOr(c.WriteTimeout, defaultWriteTimeout),
		whenFull:     wordOr(c.WhenFull, fullReject),
		maxAge:       durationOr(c.MaxAge, 0),
		drain:        durationOr(c.Drain, defaultDrain),
		onReload:     wordOr(c.OnReload, reloadKeep),
	}
	if c.MaxClients != nil {
		r.maxClients = *c.MaxClients
	}
	if c.Retry != nil {
		r.retryMin = time.Duration(c.Retry.Min)
		r.retryMax = time.Duration(c.Retry.Max)
		if r.retryMin == 0 {
			r.retryMin = min(defaultRetryMin, r.retryMax)
		}
		if r.retryMax == 0 {
			r.retryMax = max(r.retryMin, defaultRetryMax)
		}
	}
	return r
}

// validate judges the upstream options that were given.
func (o *UpstreamOptions) validate() error {
	if b := o.Backoff; b != nil {
		base := time.Duration(b.Base)
		if base == 0 {
			base = defaultBackoffBase
		}
		switch {
		case b.Base < 0 || b.Max < 0:
			return fmt.Errorf("backoff: a wait cannot be negative")
		case b.Base == 0 && b.Max == 0:
			return fmt.Errorf("backoff: a wait of 0 would reconnect without a pause")
		case b.Max != 0 && time.Duration(b.Max) < base:
			return fmt.Errorf("backoff: the maximum %s is below the base %s", time.Duration(b.Max), base)
		}
	}
	if err := checkDuration("idle_timeout", o.IdleTimeout, 0); err != nil {
		return err
	}
	if o.MaxEventSize < 0 {
		return fmt.Errorf("max_event_size: %d is negative", o.MaxEventSize)
	}
	if strings.ContainsAny(o.Resume, "\r\n\x00") {
		return fmt.Errorf("resume: an event id cannot contain line ends or NUL")
	}
	if o.HeaderUp != nil {
		for field, replacements := range o.HeaderUp.Replace {
			for _, r := range replacements {
				if r.Search != "" && r.SearchRegexp != "" {
					return fmt.Errorf("header_up: '%s' has both a substring and a regular expression to search for", field)
				}
				if _, err := regexp.Compile(r.SearchRegexp); err != nil && !strings.Contains(r.SearchRegexp, "{") {
					return fmt.Errorf("header_up: '%s': %w", field, err)
				}
			}
		}
		if p := requestPlaceholder(o.HeaderUp); p != "" {
			return fmt.Errorf("header_up: the placeholder %s belongs to a client's request, but the connection to an upstream is shared by all clients", p)
		}
	}
	return nil
}

// requestPlaceholders finds placeholders that only a request can fill.
// Those of the upstream itself are filled at every dial.
var requestPlaceholders = regexp.MustCompile(`\{(http\.[^{}]*)\}`)

func findRequestPlaceholder(s string) string {
	for _, m := range requestPlaceholders.FindAllStringSubmatch(s, -1) {
		if !strings.HasPrefix(m[1], "http.reverse_proxy.upstream.") {
			return m[0]
		}
	}
	return ""
}

func requestPlaceholder(ops *headers.HeaderOps) string {
	// marshalled, every field name and value is looked at, of whatever operation
	raw, _ := json.Marshal(ops)
	return findRequestPlaceholder(string(raw))
}

// validate judges the stream's own settings, without its upstreams.
func (s *Stream) validate() error {
	if err := checkWord("ids", s.IDs, idsStream, idsNone); err != nil {
		return err
	}
	if r := s.Retain; r != nil {
		switch {
		case r.Events < 0:
			return fmt.Errorf("retain: events: %d is negative", r.Events)
		case r.Size < 0:
			return fmt.Errorf("retain: size: %d is negative", r.Size)
		case r.Age < 0:
			return fmt.Errorf("retain: age: %s is negative", time.Duration(r.Age))
		}
	}
	if err := s.UpstreamOptions.validate(); err != nil {
		return err
	}
	return s.ClientSettings.validate()
}

// hasSourceSide says whether anything but client settings was given, and what.
func (s *Stream) hasSourceSide() string {
	switch {
	case len(s.Upstreams) > 0:
		return "upstream"
	case s.Retain != nil:
		return "retain"
	case s.IDs != "":
		return "ids"
	case s.HeaderUp != nil:
		return "header_up"
	case s.TransportRaw != nil:
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

// retain returns the bounds of the log.
func (s *Stream) retainOptions() eventlog.Options {
	o := eventlog.Options{
		MaxEvents: defaultRetainEvents,
		MaxBytes:  defaultRetainSize,
		IDs:       wordOr(s.IDs, idsStream) == idsStream,
	}
	if s.Retain != nil {
		if s.Retain.Events != 0 {
			o.MaxEvents = s.Retain.Events
		}
		if s.Retain.Size != 0 {
			o.MaxBytes = s.Retain.Size
		}
		o.MaxAge = time.Duration(s.Retain.Age)
	}
	return o
}

// sourceSpec is everything that makes a shared source what it is, in
// canonical form and as configured: before placeholders are evaluated.
type sourceSpec struct {
	URLs         []string             `json:"urls"`
	HeaderUp     []json.RawMessage    `json:"header_up,omitempty"`
	Transport    any                  `json:"transport"`
	Resume       string               `json:"resume"`
	BackoffBase  time.Duration        `json:"backoff_base"`
	BackoffMax   time.Duration        `json:"backoff_max"`
	IdleTimeout  time.Duration        `json:"idle_timeout"`
	MaxEventSize int64                `json:"max_event_size"`
	headerOps    []*headers.HeaderOps // what HeaderUp is the text of
	transportRaw json.RawMessage      // what Transport is the canonical form of
}

// spec merges the upstream's options with the stream's.
func (u *Upstream) spec(stream *UpstreamOptions) (*sourceSpec, error) {
	s := &sourceSpec{
		Resume:       wordOr(u.Resume, wordOr(stream.Resume, resumeOn)),
		BackoffBase:  defaultBackoffBase,
		BackoffMax:   defaultBackoffMax,
		IdleTimeout:  durationOr(u.IdleTimeout, durationOr(stream.IdleTimeout, 0)),
		MaxEventSize: defaultMaxEventSize,
	}
	for _, text := range u.URLs {
		s.URLs = append(s.URLs, canonicalURL(text))
	}
	for _, ops := range []*headers.HeaderOps{stream.HeaderUp, u.HeaderUp} {
		if ops == nil {
			continue
		}
		text, err := json.Marshal(canonicalOps(ops))
		if err != nil {
			return nil, fmt.Errorf("encoding header_up: %w", err)
		}
		s.HeaderUp = append(s.HeaderUp, text)
		s.headerOps = append(s.headerOps, ops)
	}
	backoff := u.Backoff
	if backoff == nil {
		backoff = stream.Backoff
	}
	if backoff != nil {
		if backoff.Base != 0 {
			s.BackoffBase = time.Duration(backoff.Base)
		}
		s.BackoffMax = max(s.BackoffMax, s.BackoffBase)
		if backoff.Max != 0 {
			s.BackoffMax = time.Duration(backoff.Max)
		}
	}
	if u.MaxEventSize != 0 {
		s.MaxEventSize = u.MaxEventSize
	} else if stream.MaxEventSize != 0 {
		s.MaxEventSize = stream.MaxEventSize
	}
	s.transportRaw = u.TransportRaw
	if s.transportRaw == nil {
		s.transportRaw = stream.TransportRaw
	}
	transport := map[string]any{}
	if s.transportRaw != nil {
		if err := json.Unmarshal(s.transportRaw, &transport); err != nil {
			return nil, fmt.Errorf("transport: %w", err)
		}
	}
	if transport["protocol"] == nil {
		transport["protocol"] = "http"
	}
	s.Transport = transport
	return s, nil
}

// key identifies the source. Hashed, since headers and URLs hold credentials.
func (s *sourceSpec) key() string {
	return digest(s)
}

func digest(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		// only values that came from JSON or are plain are ever digested
		panic(fmt.Sprintf("encoding %T: %v", v, err))
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// canonicalOps gives operations that do the same the same text.
func canonicalOps(ops *headers.HeaderOps) *headers.HeaderOps {
	canonical := func(h http.Header) http.Header {
		if len(h) == 0 {
			return nil
		}
		c := make(http.Header, len(h))
		for _, field := range slices.Sorted(maps.Keys(h)) {
			name := http.CanonicalHeaderKey(field)
			c[name] = append(c[name], h[field]...)
		}
		return c
	}
	c := &headers.HeaderOps{Add: canonical(ops.Add), Set: canonical(ops.Set), Replace: ops.Replace}
	for _, field := range ops.Delete {
		c.Delete = append(c.Delete, http.CanonicalHeaderKey(field))
	}
	return c
}
