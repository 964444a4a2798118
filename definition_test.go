package ssefanin

import (
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// changingAddresses are others at each look-up: three of five.
type changingAddresses struct {
	Port string `json:"port,omitempty"`
}

var changing atomic.Int64 // look-ups

func init() { caddy.RegisterModule(new(changingAddresses)) }

func (*changingAddresses) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.upstreams.test_changing",
		New: func() caddy.Module { return new(changingAddresses) },
	}
}

func (c *changingAddresses) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&c.Port) {
		return d.ArgErr()
	}
	return nil
}

func (c *changingAddresses) GetUpstreams(*http.Request) ([]*reverseproxy.Upstream, error) {
	n := changing.Add(1)
	var all []*reverseproxy.Upstream
	for i := range int64(3) {
		ip := fmt.Sprint("127.0.0.", 1+(n+i)%5)
		all = append(all, &reverseproxy.Upstream{Dial: net.JoinHostPort(ip, c.Port)})
	}
	return all, nil
}

// The streams of all keys are made of one definition, at the same time. Each
// client stays until addresses were looked up, most likely for its own key.
func TestDefinitionsAreSharedByTheStreamsOfAllKeys(t *testing.T) {
	e := newEchoOrigin(t)
	other := newOrigin(t, ssetest.OriginConfig{})
	_, port, _ := net.SplitHostPort(other.Addr())
	in := serve(t, "", `sse_fanin /events {
		upstream own    http://`+e.Addr()+`/{query.user}
		upstream shared http://shared.example.test/ {
			dynamic test_changing `+port+`
			backoff 10s
		}
		max_streams 2000
		connect on_demand 1ms
	}`)
	var clients sync.WaitGroup
	for i := range 4 {
		clients.Go(func() {
			for n := range 25 {
				before := changing.Load()
				c := ssetest.StartClient(ssetest.ClientConfig{URL: in.url(fmt.Sprintf("/events?user=%d-%d", i, n))})
				if err := c.WaitOpen(within(t, 10*time.Second), 1); err != nil {
					t.Errorf("client %d of %d: %v", n, i, err)
				}
				if err := ssetest.Await(patience, "addresses are looked up", func() bool { return changing.Load() > before }); err != nil {
					t.Errorf("client %d of %d: %v", n, i, err)
				}
				c.Close()
			}
		})
	}
	clients.Wait()
	eventually(t, 10*time.Second, "the keys have ended", func() bool { return liveKeys() == 0 })
	eventually(t, 10*time.Second, "nothing is left of them", func() bool { return allHubs() == 0 && liveSources() == 0 })
}

// An upstream that has finished is asked again by a reload, not by a client
// that brings another key.
func TestNewKeyDoesNotAskAFinishedUpstreamAgain(t *testing.T) {
	e := newEchoOrigin(t)
	shared := newOrigin(t, ssetest.OriginConfig{})
	shared.RespondWith(http.StatusNoContent, nil, "")
	in := serve(t, "", "sse_fanin /events {\nupstream own http://"+e.Addr()+"/{query.user}\nupstream shared "+shared.URL()+"\nstart oldest\n}")
	gets(t, in.connect("/events?user=ann"), "/ann ")
	must(t, shared.WaitRequests(within(t, 10*time.Second), 1))
	finished := func() (found bool) {
		sources.Range(func(_, val any) bool {
			found = found || val.(*source).status().phase == phaseFinished
			return true
		})
		return found
	}
	eventually(t, 10*time.Second, "it has finished", finished)
	gets(t, in.connect("/events?user=bob"), "/bob ")
	if !finished() || shared.TotalConnections() != 1 {
		t.Errorf("it was asked %d times", shared.TotalConnections())
	}
}
