package ssefanin

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
)

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
		if ops == nil || len(ops.Add)+len(ops.Set)+len(ops.Delete)+len(ops.Replace) == 0 {
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
	if given(u.TransportRaw) {
		s.transportRaw = u.TransportRaw
	} else if given(stream.TransportRaw) {
		s.transportRaw = stream.TransportRaw
	}
	var err error
	s.Transport, err = canonicalTransport(s.transportRaw)
	return s, err
}

// given says whether there is JSON; null stands for none.
func given(raw json.RawMessage) bool {
	return len(raw) > 0 && string(raw) != "null"
}

// canonicalTransport gives configurations of the transport that mean the same
// the same form.
func canonicalTransport(raw json.RawMessage) (any, error) {
	if !given(raw) {
		return new(reverseproxy.HTTPTransport), nil
	}
	var module struct {
		Protocol string `json:"protocol"`
	}
	if err := json.Unmarshal(raw, &module); err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	if module.Protocol != "http" {
		return raw, nil // it is refused when it is loaded
	}
	transport := new(reverseproxy.HTTPTransport)
	if err := json.Unmarshal(raw, transport); err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	return transport, nil
}

// judge says whether an upstream makes sense within the stream, and merges its
// options with the stream's. i counts the stream's upstreams.
func (s *Stream) judge(i int, u *Upstream) (*sourceSpec, error) {
	if u == nil {
		return nil, fmt.Errorf("upstream %d is null", i+1)
	}
	spec, err := u.judge(&s.UpstreamOptions)
	if err != nil {
		return nil, u.wrap(i, err)
	}
	return spec, nil
}

func (u *Upstream) judge(stream *UpstreamOptions) (*sourceSpec, error) {
	switch {
	case len(u.URLs) == 0:
		return nil, errors.New("it has no URL")
	case len(u.URLs) > 1:
		return nil, fmt.Errorf("it has %d URLs, but an upstream has one; write an upstream for each", len(u.URLs))
	}
	if err := checkURL(u.URLs[0]); err != nil {
		return nil, err
	}
	if err := u.UpstreamOptions.validate(); err != nil {
		return nil, err
	}
	spec, err := u.spec(stream)
	if err != nil {
		return nil, err
	}
	transport, ok := spec.Transport.(*reverseproxy.HTTPTransport)
	if ep, err := parseEndpoint(u.URLs[0]); ok && err == nil && !hasPlaceholder(u.URLs[0]) {
		if err := checkTransport(transport, ep); err != nil {
			return nil, err
		}
	}
	return spec, nil
}

// wrap tells which upstream an error is about.
func (u *Upstream) wrap(i int, err error) error {
	switch {
	case u.Name != "":
		return fmt.Errorf("upstream '%s': %w", u.Name, err)
	case errors.As(err, new(*urlError)): // it says so
		return err
	case len(u.URLs) > 0:
		return fmt.Errorf("upstream '%s': %w", redactText(u.URLs[0]), err)
	default:
		return fmt.Errorf("upstream %d: %w", i+1, err)
	}
}

// checkFits says whether the largest event fits into what is retained.
func (s *sourceSpec) checkFits(o eventlog.Options) error {
	if s.MaxEventSize > o.MaxBytes {
		return fmt.Errorf("max_event_size: %d bytes is more than the size of all that is retained, %d bytes; lower max_event_size, or raise size in retain", s.MaxEventSize, o.MaxBytes)
	}
	return nil
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
	c := &headers.HeaderOps{Add: canonical(ops.Add), Set: canonical(ops.Set)}
	for _, field := range ops.Delete {
		c.Delete = append(c.Delete, http.CanonicalHeaderKey(field))
	}
	slices.Sort(c.Delete)
	for _, field := range slices.Sorted(maps.Keys(ops.Replace)) {
		if c.Replace == nil {
			c.Replace = make(map[string][]headers.Replacement)
		}
		name := http.CanonicalHeaderKey(field)
		c.Replace[name] = append(c.Replace[name], ops.Replace[field]...)
	}
	return c
}
