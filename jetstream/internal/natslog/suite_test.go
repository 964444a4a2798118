package natslog

import (
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
	"github.com/sse-fanin/caddy-sse-fanin/logstore/storetest"
)

func TestSuite(t *testing.T) {
	s := startServer(t)
	storetest.Run(t, func(t *testing.T) storetest.Opener {
		p := startProxy(t, s.Addr().String())
		return storetest.Opener{
			Open: func(t *testing.T) logstore.Store {
				o := testOptions(t, "nats://"+p.address())
				o.Buffer = 1 << 20
				return mustOpen(t, o)
			},
			Shared: true,
			Block: func(*testing.T) func() {
				p.stop()
				return p.goOn
			},
		}
	})
}
