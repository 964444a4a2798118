package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/demo"
)

// askTimeout is how long a node may take to say how it is.
const askTimeout = time.Second

// clusterState is what the page shows.
type clusterState struct {
	Now     int64              `json:"now"` // Unix milliseconds
	Origins []demo.OriginState `json:"origins"`
	Caddys  []caddyState       `json:"caddys"`
	NATS    []natsState        `json:"nats"`
}

// processState is that of every process.
type processState struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Running bool   `json:"running"`
	PID     int    `json:"pid"` // 0 unless it is running
}

// caddyState is a Caddy by its own account.
type caddyState struct {
	processState
	// What its log does: writing, following, loading or stalled. Empty if it does
	// not answer.
	Log     string `json:"log"`
	Error   string `json:"error"` // why it is stalled
	Clients int    `json:"clients"`
	MaxLag  uint64 `json:"max_lag"` // events
	Head    uint64 `json:"head"`    // the newest position that it has
}

// natsState is a NATS server by its own account.
type natsState struct {
	processState
	Healthy bool `json:"healthy"` // it has caught up with the others
	Leads   bool `json:"leads"`   // it takes what is appended to the log
}

// state asks every node how it is.
func (c *cluster) state(ctx context.Context) clusterState {
	s := clusterState{
		Caddys: make([]caddyState, len(c.caddys)),
		NATS:   make([]natsState, len(c.nats)),
	}
	var asking sync.WaitGroup
	for i, n := range c.caddys {
		asking.Go(func() { s.Caddys[i] = c.caddyState(ctx, n) })
	}
	for i, n := range c.nats {
		asking.Go(func() { s.NATS[i] = c.natsState(ctx, n) })
	}
	asking.Wait()
	for _, o := range c.origins {
		s.Origins = append(s.Origins, o.State())
	}
	s.Now = time.Now().UnixMilli()
	return s
}

func (p *process) state(address string) processState {
	return processState{Name: p.name, Address: address, Running: p.running(), PID: p.pid()}
}

// caddyStatus is the part of a Caddy's status that matters here.
type caddyStatus struct {
	Streams []struct {
		Log struct {
			Store struct {
				State string
				Error string
				Nodes []struct {
					Self    bool
					Clients int
					MaxLag  uint64 `json:"max_lag"`
					Head    uint64
				}
			}
		}
	}
}

func (c *cluster) caddyState(ctx context.Context, n *caddyNode) caddyState {
	s := caddyState{processState: n.process.state(n.address)}
	var status caddyStatus
	if !s.Running || c.ask(ctx, "http://"+n.address+"/status", &status) != nil || len(status.Streams) != 1 {
		return s
	}
	store := status.Streams[0].Log.Store
	s.Log, s.Error = store.State, store.Error
	for _, node := range store.Nodes {
		if node.Self {
			s.Clients, s.MaxLag, s.Head = node.Clients, node.MaxLag, node.Head
		}
	}
	return s
}

// jetStreamStatus is the part of a NATS server's /jsz that matters here.
type jetStreamStatus struct {
	Accounts []struct {
		Streams []struct {
			Name    string
			Cluster struct{ Leader string }
		} `json:"stream_detail"`
	} `json:"account_details"`
}

func (c *cluster) natsState(ctx context.Context, n *natsNode) natsState {
	s := natsState{processState: n.process.state(n.address)}
	if !s.Running {
		return s
	}
	var status jetStreamStatus
	s.Healthy = c.ask(ctx, "http://"+n.monitor+"/healthz", nil) == nil
	if c.ask(ctx, "http://"+n.monitor+"/jsz?streams=1", &status) != nil {
		return s
	}
	for _, account := range status.Accounts {
		for _, stream := range account.Streams {
			if stream.Name == logStream {
				s.Leads = stream.Cluster.Leader == n.name
			}
		}
	}
	return s
}

// logStream is the JetStream stream of the log, by its prefix and its name.
const logStream = "sse_fanin_live"

// ask gets a URL, and decodes its answer unless into is nil. An answer other than
// 200 is an error.
func (c *cluster) ask(ctx context.Context, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	res, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("asking %s: %s", url, res.Status)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(res.Body).Decode(into)
}
