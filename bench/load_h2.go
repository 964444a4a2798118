package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
)

// http2Group is the clients that share a connection, as the tabs of a browser
// or the users behind a proxy do.
type http2Group struct {
	client *http.Client
}

// newHTTP2Groups returns a group for each connection.
func newHTTP2Groups(l *load, streams int) []*http2Group {
	n := (streams + l.cfg.StreamsPerConn - 1) / l.cfg.StreamsPerConn
	groups := make([]*http2Group, n)
	for i := range groups {
		dialer := &countingDialer{load: l, shard: &l.shards[i%loadShards]}
		transport := &http.Transport{
			DialContext:        dialer.dial,
			TLSClientConfig:    clientTLS.Clone(),
			Protocols:          new(http.Protocols),
			DisableCompression: true,
			MaxConnsPerHost:    1,
		}
		transport.Protocols.SetHTTP2(true)
		groups[i] = &http2Group{client: &http.Client{Transport: transport}}
	}
	return groups
}

// openHTTP2 connects as a stream of the group's connection.
func (c *loadConn) openHTTP2(group *http2Group) error {
	req, err := http.NewRequest(http.MethodGet, "https://"+c.load.cfg.Addr+c.stream.Path, nil) //nolint:noctx // it lives as long as the process
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := group.client.Do(req)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		_ = resp.Body.Close()
		return fmt.Errorf("%w: %s %s", errNoEventStream, resp.Proto, resp.Status)
	}
	go c.read(resp.Body)
	return nil
}

// clientTLS is how clients trust a server.
var clientTLS = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // its certificate was made a moment ago

// countingDialer connects to the server, whatever the address, and counts what comes from there.
type countingDialer struct {
	load  *load
	shard *shard
}

func (d *countingDialer) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	conn, err := d.load.dialer().DialContext(ctx, network, d.load.cfg.Addr)
	if err != nil {
		return nil, err
	}
	return &countingConn{Conn: conn, shard: d.shard}, nil
}

type countingConn struct {
	net.Conn
	shard *shard
}

func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.shard.bytes.Add(uint64(n))
	return n, err
}
