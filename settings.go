package ssefanin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/option"
)

// ClientSettings are the settings for serving clients. They belong to a
// handler, never to the identity of a stream; in a stream of the global options
// they are the defaults for the handlers that name it.
type ClientSettings struct {
	// Where a client without a position begins: `live` (now), `oldest`
	// (everything retained), a number (the last n), a duration (what arrived in
	// the last so long), or `last_value` (the last values, and what follows).
	// Default: `live`.
	Start Start `json:"start,omitempty"`

	// What clients may see, by source and by type: where both are given, both must
	// match. Default: everything.
	Only *Only `json:"only,omitempty"`

	// Whether clients may ask for some events only, with `?source=` and
	// `?type=`, of those that they may see. Default: `off`.
	Filters option.Switch `json:"filters,omitempty"`

	// Whether a client without a position gets a block with an `id` and no data
	// before the first event, so that it misses nothing should its connection
	// fail before that. By the format, such a block fires nothing; some clients
	// fire an empty message. `auto`: for a browser's EventSource, recognized by
	// the header of its request. Default: `auto`.
	Prime string `json:"prime,omitempty"`

	// How often a comment is sent to a client that gets nothing else. 0 is
	// never. Default: `15s`.
	Heartbeat *caddy.Duration `json:"heartbeat,omitempty"`

	// The range from which each client's reconnection time is drawn. One value
	// alone is sent to all. Default: `2s` to `5s`.
	Retry *RetryRange `json:"retry,omitempty"`

	// The treatment of a client so slow that retained events are dropped before
	// it got them: `skip` sends it a gap and goes on, `disconnect` ends it.
	// Default: `skip`.
	Slow string `json:"slow,omitempty"`

	// How long one write to a client may take. Default: `10s`.
	WriteTimeout *caddy.Duration `json:"write_timeout,omitempty"`

	// How many clients the stream may have, over all handlers. 0 is no limit.
	// Default: 0.
	MaxClients *int `json:"max_clients,omitempty"`

	// The answer to the next client when the stream is full: `reject` is a 503
	// with Retry-After, `retry` is a stream that ends at once with a long
	// reconnection time (EventSource never comes back from a 503).
	// Default: `reject`.
	WhenFull string `json:"when_full,omitempty"`

	// How long a client may stay; each ends after 80 to 100 % of it. 0 is for
	// ever. Default: 0.
	MaxAge *caddy.Duration `json:"max_age,omitempty"`

	// How long an event may wait for more, so that several are written to a
	// client at once: less CPU at high rates, for that much latency. 0 is off.
	// Default: off.
	Coalesce *caddy.Duration `json:"coalesce,omitempty"`

	// The time over which clients are ended when their stream is removed.
	// Default: `5s`.
	Drain *caddy.Duration `json:"drain,omitempty"`

	// The effect of a reload on connected clients: `keep` leaves them alone,
	// `drain` ends them over the drain time, so that they come back under the
	// new configuration. Default: `keep`.
	OnReload string `json:"on_reload,omitempty"`

	// Whether the request of a client over HTTP/1.1 ends, for Caddy, once its stream
	// has begun: `on` costs a client a fraction of the memory. The metrics and traces
	// of HTTP see the request end then; the access log has its line at the end of
	// the stream all the same. Default: `off`.
	Detach option.Switch `json:"detach,omitempty"`
}

// RetryRange is the range of the reconnection times sent to clients.
type RetryRange struct {
	// The shortest. Default: `2s`, or the longest where that is shorter.
	Min caddy.Duration `json:"min,omitempty"`

	// The longest. Default: the shortest where that is given, else `5s`.
	Max caddy.Duration `json:"max,omitempty"`
}

// Start is where a client without a position begins: `live`, `oldest`,
// `last_value`, a number of events, or a duration such as `5m`. In JSON a number may
// also stand without quotes; it is one of events then, too.
type Start string

// UnmarshalJSON accepts a string or a number.
func (s *Start) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil // as if it were absent, as null means everywhere else
	}
	if len(b) > 0 && b[0] != '"' {
		var n uint64
		if err := json.Unmarshal(b, &n); err != nil {
			return Start(b).unrecognized()
		}
		*s = Start(strconv.FormatUint(n, 10))
		return nil
	}
	return json.Unmarshal(b, (*string)(s))
}

func (s Start) validate() error {
	if s == "" || s == startLive || s == startOldest || s == startValues {
		return nil
	}
	if _, ok := s.events(); ok {
		return nil
	}
	if d, ok := s.duration(); ok {
		return checkDuration("start", caddy.Duration(d), false)
	}
	return s.unrecognized()
}

func (s Start) unrecognized() error {
	return fmt.Errorf("start: '%s' is neither live, oldest, last_value, a number of events nor a duration such as 5m", s)
}

// judge validates that a stream has what a client without a position begins with.
func (s Start) judge(lastValues bool) error {
	if s == startValues && !lastValues {
		return fmt.Errorf("start: '%s' sends the last values of the stream, but it keeps none; add 'last_value <type>...' to the stream", startValues)
	}
	return nil
}

// events returns the number of events, if it is one.
func (s Start) events() (n uint64, ok bool) {
	n, err := strconv.ParseUint(string(s), 10, 63)
	return n, err == nil
}

// duration returns the duration, if it is one. A number alone is one of events.
func (s Start) duration() (d time.Duration, ok bool) {
	if _, ok := s.events(); ok {
		return 0, false // caddy takes "0" for a duration
	}
	d, err := caddy.ParseDuration(string(s))
	return d, err == nil
}

// validate validates the client settings that were given.
func (c *ClientSettings) validate() error {
	if err := c.Start.validate(); err != nil {
		return err
	}
	for _, err := range []error{
		c.Only.validate(),
		option.CheckWord("filters", string(c.Filters), option.On, option.Off),
		option.CheckWord("prime", c.Prime, primeAuto, primeOn, primeOff),
		option.CheckWord("slow", c.Slow, slowSkip, slowDisconnect),
		option.CheckWord("when_full", c.WhenFull, fullReject, fullRetry),
		option.CheckWord("on_reload", c.OnReload, reloadKeep, reloadDrain),
		option.CheckWord("detach", string(c.Detach), option.On, option.Off),
		checkGiven("heartbeat", c.Heartbeat, true),
		checkGiven("write_timeout", c.WriteTimeout, false),
		checkGiven("max_age", c.MaxAge, true),
		checkGiven("coalesce", c.Coalesce, true),
		checkGiven("drain", c.Drain, true),
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
		if r.Min == 0 && r.Max == 0 {
			return fmt.Errorf("retry: neither min nor max is above 0; clients would reconnect without a pause")
		}
		for _, wait := range []caddy.Duration{r.Min, r.Max} {
			if wait == 0 { // the default
				continue
			}
			if err := checkDuration("retry", wait, false); err != nil {
				return err
			}
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
	c.Only = c.Only.over(base.Only)
	if c.Filters == "" {
		c.Filters = base.Filters
	}
	if c.Prime == "" {
		c.Prime = base.Prime
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
	if c.Coalesce == nil {
		c.Coalesce = base.Coalesce
	}
	if c.Drain == nil {
		c.Drain = base.Drain
	}
	if c.OnReload == "" {
		c.OnReload = base.OnReload
	}
	if c.Detach == "" {
		c.Detach = base.Detach
	}
	return c
}

// clientSettings are the ClientSettings with their defaults applied.
type clientSettings struct {
	start        Start
	only         onlySettings
	filters      bool
	prime        string
	heartbeat    time.Duration // 0 is off
	retryMin     time.Duration
	retryMax     time.Duration
	slow         string
	writeTimeout time.Duration
	maxClients   int // 0 is no limit
	whenFull     string
	maxAge       time.Duration // 0 is for ever
	coalesce     time.Duration // 0 is off
	drain        time.Duration
	onReload     string
	detach       bool
}

// resolve applies the defaults.
func (c ClientSettings) resolve() clientSettings {
	r := clientSettings{
		start:        Start(wordOr(string(c.Start), startLive)),
		only:         c.Only.resolve(),
		filters:      c.Filters == option.On,
		prime:        wordOr(c.Prime, primeAuto),
		heartbeat:    durationOr(c.Heartbeat, defaultHeartbeat),
		retryMin:     defaultRetryMin,
		retryMax:     defaultRetryMax,
		slow:         wordOr(c.Slow, slowSkip),
		writeTimeout: durationOr(c.WriteTimeout, defaultWriteTimeout),
		whenFull:     wordOr(c.WhenFull, fullReject),
		maxAge:       durationOr(c.MaxAge, 0),
		coalesce:     durationOr(c.Coalesce, 0),
		drain:        durationOr(c.Drain, defaultDrain),
		onReload:     wordOr(c.OnReload, reloadKeep),
		detach:       c.Detach == option.On,
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
			r.retryMax = r.retryMin
		}
	}
	return r
}

// primes reports whether the client of a request may get an id without an event.
func (s *clientSettings) primes(r *http.Request) bool {
	return s.prime == primeOn || s.prime == primeAuto && byEventSource(r)
}

// byEventSource reports whether a request is a browser's EventSource's. Clients
// that are no browsers send the first two fields as well; of a browser's
// requests, a script's have no Cache-Control of their own.
func byEventSource(r *http.Request) bool {
	return sentOnce(r.Header["Accept"], typeEvents) && sentOnce(r.Header["Cache-Control"], "no-cache") && len(r.Header["Sec-Fetch-Mode"]) > 0
}

// sentOnce reports whether a field was sent once, with just this value.
func sentOnce(got []string, want string) bool {
	return len(got) == 1 && got[0] == want
}
