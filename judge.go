package ssefanin

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/sse-fanin/caddy-sse-fanin/internal/option"
	"github.com/sse-fanin/caddy-sse-fanin/internal/urltext"
)

var errDynamicSocket = errors.New("dynamic: it gives the addresses to dial, but the URL is that of a unix socket; use http:// or https://")

// judgeWhole validates the stream as a whole.
func (s *Stream) judgeWhole() error {
	keyed := s.keyed()
	switch {
	case keyed != "" && s.Connect != nil && s.Connect.Mode == connectEager:
		return fmt.Errorf("connect: the placeholder %s makes the stream a keyed one, which is connected on demand", keyed)
	case keyed == "" && s.MaxStreams != 0:
		return fmt.Errorf("max_streams: it bounds the keys of a keyed stream, but no upstream has a placeholder of the request")
	}
	if err := s.Start.judge(s.LastValue != nil); err != nil {
		return err
	}
	if s.IDs != idsUpstream {
		return nil
	}
	if len(s.Upstreams) > 1 {
		return fmt.Errorf("ids: '%s' passes on the ids of one upstream, but there are %d; replicas of one source are several URLs of one upstream", idsUpstream, len(s.Upstreams))
	}
	if u := s.Upstreams[0]; u != nil && u.policy() == policyMerge {
		return fmt.Errorf("ids: '%s' passes on the ids of one upstream, but policy '%s' makes several of it", idsUpstream, policyMerge)
	}
	return nil
}

// spec merges the upstream's options with the stream's.
func (u *Upstream) spec(defaults *UpstreamOptions, maxEventSize int64) (*sourceSpec, error) {
	s := &sourceSpec{
		Resume:       wordOr(u.Resume, wordOr(defaults.Resume, resumeOn)),
		BackoffBase:  defaultBackoffBase,
		BackoffMax:   defaultBackoffMax,
		IdleTimeout:  durationOr(u.IdleTimeout, durationOr(defaults.IdleTimeout, 0)),
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
	for _, ops := range []*headers.HeaderOps{defaults.HeaderUp, u.HeaderUp} {
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
	wait := u.Backoff
	if wait == nil {
		wait = defaults.Backoff
	}
	if wait != nil {
		if wait.Base != 0 {
			s.BackoffBase = time.Duration(wait.Base)
		}
		s.BackoffMax = max(s.BackoffMax, s.BackoffBase)
		if wait.Max != 0 {
			s.BackoffMax = time.Duration(wait.Max)
		}
	}
	if u.MaxEventSize != 0 {
		s.MaxEventSize = u.MaxEventSize
	} else if defaults.MaxEventSize != 0 {
		s.MaxEventSize = defaults.MaxEventSize
	}
	if given(u.TransportRaw) {
		s.transportRaw = u.TransportRaw
	} else if given(defaults.TransportRaw) {
		s.transportRaw = defaults.TransportRaw
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

// judge validates an upstream within the stream, and merges its options with
// the stream's. i counts the stream's upstreams.
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

func (u *Upstream) judge(defaults *UpstreamOptions, maxEventSize int64) (*sourceSpec, error) {
	if err := u.judgePlaces(); err != nil {
		return nil, err
	}
	if err := u.UpstreamOptions.validate(); err != nil {
		return nil, err
	}
	spec, err := u.spec(defaults, maxEventSize)
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

// judgePlaces validates the URLs, and the policy for several.
func (u *Upstream) judgePlaces() error {
	if len(u.URLs) == 0 {
		return errors.New("it has no URL")
	}
	if err := option.CheckWord("policy", u.Policy, policyFailover, policyMirror, policyBalance, policyMerge); err != nil {
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
			return fmt.Errorf("the URL '%s' is given twice", urltext.Redact(text))
		}
		seen[text] = true
	}
	return nil
}

// wrap adds to an error which upstream it is about.
func (u *Upstream) wrap(i int, err error) error {
	switch {
	case u.Name != "":
		return fmt.Errorf("upstream '%s': %w", u.Name, err)
	case errors.As(err, new(*urlError)): // it names the upstream
		return err
	case len(u.URLs) > 0:
		return fmt.Errorf("upstream '%s': %w", urltext.Redact(u.URLs[0]), err)
	default:
		return fmt.Errorf("upstream %d: %w", i+1, err)
	}
}
