package ssefanin

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
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
	Policy       string               `json:"policy,omitempty"`  // empty for a single place
	Dynamic      any                  `json:"dynamic,omitempty"` // where addresses come from
	Address      string               `json:"address,omitempty"` // one of those addresses
	Key          string               `json:"key,omitempty"`     // of a keyed stream, hashed
	Values       map[string]string    `json:"values,omitempty"`  // of a keyed stream's placeholders in headers
	headerOps    []*headers.HeaderOps // what HeaderUp is the text of
	transportRaw json.RawMessage      // what Transport is the canonical form of
	dynamicRaw   json.RawMessage      // what Dynamic is the canonical form of
}

// spec merges the upstream's options with the stream's.
func (u *Upstream) spec(stream *UpstreamOptions, maxEventSize int64) (*sourceSpec, error) {
	s := &sourceSpec{
		Resume:       wordOr(u.Resume, wordOr(stream.Resume, resumeOn)),
		BackoffBase:  defaultBackoffBase,
		BackoffMax:   defaultBackoffMax,
		IdleTimeout:  durationOr(u.IdleTimeout, durationOr(stream.IdleTimeout, 0)),
		MaxEventSize: maxEventSize,
	}
	if len(u.URLs) > 1 || given(u.DynamicRaw) {
		s.Policy = u.policy()
	}
	if given(u.DynamicRaw) {
		s.dynamicRaw = u.DynamicRaw
		if err := json.Unmarshal(u.DynamicRaw, &s.Dynamic); err != nil {
			return nil, fmt.Errorf("dynamic: %w", err)
		}
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
	maxEventSize := int64(defaultMaxEventSize)
	if s.keyed() != "" {
		maxEventSize = defaultKeyedMaxEventSize
	}
	// a small log needs no word about events that were never expected
	maxEventSize = min(maxEventSize, s.retainOptions().MaxBytes)
	spec, err := u.judge(&s.UpstreamOptions, maxEventSize)
	if err != nil {
		return nil, u.wrap(i, err)
	}
	return spec, nil
}

func (u *Upstream) judge(stream *UpstreamOptions, maxEventSize int64) (*sourceSpec, error) {
	if err := u.judgePlaces(); err != nil {
		return nil, err
	}
	if err := u.UpstreamOptions.validate(); err != nil {
		return nil, err
	}
	spec, err := u.spec(stream, maxEventSize)
	if err != nil {
		return nil, err
	}
	for _, name := range append(placeholdersIn(spec.URLs...), headerPlaceholders(spec.headerOps...)...) {
		if strings.HasPrefix(name, "http.request.body") {
			return nil, fmt.Errorf("the placeholder {%s} would have each client's body read, however long it is and takes; take the value from the path, the query or a header", name)
		}
	}
	transport, ok := spec.Transport.(*reverseproxy.HTTPTransport)
	if p := findRequestPlaceholder(string(spec.transportRaw)); p != "" {
		return nil, fmt.Errorf("transport: the placeholder %s belongs to a client's request; placeholders may stand in the path and the query of a URL and in header_up", p)
	}
	if ok && spec.dynamicRaw != nil && slices.Equal(transport.Versions, []string{"3"}) {
		return nil, errors.New("dynamic: HTTP/3 connections are kept by name, so they cannot be made to discovered addresses; use other versions in transport")
	}
	for _, text := range u.URLs {
		text, known := tryText(text)
		if ep, err := parseEndpoint(text); ok && err == nil && known {
			if err := checkTransport(transport, ep); err != nil {
				return nil, err
			}
		}
	}
	return spec, nil
}

var errDynamicSocket = errors.New("dynamic: it gives the addresses to dial, but the URL is that of a unix socket; use http:// or https://")

// judgePlaces judges the URLs, and what is to be done with several.
func (u *Upstream) judgePlaces() error {
	if len(u.URLs) == 0 {
		return errors.New("it has no URL")
	}
	if err := checkWord("policy", u.Policy, policyFailover, policyMirror, policyBalance, policyMerge); err != nil {
		return err
	}
	dynamic := given(u.DynamicRaw)
	switch {
	case dynamic && len(u.URLs) > 1:
		return fmt.Errorf("dynamic: it gives the addresses for one URL, but there are %d", len(u.URLs))
	case dynamic && strings.HasPrefix(u.URLs[0], unixPrefix):
		return errDynamicSocket
	case dynamic && findRequestPlaceholder(string(u.DynamicRaw)) != "":
		return fmt.Errorf("dynamic: the placeholder %s belongs to a client's request, which cannot decide which server is asked", findRequestPlaceholder(string(u.DynamicRaw)))
	case !dynamic && len(u.URLs) == 1 && (u.Policy == policyMirror || u.Policy == policyBalance):
		return fmt.Errorf("policy: '%s' needs several URLs, or dynamic addresses", u.Policy)
	case u.policy() == policyMirror && len(u.URLs) > maxMirrors:
		return fmt.Errorf("policy: '%s' takes at most %d URLs, but there are %d", policyMirror, maxMirrors, len(u.URLs))
	}
	seen := make(map[string]bool)
	for _, text := range u.URLs {
		if err := checkURL(text); err != nil {
			return err
		}
		if text = canonicalURL(text); seen[text] {
			return fmt.Errorf("the URL '%s' is given twice", redactText(text))
		}
		seen[text] = true
	}
	return nil
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

// places are where a source without dynamic addresses is dialled, in order.
func (s *sourceSpec) places() []place {
	if s.Address != "" {
		return []place{{id: s.Address, address: s.Address}}
	}
	places := make([]place, len(s.URLs))
	for i, text := range s.URLs {
		places[i] = place{id: text, url: i}
	}
	return s.order(places)
}

// order puts places into the order in which they are tried. With `balance`
// that is by rendezvous hash of the node, the key and the place: it spreads
// nodes and keys evenly, and losing a place moves only those that were there.
func (s *sourceSpec) order(places []place) []place {
	if s.Policy != policyBalance {
		return places
	}
	rank := make(map[string]uint64, len(places))
	for _, p := range places {
		sum := sha256.Sum256([]byte(nodeID() + "\x00" + s.Key + "\x00" + p.id))
		rank[p.id] = binary.BigEndian.Uint64(sum[:8])
	}
	slices.SortStableFunc(places, func(a, b place) int { return cmp.Compare(rank[b.id], rank[a.id]) })
	return places
}

// nodeID is this node's identity, for `balance`; tests fix it.
var nodeID = sync.OnceValue(func() string {
	id, err := caddy.InstanceID()
	if err != nil {
		// a node without storage is some node
		return rand.Text()
	}
	return id.String()
})

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
