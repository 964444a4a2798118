package main

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/demo"
)

var (
	//go:embed nats.conf
	natsConfig []byte

	//go:embed node.Caddyfile
	nodeCaddyfile []byte

	//go:embed balancer.Caddyfile
	balancerCaddyfile []byte
)

const (
	nodes = 3 // of each kind

	// How long everything may take to be ready.
	startPatience = 2 * time.Minute

	// How often it is asked meanwhile.
	startStep = 200 * time.Millisecond

	// How long a process may take to end in order.
	endPatience = 3 * time.Second
)

// cluster is all that the example consists of.
type cluster struct {
	listen   string // of the balancer
	origins  []*demo.Origin
	nats     []*natsNode
	caddys   []*caddyNode
	balancer *process

	control *http.Server
	client  *http.Client // asks the nodes how they are

	stopOrigins context.CancelFunc
	wg          sync.WaitGroup // the origins' producers and the control server
}

// natsNode is a NATS server.
type natsNode struct {
	*process
	address string
	monitor string // the address that says how it is
}

// caddyNode is a Caddy that shares the log.
type caddyNode struct {
	*process
	address string
}

// start starts everything, and waits until every Caddy is ready. On an error
// nothing is left running.
func start(ctx context.Context, listen, dir string, built programs) (*cluster, error) {
	c := &cluster{
		listen:  listen,
		origins: []*demo.Origin{demo.NewTicker(), demo.NewBuilds()},
		client:  &http.Client{Timeout: askTimeout},
	}
	err := c.startAll(dir, built)
	if err == nil {
		err = c.awaitReady(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *cluster) startAll(dir string, built programs) error {
	producing, cancel := context.WithCancel(context.Background())
	c.stopOrigins = cancel
	for _, o := range c.origins {
		if err := o.Start(); err != nil {
			return err
		}
		c.wg.Go(func() { o.Produce(producing) })
	}
	files := map[string][]byte{"nats.conf": natsConfig, "node.Caddyfile": nodeCaddyfile, "balancer.Caddyfile": balancerCaddyfile}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return err
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("starting the control server: %w", err)
	}
	if err := c.configure(dir, built, ln.Addr().String()); err != nil {
		return errors.Join(err, ln.Close())
	}
	c.control = &http.Server{Handler: c.handler(), ReadHeaderTimeout: 5 * time.Second}
	c.wg.Go(func() { c.serveControl(ln) })
	for _, p := range c.processes() {
		if err := p.start(); err != nil {
			return err
		}
	}
	return nil
}

// serveControl serves the page and its buttons until close.
func (c *cluster) serveControl(ln net.Listener) {
	_ = c.control.Serve(ln) // always http.ErrServerClosed once close was called
}

// configure gives every process its addresses and its part of a secret.
func (c *cluster) configure(dir string, built programs, page string) error {
	free, err := freeAddresses(4 * nodes)
	if err != nil {
		return err
	}
	take := func() (address string) {
		address, free = free[0], free[1:]
		return address
	}
	password := "p" + rand.Text() // a letter first: NATS would read a number as one
	var urls, addresses, routes []string
	for i := range nodes {
		n := &natsNode{address: take(), monitor: take()}
		route := take()
		routes = append(routes, fmt.Sprintf("NATS_ROUTE_%d=nats://%s", i+1, route))
		urls = append(urls, "nats://"+n.address)
		n.process = &process{name: fmt.Sprintf("nats-%d", i+1), binary: built.nats, dir: dir}
		n.args = []string{"-c", filepath.Join(dir, "nats.conf")}
		n.env = []string{
			"NATS_NAME=" + n.name, "NATS_LISTEN=" + n.address, "NATS_MONITOR=" + n.monitor, "NATS_CLUSTER_LISTEN=" + route,
			"NATS_STORE=" + filepath.Join(dir, n.name), "NATS_PASSWORD=" + password,
		}
		c.nats = append(c.nats, n)
	}
	for _, n := range c.nats {
		n.env = append(n.env, routes...)
	}
	for i := range nodes {
		n := &caddyNode{address: take()}
		addresses = append(addresses, fmt.Sprintf("CADDY_%d=%s", i+1, n.address))
		n.process = newCaddy(fmt.Sprintf("caddy-%d", i+1), "node.Caddyfile", n.address, dir, built)
		n.env = append(n.env,
			"NATS_URLS="+strings.Join(urls, ","), "NATS_PASSWORD="+password,
			"TICKER_URL=http://"+c.origins[0].Address()+"/events", "BUILDS_URL=http://"+c.origins[1].Address()+"/events",
		)
		c.caddys = append(c.caddys, n)
	}
	c.balancer = newCaddy("balancer", "balancer.Caddyfile", c.listen, dir, built)
	c.balancer.env = append(append(c.balancer.env, addresses...), "PAGE="+page)
	return nil
}

// newCaddy returns a Caddy with one of the files, which has its name and address
// from the environment.
func newCaddy(name, file, address, dir string, built programs) *process {
	host, port, _ := net.SplitHostPort(address) // it was made by JoinHostPort
	home := filepath.Join(dir, name)
	return &process{
		name: name, binary: built.caddy, dir: dir,
		args: []string{"run", "--adapter", "caddyfile", "--config", filepath.Join(dir, file)},
		env:  []string{"NODE=" + name, "BIND=" + host, "PORT=" + port, "HOME=" + home, "XDG_DATA_HOME=" + home, "XDG_CONFIG_HOME=" + home},
	}
}

// processes returns all that there are, in the order in which they start.
func (c *cluster) processes() []*process {
	all := make([]*process, 0, 2*nodes+1)
	for _, n := range c.nats {
		all = append(all, n.process)
	}
	for _, n := range c.caddys {
		all = append(all, n.process)
	}
	if c.balancer != nil {
		all = append(all, c.balancer)
	}
	return all
}

// awaitReady waits until every Caddy has the log, and clients can reach them.
func (c *cluster) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	ticker := time.NewTicker(startStep)
	defer ticker.Stop()
	for !c.ready(ctx) {
		for _, p := range c.processes() {
			if !p.running() {
				return p.failure()
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the Caddys to be ready: %w\n%s", ctx.Err(), c.caddys[0].lastLines(15))
		case <-ticker.C:
		}
	}
	return nil
}

func (c *cluster) ready(ctx context.Context) bool {
	for _, n := range c.caddys {
		if c.ask(ctx, "http://"+n.address+"/status?ready", nil) != nil {
			return false
		}
	}
	return c.ask(ctx, c.url()+"cluster/state", nil) == nil
}

// close ends everything and waits for it: first who connects, then what is
// connected to.
func (c *cluster) close() error {
	var errs []error
	stop := func(all ...*process) {
		ends := make([]error, len(all))
		var ending sync.WaitGroup
		for i, p := range all {
			ending.Go(func() { ends[i] = p.stop(endPatience) })
		}
		ending.Wait()
		errs = append(errs, ends...)
	}
	if c.balancer != nil {
		stop(c.balancer)
	}
	all := c.processes()
	stop(all[min(len(c.nats), len(all)):]...)
	stop(all[:min(len(c.nats), len(all))]...)
	c.stopOrigins()
	for _, o := range c.origins {
		errs = append(errs, o.Stop())
	}
	if c.control != nil {
		errs = append(errs, c.control.Close())
	}
	c.wg.Wait()
	c.client.CloseIdleConnections()
	return errors.Join(errs...)
}

// url returns the address of the page.
func (c *cluster) url() string { return "http://" + c.listen + "/" }
