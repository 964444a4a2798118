package ssefanin

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/urltext"
)

// keyedStreams holds the keyed streams of the process, by stream key. Each
// configuration that uses one holds a reference.
var keyedStreams = caddy.NewUsagePool()

// keyedStream is a stream whose upstreams depend on the request. It has a hub
// for each key that has clients, or had until a linger ago; nothing else is
// kept of a key.
//
// Locks: mu, then its hubs'.
//
// Safe for concurrent use.
type keyedStream struct {
	key     string
	label   string       // as a hub's
	clients atomic.Int64 // of all keys
	counts  *streamCounts

	mu   sync.Mutex    // protects the fields below
	uses []*definition // configurations that use the stream, oldest first
	hubs map[string]*keyedHub
	gone bool // removed: no new clients
}

// keyedHub is the stream of one key.
type keyedHub struct {
	hub    *hub
	values map[string]string           // of the placeholders
	defs   map[*definition]*definition // each configuration's, for this key
}

var errTooManyStreams = errors.New("the keyed stream has as many live keys as max_streams allows")

// keyError is an error about a request's value for a placeholder.
type keyError struct {
	placeholder string
	err         error
}

func (e *keyError) Error() string {
	return fmt.Sprintf("the value of {%s} %v", e.placeholder, e.err)
}

func acquireKeyed(def *definition) *keyedStream {
	val, _, _ := keyedStreams.LoadOrNew(def.key, func() (caddy.Destructor, error) {
		return &keyedStream{key: def.key, label: def.label, counts: newStreamCounts(), hubs: make(map[string]*keyedHub)}, nil
	})
	return val.(*keyedStream)
}

func releaseKeyed(k *keyedStream) {
	// the error is that of Destruct, which has none
	_, _ = keyedStreams.Delete(k.key)
}

// attach adds a configuration that uses the stream; see hub.attach.
func (k *keyedStream) attach(def *definition) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.uses = append(k.uses, def)
	for _, kh := range k.hubs {
		if own, err := def.instantiate(kh.values); err == nil {
			kh.defs[def] = own
			kh.hub.attach(own)
		}
	}
}

// detach removes a configuration; see hub.detach. Streams of keys that the
// next configuration does not make the same way are removed.
func (k *keyedStream) detach(def *definition) {
	k.mu.Lock()
	k.uses = slices.DeleteFunc(k.uses, func(other *definition) bool { return other == def })
	var removed []*hub
	for key, kh := range k.hubs {
		own := kh.defs[def]
		if own == nil {
			continue
		}
		delete(kh.defs, def)
		kh.hub.detach(own)
		if len(kh.defs) == 0 && len(k.uses) > 0 {
			delete(k.hubs, key)
			removed = append(removed, kh.hub)
		}
	}
	k.mu.Unlock()
	for _, h := range removed {
		_ = h.Destruct() // has no error
	}
}

// Destruct removes the streams of all keys. The pool calls it when the last
// configuration has gone.
func (k *keyedStream) Destruct() error {
	k.mu.Lock()
	k.gone = true
	all := slices.Collect(maps.Values(k.hubs))
	clear(k.hubs)
	k.mu.Unlock()
	k.counts.refused.end()
	warnOfEnded(k.key, k.label, int(k.clients.Load()))
	for _, kh := range all {
		_ = kh.hub.Destruct() // has no error
	}
	return nil
}

// keyedStatus is the operators' view of a keyed stream, its hubs aside.
type keyedStatus struct {
	keys int
	gone bool
	uses []*definition // oldest first
}

// snapshot returns the operators' view.
func (k *keyedStream) snapshot() keyedStatus {
	k.mu.Lock()
	defer k.mu.Unlock()
	return keyedStatus{len(k.hubs), k.gone, slices.Clone(k.uses)}
}

// drop forgets the hub of a key, which has ended.
func (k *keyedStream) drop(h *hub) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if kh := k.hubs[h.key]; kh != nil && kh.hub == h {
		delete(k.hubs, h.key)
	}
}

// hub returns the hub of the key that a request makes.
func (k *keyedStream) hub(values map[string]string) (*hub, error) {
	key := digestValues(values)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone || len(k.uses) == 0 {
		return nil, errGone
	}
	if kh := k.hubs[key]; kh != nil {
		if !kh.hub.audience.closed() {
			return kh.hub, nil
		}
		delete(k.hubs, key) // it has ended, and is about to be dropped
	}
	if limit := k.uses[0].maxStreams; len(k.hubs) >= limit {
		return nil, errTooManyStreams
	}
	kh := &keyedHub{values: values, defs: make(map[*definition]*definition)}
	for _, def := range k.uses {
		own, err := def.instantiate(values)
		if err != nil {
			continue // made from other placeholders; the next configuration is not used yet
		}
		own.key = key
		if kh.hub == nil {
			kh.hub = newHub(own, k)
		}
		kh.defs[def] = own
		kh.hub.attach(own)
	}
	if kh.hub == nil {
		return nil, errGone
	}
	k.hubs[key] = kh
	return kh.hub, nil
}

// inUse returns the configuration that counts, nil if there is none.
func (k *keyedStream) inUse() *definition {
	k.mu.Lock()
	defer k.mu.Unlock()
	return firstOf(k.uses)
}

// drain ends the clients that are chosen, of all keys; see hub.drain.
func (k *keyedStream) drain(chosen func(*subscriber) bool, why endReason) {
	k.mu.Lock()
	all := slices.Collect(maps.Values(k.hubs))
	k.mu.Unlock()
	for _, kh := range all {
		kh.hub.drain(chosen, why)
	}
}

// stream returns the hub that serves a request.
func (d *definition) stream(r *http.Request) (*hub, error) {
	if d.keyed == nil {
		return d.hub, nil
	}
	values, err := d.keyOf(r)
	if err != nil {
		return nil, err
	}
	return d.keyed.hub(values)
}

// keyOf fills the placeholders of a definition from a request. The error is
// the client's: a value that cannot be one path segment, query value or
// header value. The values share no memory with the request, which may be much
// larger, and which they outlive.
func (d *definition) keyOf(r *http.Request) (map[string]string, error) {
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	values := make(map[string]string, len(d.placeholders))
	for _, name := range d.placeholders {
		value, _ := repl.GetString(name)
		if err := checkKeyValue(value); err != nil {
			return nil, &keyError{name, err}
		}
		values[name] = strings.Clone(value)
	}
	for _, u := range d.upstreams {
		for _, template := range u.env.templates {
			if err := checkKeyPath(template, values); err != nil {
				return nil, err
			}
		}
	}
	return values, nil
}

// maxKeyValue bounds a value of a key, in bytes: as much as fits into the
// request line and header fields of any server. A live key keeps some four
// copies of its values: 16 KiB for each placeholder at most.
const maxKeyValue = 4 << 10

func checkKeyValue(value string) error {
	switch {
	case value == "":
		return errors.New("is empty")
	case value == "." || value == "..":
		return errors.New("is a relative path")
	case len(value) > maxKeyValue:
		return errors.New("is too long")
	}
	for i := 0; i < len(value); i++ {
		if value[i] < ' ' || value[i] == 0x7f {
			return errors.New("has control characters")
		}
	}
	return nil
}

// checkKeyPath validates the segments of a URL's path that values are part of.
// A value is escaped, but the server, or a proxy in front of it, may decode it,
// and some do so more than once: no decoding of a segment may lead to another
// place of the path. Values that stand side by side, or beside the template's
// own text, are validated together, as they arrive.
func checkKeyPath(template string, values map[string]string) error {
	path := template
	if i := urltext.IndexOutside(template, "?"); i >= 0 {
		path = template[:i]
	}
	for path != "" {
		segment := path
		if i := urltext.IndexOutside(path, "/"); i >= 0 {
			segment, path = path[:i], path[i+1:]
		} else {
			path = ""
		}
		names := placeholdersIn(segment)
		if len(names) == 0 {
			continue
		}
		filled, err := fillURL(segment, values)
		if err == nil {
			err = checkKeySegment(decodeFully(filled))
		}
		if err != nil {
			return &keyError{strings.Join(names, "}{"), err}
		}
	}
	return nil
}

// checkKeySegment validates what becomes of one segment of a path when all that
// is encoded in it is decoded. What follows ';' are parameters, which some
// servers cut off before they look at what is left; a server that passes on what
// it has decoded makes a query of what follows '?', and drops what follows '#';
// others drop spaces at the end of a name.
func checkKeySegment(decoded string) error {
	decoded = dotsAndSlashes.Replace(decoded)
	for part := range strings.FieldsFuncSeq(decoded, func(r rune) bool { return r == '/' || r == '\\' }) {
		if i := strings.IndexAny(part, ";?#"); i >= 0 {
			part = part[:i]
		}
		if part = strings.TrimRight(part, " "); part == "." || part == ".." {
			return errors.New("leads to another place of the path: it has '.' or '..' between slashes, as it is or percent-encoded")
		}
	}
	if strings.ContainsFunc(decoded, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("has percent-encoded control characters")
	}
	return nil
}

// dotsAndSlashes replaces what some servers take for a dot or a slash: UTF-8 that
// is longer than it may be, which lenient decoders accept, and the characters
// whose compatibility form (NFKC) is one.
var dotsAndSlashes = strings.NewReplacer(
	"\xc0\xae", ".", "\xe0\x80\xae", ".", "\xf0\x80\x80\xae", ".", "\uff0e", ".", "\ufe52", ".", "\u2024", ".", "\u2025", "..",
	"\xc0\xaf", "/", "\xe0\x80\xaf", "/", "\xf0\x80\x80\xaf", "/", "\uff0f", "/",
	"\xc1\x9c", "\\", "\xe0\x81\x9c", "\\", "\xf0\x80\x81\x9c", "\\", "\uff3c", "\\", "\ufe68", "\\",
)

// decodeFully decodes what is percent-encoded, what that makes percent-encoded
// again, and so on. What only looks like it stays. Decoding once or several
// times gives no dot and no slash that is not in the result, too.
func decodeFully(text string) string {
	decoded := make([]byte, 0, len(text))
	for i := range len(text) {
		decoded = append(decoded, text[i])
		for n := len(decoded); n >= 3 && decoded[n-3] == '%'; n = len(decoded) {
			var b [1]byte
			if _, err := hex.Decode(b[:], decoded[n-2:]); err != nil {
				break
			}
			decoded = append(decoded[:n-3], b[0])
		}
	}
	return string(decoded)
}

// digestValues gives different values different keys, whatever bytes they
// hold: in JSON, all that is not UTF-8 is the same.
func digestValues(values map[string]string) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(values)) {
		for _, text := range []string{name, values[name]} {
			fmt.Fprintf(h, "%d:%s", len(text), text)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// instantiate returns a keyed definition for one key.
func (d *definition) instantiate(values map[string]string) (*definition, error) {
	own := *d
	own.upstreams = make([]*upstreamDef, len(d.upstreams))
	for i, u := range d.upstreams {
		ud, err := u.instantiate(values)
		if err != nil {
			return nil, err
		}
		own.upstreams[i] = ud
	}
	return &own, nil
}

// instantiate returns an upstream for one key: another source for each
// combination of the values it uses. One that uses none is shared by all.
func (u *upstreamDef) instantiate(values map[string]string) (*upstreamDef, error) {
	filled := make(map[string]string)
	for _, name := range append(placeholdersIn(u.env.templates...), u.headerPlaceholders...) {
		filled[name] = values[name]
	}
	if len(filled) == 0 {
		return u, nil
	}
	own := *u
	spec := *u.spec
	env := *u.env
	spec.URLs = make([]string, len(u.env.templates))
	env.endpoints = make([]endpoint, len(u.env.templates))
	for i, template := range u.env.templates {
		text, err := fillURL(template, values)
		if err != nil {
			return nil, err
		}
		if env.endpoints[i], err = parseEndpoint(text); err != nil {
			return nil, err
		}
		env.endpoints[i].configured = u.env.endpoints[i].configured
		// the configured text identifies the source, not its value
		configured, err := fillURL(u.spec.URLs[i], values)
		if err != nil {
			return nil, err
		}
		spec.URLs[i] = canonicalURL(configured)
	}
	// the values of placeholders in headers make another connection, too
	spec.Values = make(map[string]string)
	for _, name := range u.headerPlaceholders {
		value, ok := values[name]
		if !ok {
			return nil, fmt.Errorf("no value for {%s}", name)
		}
		spec.Values[name] = value
	}
	env.values = spec.Values
	own.spec, own.env = &spec, &env
	spec.Key = digestValues(filled) // for the order of replicas; and never shared with a plain stream
	own.key = spec.key()
	return &own, nil
}

// fillURL puts values into a URL's placeholders, escaped for where they stand.
// A value is one path segment or one query value and cannot become more.
func fillURL(template string, values map[string]string) (string, error) {
	var err error
	path, query := template, ""
	if i := urltext.IndexOutside(template, "?"); i >= 0 {
		path, query = template[:i], template[i:]
	}
	fill := func(text string, escape func(string) string) string {
		return requestPlaceholders.ReplaceAllStringFunc(text, func(p string) string {
			value, ok := values[p[1:len(p)-1]]
			if !ok {
				err = fmt.Errorf("no value for %s", p)
			}
			return escape(value)
		})
	}
	return fill(path, url.PathEscape) + fill(query, url.QueryEscape), err
}

// Interface guards
var _ caddy.Destructor = (*keyedStream)(nil)
