package natslog

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

const (
	// DefaultReplicas is how many servers keep each record.
	DefaultReplicas = 1

	// DefaultLease is after how long without a sign of the writer another node
	// takes over.
	DefaultLease = 3 * time.Second

	// DefaultBuffer is how many bytes of records may wait to be committed: at 200
	// bytes an event, 20 s of 4,000 events a second. An election inside NATS takes
	// 4 to 10 s.
	DefaultBuffer = 16 << 20
)

// Options describe a log. Stream and Servers are required.
type Options struct {
	// The name of the SSE stream, in any characters. All nodes with the same
	// Servers, Prefix and Stream have the same log.
	Stream string

	// URLs of NATS servers: nats://, tls:// or ws://. One is enough, the others are
	// learned from it; more are for when that one is down.
	Servers []string

	// How to log in: a file with a JWT and its seed, a file with an nkey's seed, user
	// and password, or a token. Default: not at all.
	Credentials, NKey, User, Password, Token string

	// For connections with TLS. Default: the system's certificates, where the URL
	// or the server asks for TLS.
	TLS *tls.Config

	// What the names of JetStream streams, buckets and subjects begin with.
	// Default: sse_fanin.
	Prefix string

	// How many servers keep each record. Default: 1.
	Replicas int

	// After how long without a sign of the writer another node takes over.
	// Default: 3s. See SetLease.
	Lease time.Duration

	// How many bytes of records may wait to be committed. Default: 16 MiB. See
	// SetBuffer.
	Buffer int64

	// What is retained.
	Bounds logstore.Bounds

	// For what people should know. Default: nothing is logged.
	Logger *zap.Logger

	// What people call this node. No two nodes may have the same. Default: the
	// host's name and a random suffix.
	Node string
}

// complete applies the defaults, and validates the rest.
func (o *Options) complete() error {
	if len(o.Servers) == 0 {
		return errors.New("no servers are given, expected a URL such as nats://localhost:4222")
	}
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if !goodPrefix.MatchString(o.Prefix) {
		return fmt.Errorf("prefix '%s' cannot be part of a name in NATS, expected letters, digits, '-' and '_', 64 at most", o.Prefix)
	}
	if o.Replicas == 0 {
		o.Replicas = DefaultReplicas
	}
	if o.Lease == 0 {
		o.Lease = DefaultLease
	}
	if o.Buffer == 0 {
		o.Buffer = DefaultBuffer
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Node == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "node"
		}
		o.Node = host + "-" + randomID()[:4]
	}
	return nil
}
