package natslog

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

const (
	// connectTimeout bounds one attempt to connect to one server.
	connectTimeout = 2 * time.Second

	// writeTimeout bounds a write to a server, which is then left. Whoever uses the
	// connection waits for it: without it, the whole log would stand still for a
	// minute where what is sent is lost, whatever is asked of it.
	writeTimeout = 2 * time.Second

	// pingEvery is how often a silent server is asked whether it is still there. Two
	// answers missed, and another server is tried: a server that is stopped or cut
	// off is left after some 6 s.
	pingEvery = 2 * time.Second

	// reconnectWait is how long to wait before the same server is tried again.
	reconnectWait = 250 * time.Millisecond

	// mostDenied bounds the violations of permissions that are remembered: some are
	// of subjects that are never the same.
	mostDenied = 32
)

// The oldest server that will do: before it, a counter advanced on proposals that
// failed (nats-server, pull request 8057).
const (
	leastMajor = 2
	leastMinor = 14
)

// connectionKey is what logs have to have in common to share a connection.
type connectionKey struct {
	servers, prefix                          string
	credentials, nkey, user, password, token string
	tls                                      *tls.Config
}

// connections are those in use in this process.
var connections struct {
	sync.Mutex // protects the fields below, and of each connection the number of its users
	open       map[connectionKey]*connection
}

// connection is one to NATS, which the logs with the same servers and the same
// login share. It is kept up in the background for as long as one of them is open.
type connection struct {
	key   connectionKey
	users int

	dialled chan struct{} // closed when that was tried; the fields below are as they are then
	nc      *nats.Conn
	err     error // of connecting

	// payload is the most that the server takes at once, in bytes. Like lost, it is
	// kept here, since nc holds its own lock while it writes to the network.
	payload atomic.Int64

	mu      sync.Mutex       // protects the fields below
	lost    error            // why there is no connection; nil if there is one
	denied  map[string]error // violations of permissions since it was connected, by their text
	changed map[any]func()
}

// connect returns a connection for a log, an open one if there is one. release
// gives it back. A server that cannot be reached is an error.
func connect(ctx context.Context, o *Options) (*connection, error) {
	key := connectionKey{
		strings.Join(o.Servers, ","), o.Prefix, o.Credentials, o.NKey, o.User, o.Password, o.Token, o.TLS,
	}
	connections.Lock()
	c := connections.open[key]
	if c == nil {
		c = &connection{key: key, dialled: make(chan struct{}), denied: make(map[string]error), changed: make(map[any]func())}
		if connections.open == nil {
			connections.open = make(map[connectionKey]*connection)
		}
		connections.open[key] = c
		go c.dial(o)
	}
	c.users++
	connections.Unlock()
	select {
	case <-c.dialled:
	case <-ctx.Done():
		go func() { // dialling cannot be broken off, and nobody waits for it
			<-c.dialled
			c.release()
		}()
		return nil, fmt.Errorf("connecting to NATS at %s: %w", hideSecrets(key.servers), ctx.Err())
	}
	if c.err != nil {
		c.release()
		return nil, c.err
	}
	return c, nil
}

// release gives a connection back; the last one closes it.
func (c *connection) release() {
	connections.Lock()
	c.users--
	if c.users == 0 || c.err != nil { // whoever comes next tries again
		if connections.open[c.key] == c {
			delete(connections.open, c.key)
		}
	}
	last := c.users == 0
	connections.Unlock()
	if last && c.nc != nil {
		c.nc.Close()
	}
}

// dial connects. connect starts it; it ends after some seconds for each server.
func (c *connection) dial(o *Options) {
	defer close(c.dialled)
	options := []nats.Option{
		nats.Name("caddy-sse-fanin"),
		nats.Timeout(connectTimeout),
		nats.FlusherTimeout(writeTimeout), nats.ReconnectOnFlusherError(),
		nats.PingInterval(pingEvery), nats.MaxPingsOutstanding(2),
		nats.MaxReconnects(-1), nats.ReconnectWait(reconnectWait), nats.IgnoreAuthErrorAbort(),
		nats.ReconnectBufSize(-1), // what is not sent at once is an error
		nats.CustomInboxPrefix(inboxes(o.Prefix)),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if c.note(err) {
				o.Logger.Error("NATS does not permit what the log takes", zap.Error(err))
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			c.payload.Store(nc.MaxPayload())
			c.permit()
			c.announce()
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			c.noteLost(err)
			c.announce()
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { c.noteLost(err) }),
	}
	if o.Credentials != "" {
		options = append(options, nats.UserCredentials(o.Credentials))
	}
	if o.NKey != "" {
		option, err := nats.NkeyOptionFromSeed(o.NKey)
		if err != nil {
			c.err = fmt.Errorf("reading the nkey seed %s: %w", o.NKey, err)
			return
		}
		options = append(options, option)
	}
	if o.User != "" || o.Password != "" {
		options = append(options, nats.UserInfo(o.User, o.Password))
	}
	if o.Token != "" {
		options = append(options, nats.Token(o.Token))
	}
	if o.TLS != nil {
		options = append(options, nats.Secure(o.TLS))
	}
	var err error
	c.nc, err = nats.Connect(c.key.servers, options...)
	if err != nil {
		c.nc, c.err = nil, connectError(c.key.servers, err)
		return
	}
	c.payload.Store(c.nc.MaxPayload())
	if version := c.nc.ConnectedServerVersion(); !newEnough(version) {
		c.err = fmt.Errorf("the NATS server %s has version %s, %d.%d or a newer one is needed",
			c.nc.ConnectedUrlRedacted(), version, leastMajor, leastMinor)
	}
}

// connectError says what is wrong with a login, and with what else.
func connectError(servers string, err error) error {
	shown := hideSecrets(servers)
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked),
		errors.Is(err, nats.ErrAccountAuthExpired), strings.Contains(strings.ToLower(err.Error()), "authorization violation"):
		return fmt.Errorf("logging in to NATS at %s: %w; check credentials, nkey, user and password, or token", shown, err)
	case errors.Is(err, nats.ErrNoServers):
		return fmt.Errorf("connecting to NATS at %s: none of the servers can be reached: %w", shown, err)
	}
	return fmt.Errorf("connecting to NATS at %s: %w", shown, err)
}

// hideSecrets leaves out user and password of URLs.
func hideSecrets(servers string) string {
	urls := strings.Split(servers, ",")
	for i, u := range urls {
		if scheme, rest, ok := strings.Cut(u, "://"); ok {
			urls[i] = scheme + "://" + rest[strings.LastIndexByte(rest, '@')+1:]
		} else {
			urls[i] = u[strings.LastIndexByte(u, '@')+1:]
		}
	}
	return strings.Join(urls, ", ")
}

// newEnough reports whether a server's version will do. One that cannot be read
// is that of a server built by hand, and will.
func newEnough(version string) bool {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) < 2 {
		return true
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	if err1 != nil || err2 != nil {
		return true
	}
	return major > leastMajor || major == leastMajor && minor >= leastMinor
}

// note takes an error into account that NATS reports without being asked. It
// returns true for the violation of a permission that is not known yet.
func (c *connection) note(err error) bool {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return false
	}
	text := strings.ToLower(err.Error())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.denied[text] != nil {
		return false
	}
	if len(c.denied) >= mostDenied {
		clear(c.denied)
	}
	c.denied[text] = err
	return true
}

// permit notes a new connection, and forgets the violations: the login may permit
// more now.
func (c *connection) permit() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = nil
	clear(c.denied)
}

// noteLost notes why there is no connection.
func (c *connection) noteLost(err error) {
	if err == nil {
		err = errors.New("the server has ended it")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = err
}

// state returns why there is no connection; nil if there is one.
func (c *connection) state() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost == nil {
		return nil
	}
	return fmt.Errorf("no connection to NATS at %s: %w", hideSecrets(c.key.servers), c.lost)
}

// violation returns a violation of a permission on a subject; nil if there was
// none.
func (c *connection) violation(subject string) error {
	quoted := `"` + strings.ToLower(subject) + `"`
	c.mu.Lock()
	defer c.mu.Unlock()
	for text, err := range c.denied {
		if strings.Contains(text, quoted) {
			return fmt.Errorf("NATS does not permit it: %w; the user needs this permission", err)
		}
	}
	return nil
}

// watch has f called after the connection has been lost or made again. f does
// not block. forget ends that.
func (c *connection) watch(owner any, f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed[owner] = f
}

func (c *connection) forget(owner any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.changed, owner)
}

func (c *connection) announce() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.changed {
		f()
	}
}

// logOpen says what was found.
func (c *connection) logOpen(logger *zap.Logger, o *Options) {
	logger.Info("connected to NATS", zap.String("server", c.nc.ConnectedUrlRedacted()), zap.String("version", c.nc.ConnectedServerVersion()),
		zap.Int("replicas", o.Replicas))
}
