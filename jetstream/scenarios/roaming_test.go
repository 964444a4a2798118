package scenarios

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// dialTimeout is how long a client waits before it tries the next node.
const dialTimeout = time.Second

// roaming is a way to the nodes, of one client: it connects the node whose turn it
// is, and if that refuses, the next one.
type roaming struct {
	nodes []*node
	turn  atomic.Int64
}

func newRoaming(nodes []*node, first int) *roaming {
	r := &roaming{nodes: nodes}
	r.turn.Store(int64(first))
	return r
}

// client returns an HTTP client that dials for every request.
func (r *roaming) client() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true, DialContext: r.dial}}
}

// next has the next connection be to another node.
func (r *roaming) next() { r.turn.Add(1) }

// at is the node whose turn it is.
func (r *roaming) at() *node { return r.nodes[int(r.turn.Load())%len(r.nodes)] }

func (r *roaming) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var errs []error
	for range r.nodes {
		n := r.at()
		dialing, cancel := context.WithTimeout(ctx, dialTimeout)
		conn, err := n.dial(dialing, "", "")
		cancel()
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		r.next()
	}
	return nil, errors.Join(errs...)
}
