// Package demo is a live picture of the module: two SSE origins, Caddy in
// front of them and a page that shows the merged stream and checks it.
//
// The module's command and examples/demo both run it. It names Caddy's modules,
// this one included, but imports none: that is for whoever runs it.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// Demo is the origins and the control server. Caddy, loaded with Config, is
// not part of it.
type Demo struct {
	listen  string
	origins []*Origin

	control        *http.Server
	controlAddress string

	cancel context.CancelFunc
	wg     sync.WaitGroup // the origins' producers and the control server
}

// New starts the origins and the control server, on free ports of the loopback
// interface. listen is the address that Caddy will listen on; it is an error
// when it is taken. Port 0 picks a free one.
func New(listen string) (*Demo, error) {
	listen, err := FreeAddress(listen)
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("starting the control server: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	d := &Demo{
		listen:         listen,
		origins:        []*Origin{NewTicker(), NewBuilds()},
		controlAddress: ln.Addr().String(),
		cancel:         cancel,
	}
	d.control = &http.Server{Handler: d.Handler(), ReadHeaderTimeout: 5 * time.Second}
	d.wg.Go(func() { d.serveControl(ln) })
	for _, o := range d.origins {
		if err := o.Start(); err != nil {
			return nil, errors.Join(err, d.Close())
		}
		d.wg.Go(func() { o.Produce(ctx) })
	}
	return d, nil
}

// serveControl serves the page and the switches until Close.
func (d *Demo) serveControl(ln net.Listener) {
	_ = d.control.Serve(ln) // always http.ErrServerClosed once Close was called
}

// Close stops the origins and the control server and waits for them.
func (d *Demo) Close() error {
	d.cancel()
	errs := make([]error, 0, len(d.origins)+1)
	for _, o := range d.origins {
		errs = append(errs, o.Stop())
	}
	errs = append(errs, d.control.Close())
	d.wg.Wait()
	return errors.Join(errs...)
}

// URL returns the address of the page.
func (d *Demo) URL() string {
	host, port, err := net.SplitHostPort(d.listen)
	if err != nil {
		return "http://" + d.listen + "/"
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port) + "/"
}

// FreeAddress returns listen with its port filled in, or an error when nothing
// can listen there. Caddy itself would share the port with another Caddy
// without a word, and its clients with it.
func FreeAddress(listen string) (string, error) {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("reading the address to listen on: %w", err)
	}
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return "", err // says which address, and why
	}
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		ln.Close()
		return "", fmt.Errorf("reading the address to listen on: %w", err)
	}
	return net.JoinHostPort(host, port), ln.Close()
}

// object is a JSON object.
type object map[string]any

// Config returns Caddy's configuration: /events is the merged stream, the rest
// is the page and its switches. Nothing is written to disk by it, and no
// admin endpoint is opened.
func (d *Demo) Config() ([]byte, error) {
	upstreams := make([]object, 0, len(d.origins))
	for _, o := range d.origins {
		upstreams = append(upstreams, object{
			"name": o.Name(),
			"urls": []string{"http://" + o.Address() + "/events"},
		})
	}
	routes := []object{
		{
			"match": []object{{"path": []string{"/events"}}},
			"handle": []object{{
				"handler":   "sse_fanin",
				"stream":    "demo",
				"upstreams": upstreams,
				"start":     100,
				// An origin that comes back is found within three seconds, a
				// browser that was cut off is back within two.
				"backoff": object{"base": "500ms", "max": "3s"},
				"retry":   object{"min": "1s", "max": "2s"},
				"retain":  object{"events": 20000},
			}},
			"terminal": true,
		},
		{
			"handle": []object{{
				"handler":   "reverse_proxy",
				"upstreams": []object{{"dial": d.controlAddress}},
			}},
		},
	}
	return json.MarshalIndent(object{
		"admin": object{
			"disabled": true,
			"config":   object{"persist": false},
		},
		"logging": object{"logs": object{"default": object{
			"level":   "WARN",
			"exclude": []string{"admin"}, // which warns of being disabled
			"encoder": object{"format": "console"},
		}}},
		"apps": object{
			"http": object{
				"grace_period": "1s",
				"servers": object{"demo": object{
					"listen":          []string{d.listen},
					"protocols":       []string{"h1"},
					"automatic_https": object{"disable": true},
					"routes":          routes,
				}},
			},
			// Without a certificate there is nothing to keep in order.
			"tls": object{
				"disable_storage_check": true,
				"disable_storage_clean": true,
			},
		},
	}, "", "\t")
}

// Handler serves the page and its switches:
//
//	GET  /                            the page
//	GET  /demo/state                  the origins' states and the clock
//	POST /demo/origins/{name}/start   listens again
//	POST /demo/origins/{name}/stop    closes the listener and connections
//
// Both switches answer with the state.
func (d *Demo) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", PageHandler(page))
	mux.HandleFunc("GET /demo/state", d.serveState)
	mux.HandleFunc("POST /demo/origins/{name}/start", d.serveSwitch((*Origin).Start))
	mux.HandleFunc("POST /demo/origins/{name}/stop", d.serveSwitch((*Origin).Stop))
	// Some other page in the same browser has no business with the switches.
	return http.NewCrossOriginProtection().Handler(mux)
}

func (d *Demo) serveState(w http.ResponseWriter, _ *http.Request) {
	states := make([]OriginState, 0, len(d.origins))
	for _, o := range d.origins {
		states = append(states, o.State())
	}
	WriteJSON(w, http.StatusOK, object{"origins": states, "now": time.Now().UnixMilli()})
}

func (d *Demo) serveSwitch(do func(*Origin) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for _, o := range d.origins {
			if o.Name() != r.PathValue("name") {
				continue
			}
			// The port may have gone to somebody else meanwhile.
			if err := do(o); err != nil {
				WriteJSON(w, http.StatusConflict, object{"error": err.Error()})
				return
			}
			d.serveState(w, r)
			return
		}
		WriteJSON(w, http.StatusNotFound, object{"error": "no such origin"})
	}
}
