package ssefanin

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/urltext"
)

// sourceSpec is everything that identifies a shared source, in canonical form
// and as configured: before placeholders are evaluated.
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
	Address      string               `json:"address,omitempty"` // one of the discovered addresses
	Key          string               `json:"key,omitempty"`     // of a keyed stream, hashed
	Values       map[string]string    `json:"values,omitempty"`  // of a keyed stream's placeholders in headers
	Log          string               `json:"log,omitempty"`     // of the one stream whose log outlives the process; see logDef
	Standby      bool                 `json:"standby,omitempty"` // it is connected on all nodes that share the log
	headerOps    []*headers.HeaderOps // HeaderUp is their text
	transportRaw json.RawMessage      // Transport is its canonical form
	dynamicRaw   json.RawMessage      // Dynamic is its canonical form
}

// checkFits validates that the largest event fits into the log.
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

// order puts places into the order in which they are tried. With `balance` that
// is by rendezvous hash of the node, the key and the place: it spreads nodes
// and keys evenly, and losing a place moves only its own.
func (s *sourceSpec) order(places []place) []place {
	if s.Policy != policyBalance {
		return places
	}
	rank := make(map[string]uint64, len(places))
	for _, p := range places {
		sum := sha256.Sum256([]byte(nodeID() + "\x00" + s.Key + "\x00" + p.id))
		rank[p.id] = binary.BigEndian.Uint64(sum[:8])
	}
	sort.SliceStable(places, func(i, j int) bool { return rank[places[i].id] > rank[places[j].id] })
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

// shown is a URL as configured, without what may be secret, and with the
// address that was looked up for it, if one was.
func (s *sourceSpec) shown(number int, address string) string {
	shown := urltext.Redact(s.URLs[number])
	if address != "" {
		shown += " at " + address
	}
	return shown
}
