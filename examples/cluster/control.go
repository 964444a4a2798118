package main

import (
	_ "embed"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/sse-fanin/caddy-sse-fanin/internal/demo"
)

//go:embed page.html
var page string

// handler serves the page and its buttons:
//
//	GET  /                            the page
//	GET  /cluster/state               how everything is
//	POST /cluster/nodes/{name}/kill   ends a NATS server or a Caddy as kill -9 does
//	POST /cluster/nodes/{name}/start  starts it again
//
// Both buttons answer with the state.
func (c *cluster) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", demo.PageHandler(page))
	mux.HandleFunc("GET /cluster/state", c.serveState)
	mux.HandleFunc("POST /cluster/nodes/{name}/kill", c.serveButton((*process).kill))
	mux.HandleFunc("POST /cluster/nodes/{name}/start", c.serveButton((*process).start))
	// Some other page in the same browser has no business with the buttons,
	// neither by this address nor by a name of its own that leads here.
	return onlyThisMachine(http.NewCrossOriginProtection().Handler(mux))
}

// onlyThisMachine refuses requests that name another host than this machine.
func onlyThisMachine(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = strings.Trim(r.Host, "[]") // without a port
		}
		if !isLoopback(host) {
			http.Error(w, fmt.Sprintf("the host %q is not this machine", host), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (c *cluster) serveState(w http.ResponseWriter, r *http.Request) {
	demo.WriteJSON(w, http.StatusOK, c.state(r.Context()))
}

// serveButton does something to the node that the path names. The balancer, whose
// page has the buttons, is none.
func (c *cluster) serveButton(do func(*process) error) http.HandlerFunc {
	type failure struct {
		Error string `json:"error"`
	}
	return func(w http.ResponseWriter, r *http.Request) {
		for _, p := range c.processes() {
			if p.name != r.PathValue("name") || p == c.balancer {
				continue
			}
			if err := do(p); err != nil {
				demo.WriteJSON(w, http.StatusConflict, failure{err.Error()})
				return
			}
			c.serveState(w, r)
			return
		}
		demo.WriteJSON(w, http.StatusNotFound, failure{"no such node"})
	}
}
