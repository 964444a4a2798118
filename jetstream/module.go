// Package jetstream keeps the logs of sse_fanin's streams in NATS JetStream, so
// that several Caddys share them: with the same positions and the same bytes on
// each, and one of them connected to the upstreams. It is a Caddy module,
// http.handlers.sse_fanin.log.jetstream, and a client only: the NATS servers are
// not a part of it.
package jetstream

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/sse-fanin/caddy-sse-fanin/internal/option"
	"github.com/sse-fanin/caddy-sse-fanin/jetstream/internal/natslog"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

func init() {
	caddy.RegisterModule(new(Log))
}

// Log keeps the log of a stream in NATS JetStream, for all Caddys that have a
// stream of this name there. `retain` bounds what JetStream holds.
type Log struct {
	// The NATS servers: URLs that begin with `nats://`, `tls://`, `ws://` or
	// `wss://`. The port is 4222 unless it is given. One is enough to find the
	// others of its cluster, several find it while some are down. Required.
	Servers []string `json:"servers,omitempty"`

	Login

	// How to encrypt the connection. Default: as the servers ask for, with the
	// certificates that the system trusts.
	TLS *TLS `json:"tls,omitempty"`

	// How many servers keep a copy of the log: 1, 3 or 5. Default: 1.
	Replicas int `json:"replicas,omitempty"`

	// What the names of all that is made in JetStream begin with: letters,
	// digits, `_` and `-`. Caddys with another prefix have other logs.
	// Default: `sse_fanin`.
	Prefix string `json:"prefix,omitempty"`

	// How long the writer may be silent before another Caddy takes over, from 1s
	// to 1m. Default: `3s`.
	Lease caddy.Duration `json:"lease,omitempty"`

	// How many bytes of events the writer holds while JetStream takes none.
	// Default: 16 MiB.
	Buffer int64 `json:"buffer,omitempty"`

	// How long the writer stays connected to the upstreams while JetStream takes
	// no events, if there is room for them in the buffer. Default: `30s`.
	HoldFor caddy.Duration `json:"hold,omitempty"`

	// Whether each Caddy connects the upstreams, not only the writer: for
	// upstreams that cannot resume. Default: `off`.
	OnStandby option.Switch `json:"standby,omitempty"`

	// How many bytes of the newest events each Caddy holds in memory; older ones
	// are read from JetStream. Default: 64 MiB.
	MaxMemory int64 `json:"memory,omitempty"`

	tls *tls.Config // nil: as the servers ask for
}

const (
	defaultPrefix   = "sse_fanin"
	defaultReplicas = 1
	defaultLease    = caddy.Duration(3 * time.Second)
	defaultBuffer   = 16 << 20
	defaultHold     = caddy.Duration(30 * time.Second)
)

// CaddyModule returns the Caddy module information.
func (*Log) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sse_fanin.log.jetstream",
		New: func() caddy.Module { return new(Log) },
	}
}

// Provision evaluates placeholders, reads the files and validates the options.
// It opens no connection.
func (l *Log) Provision(ctx caddy.Context) error {
	l.setDefaults()
	if err := l.checkValues(); err != nil {
		return err
	}
	var err error
	if l.Servers, err = evaluateServers(l.Servers); err != nil {
		return err
	}
	if err := l.provisionLogin(); err != nil {
		return err
	}
	if l.TLS == nil {
		return nil
	}
	if plain := slices.IndexFunc(l.Servers, func(server string) bool { return strings.HasPrefix(server, "ws://") }); plain >= 0 {
		return errPlain(l.Servers[plain])
	}
	l.tls, err = l.TLS.provision(ctx)
	return err
}

func (l *Log) setDefaults() {
	if l.Replicas == 0 {
		l.Replicas = defaultReplicas
	}
	if l.Prefix == "" {
		l.Prefix = defaultPrefix
	}
	if l.Lease == 0 {
		l.Lease = defaultLease
	}
	if l.Buffer == 0 {
		l.Buffer = defaultBuffer
	}
	if l.HoldFor == 0 {
		l.HoldFor = defaultHold
	}
	if l.MaxMemory == 0 {
		l.MaxMemory = option.DefaultLogMemory
	}
}

// Complete implements logstore.Completer.
func (l *Log) Complete() error {
	if len(l.Servers) == 0 {
		return errors.New("servers: none are given, expected servers <url>..., here or in the defaults of the global option sse_fanin")
	}
	return nil
}

// Key implements logstore.Opener. Another way to connect may lead to another
// cluster or account, so it makes another key; the log itself says whether it is
// another one.
func (l *Log) Key(stream string) string {
	return l.Prefix + "/" + stream + " at " + strings.Join(slices.Sorted(slices.Values(l.Servers)), ",") + " as " + l.connectionPrint()
}

// Memory implements logstore.Opener.
func (l *Log) Memory() int64 { return l.MaxMemory }

// Standby implements logstore.Sharer.
func (l *Log) Standby() bool { return l.OnStandby == option.On }

// Hold implements logstore.Sharer.
func (l *Log) Hold() time.Duration { return time.Duration(l.HoldFor) }

// Open implements logstore.Opener.
func (l *Log) Open(ctx context.Context, stream string, o logstore.OpenOptions) (logstore.Store, error) {
	store, err := natslog.Open(ctx, natslog.Options{
		Stream:      stream,
		Servers:     l.Servers,
		Credentials: l.Credentials,
		NKey:        l.NKey,
		User:        l.name(),
		Password:    l.password(),
		Token:       l.Token,
		TLS:         l.tls,
		Prefix:      l.Prefix,
		Replicas:    l.Replicas,
		Lease:       time.Duration(l.Lease),
		Buffer:      l.Buffer,
		Bounds:      o.Bounds,
		Logger:      o.Logger,
	})
	if err != nil {
		return nil, err // and not a store that is nil
	}
	return store, nil
}

// Adjust implements logstore.Opener.
func (l *Log) Adjust(s logstore.Store) {
	if store, ok := s.(interface {
		SetLease(d time.Duration)
		SetBuffer(size int64)
	}); ok {
		store.SetLease(time.Duration(l.Lease))
		store.SetBuffer(l.Buffer)
	}
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Log)(nil)
	_ caddyfile.Unmarshaler = (*Log)(nil)
	_ logstore.Sharer       = (*Log)(nil)
	_ logstore.Completer    = (*Log)(nil)
	_ logstore.Adviser      = (*Log)(nil)
)
