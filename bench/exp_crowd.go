package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// crowdShare is how many clients one load process has at most. Each has an
	// address of its own to come from, which has some 28,000 ports.
	crowdShare = 10_000

	// crowdSpare is how many files of a server are left for anything but clients.
	crowdSpare = 1000

	// crowdMemory bounds the number of clients by the memory that there is: what
	// one takes in the server, its load process and twice in the kernel, with a
	// margin.
	crowdMemory = 128 << 10

	// crowdLooks is how often the server's memory is read while events are sent.
	crowdLooks = 50
)

// crowdConfig is how many clients come, and what they are sent, an event a second.
type crowdConfig struct {
	clients int
	soak    time.Duration // how long they are only sent events
	reload  time.Duration // how long they are then, with a reload in the midst
}

func (s scale) crowd() experiment {
	cfg := crowdConfig{clients: s.clients, soak: s.soak, reload: 10 * time.Second}
	if cfg.clients == 0 {
		cfg.clients = mostClients()
	}
	if s.level == short {
		cfg.reload = 3 * time.Second
	}
	names := []string{"fanin", "fanin-detach"}
	if s.level == full {
		names = append(names, "fanin-tls", "fanin-detach-tls", "fanin-h2")
	}
	e := experiment{
		name: expCrowd, title: "A crowd", runs: min(s.runs, 1), lasts: s.soak,
		metrics: []metric{
			connectTime, firstByteP50, firstByteP99, p50, p99, maxLatency, cpuServer,
			activeKiB, kernelKiB, perGiB, growth, reloadTime, reloadP99, reloadKiB, exitTime,
		},
		conditions: fmt.Sprintf("%d clients connect as fast as they can, and get one event a second of 250 B for %s; then for %s more, in the midst of which the configuration is loaded again; then the server is sent SIGTERM, and the response of each client has to be ended, not cut off. "+
			"Memory for each client is the server's, and half of what the kernel has for the connections, whose other ends are on this machine, too. Growth is the server's memory at the end of that time, divided by that after a tenth of it",
			cfg.clients, cfg.soak, cfg.reload),
	}
	for _, name := range names {
		e.cases = append(e.cases, testCase{system: name, run: func(ctx context.Context, sys *system) (figures, error) {
			return measureCrowd(ctx, sys, cfg)
		}})
	}
	return e
}

// mostClients is how many clients a server may have here: each is a file, and needs
// memory.
func mostClients() int {
	most := uint64(1 << 20)
	if limit := fileLimit(); limit < most+crowdSpare {
		most = max(limit, crowdSpare+1) - crowdSpare
	}
	if available, err := availableMemory(); err == nil {
		most = min(most, available/crowdMemory)
	}
	return int(most)
}

// crowd is the load processes of many clients.
type crowd []*process

// crowdOf starts the load processes of a rig's clients.
func crowdOf(r *rig, clients int) (crowd, error) {
	c := crowd{r.clients}
	for len(c)*crowdShare < clients {
		p, err := startProcess("load")
		if err != nil {
			return nil, err
		}
		r.others = append(r.others, p)
		c = append(c, p)
	}
	return c, nil
}

// each has all processes do something at the same time. It returns the first error.
func (c crowd) each(do func(i int, p *process) error) error {
	errs := make([]error, len(c))
	var all sync.WaitGroup
	for i, p := range c {
		all.Go(func() { errs[i] = do(i, p) })
	}
	all.Wait()
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		return errs[i]
	}
	return nil
}

// connect connects all clients, and returns how long they waited for the head of
// their response: of each quantile, that of the process where it is highest.
func (c crowd) connect(ctx context.Context, load loadConfig) (quantiles, error) {
	took := make([]quantiles, len(c))
	clients := load.Clients
	err := c.each(func(i int, p *process) error {
		load := load
		load.Clients = clients*(i+1)/len(c) - clients*i/len(c)
		load.From = fmt.Sprintf("127.0.%d.%d", 1+i/250, 1+i%250)
		return p.call(ctx, "connect", load, &took[i])
	})
	return highest(took), err
}

// highest returns of each quantile the highest.
func highest(all []quantiles) (q quantiles) {
	for _, p := range all {
		q.P50, q.P99 = max(q.P50, p.P50), max(q.P99, p.P99)
		q.P999, q.Max = max(q.P999, p.P999), max(q.Max, p.Max)
	}
	return q
}

func (c crowd) mark(ctx context.Context) error {
	return c.each(func(_ int, p *process) error { return p.call(ctx, "mark", none{}, nil) })
}

// settle waits until the origin has published everything and all clients have it.
// Latency is as in connect.
func (c crowd) settle(ctx context.Context, origin *process) (loadReport, error) {
	var sent published
	if err := origin.call(ctx, "wait", none{}, &sent); err != nil {
		return loadReport{}, err
	}
	reports := make([]loadReport, len(c))
	if err := c.each(func(i int, p *process) error {
		return p.call(ctx, "settle", settleConfig{Sent: sent.Sent, Timeout: settleTimeout}, &reports[i])
	}); err != nil {
		return loadReport{}, err
	}
	var (
		sum     loadReport
		latency []quantiles
	)
	for _, report := range reports {
		sum.Events += report.Events
		sum.Faults.add(report.Faults)
		latency = append(latency, report.Latency)
	}
	sum.Latency = highest(latency)
	return sum, nil
}

// measureCrowd has many clients come, stay, live through a reload and see the
// server's end.
func measureCrowd(ctx context.Context, s *system, cfg crowdConfig) (figures, error) {
	r, err := newRig(ctx, s, workload{clients: cfg.clients, payload: 250}, "")
	if err != nil {
		return figures{}, err
	}
	defer r.close()
	loads, err := crowdOf(r, cfg.clients)
	if err != nil {
		return figures{}, err
	}
	m := &crowdMemories{server: r.server, clients: cfg.clients}
	if err := m.begin(); err != nil {
		return figures{}, err
	}
	f := figures{Values: map[metric]float64{}}
	began := time.Now()
	firstByte, err := loads.connect(ctx, r.loadConfig(cfg.clients))
	if err != nil {
		return figures{}, err
	}
	f.Values[connectTime] = micros(time.Since(began))
	f.Values[firstByteP50], f.Values[firstByteP99] = micros(firstByte.P50), micros(firstByte.P99)
	for _, part := range []func() error{
		func() error { return r.soak(ctx, loads, m, cfg.soak, f.Values) },
		func() error { return r.reloadWith(ctx, loads, m, cfg.reload, f.Values) },
	} {
		if err := part(); err != nil {
			return figures{}, err
		}
	}
	took, ended, err := r.exit(ctx, loads...)
	if err != nil {
		return figures{}, err
	}
	f.Values[exitTime], f.Faults = micros(took), ended.String()
	return f, nil
}

// soak sends the clients an event a second for a time.
func (r *rig) soak(ctx context.Context, loads crowd, m *crowdMemories, lasts time.Duration, values map[metric]float64) error {
	before, err := usageOf(r.server.pids)
	if err != nil {
		return err
	}
	if err := loads.mark(ctx); err != nil {
		return err
	}
	if err := r.publish(ctx, publishConfig{Rate: 1, Duration: lasts}); err != nil {
		return err
	}
	for look := range crowdLooks {
		if err := sleep(ctx, lasts/crowdLooks); err != nil {
			return err
		}
		if err := m.look(look == crowdLooks/10); err != nil {
			return err
		}
	}
	report, err := loads.settle(ctx, r.origin)
	if err != nil {
		return err
	}
	if faults := report.Faults.String(); faults != "" {
		return fmt.Errorf("one event a second: %s", faults)
	}
	after, err := usageOf(r.server.pids)
	if err != nil {
		return err
	}
	values[p50], values[p99], values[maxLatency] = micros(report.Latency.P50), micros(report.Latency.P99), micros(report.Latency.Max)
	values[cpuServer] = micros(after.minus(before).cpu) / float64(report.Events)
	values[activeKiB], values[kernelKiB] = m.perClient(m.last), m.kernelPerClient()
	values[perGiB] = (1 << 20) / (values[activeKiB] + values[kernelKiB])
	values[growth] = float64(m.last) / float64(m.early)
	return nil
}

// reloadWith has the server load its configuration again while clients are served.
func (r *rig) reloadWith(ctx context.Context, loads crowd, m *crowdMemories, lasts time.Duration, values map[metric]float64) error {
	if err := loads.mark(ctx); err != nil {
		return err
	}
	if err := r.publish(ctx, publishConfig{Rate: 1, Duration: lasts}); err != nil {
		return err
	}
	if err := sleep(ctx, lasts/3); err != nil {
		return err
	}
	began := time.Now()
	if err := r.server.reload(ctx); err != nil {
		return err
	}
	values[reloadTime] = micros(time.Since(began))
	report, err := loads.settle(ctx, r.origin)
	if err != nil {
		return err
	}
	if faults := report.Faults.String(); faults != "" {
		return fmt.Errorf("reloading: %s", faults)
	}
	if err := m.look(false); err != nil {
		return err
	}
	values[reloadP99], values[reloadKiB] = micros(report.Latency.P99), m.perClient(m.last)
	return nil
}

// crowdMemories is what the clients of a server cost, in bytes.
type crowdMemories struct {
	server  *running
	clients int

	empty, early, last   uint64 // of the server: without clients, after a tenth of the time, now
	kernelEmpty, kernels uint64 // of the kernel: before the clients came, and after a tenth of the time
	tablesEmpty, tables  uint64 // of those, the server's page tables
}

// begin notes what there is without clients.
func (m *crowdMemories) begin() (err error) {
	if m.empty, err = residentOf(m.server.pids); err != nil {
		return err
	}
	m.kernelEmpty, m.tablesEmpty, err = m.kernel()
	return err
}

// look notes what there is now.
func (m *crowdMemories) look(early bool) (err error) {
	if m.last, err = residentOf(m.server.pids); err != nil || !early {
		return err
	}
	m.early = m.last
	m.kernels, m.tables, err = m.kernel()
	return err
}

func (m *crowdMemories) kernel() (shared, tables uint64, err error) {
	if shared, err = kernelMemory(); err != nil {
		return 0, 0, err
	}
	tables, err = pageTables(m.server.main.pid())
	return shared, tables, err
}

// perClient is the share of a client in KiB.
func (m *crowdMemories) perClient(bytes uint64) float64 {
	return (float64(bytes) - float64(m.empty)) / 1024 / float64(m.clients)
}

// kernelPerClient is the share of a client of what the kernel has, in KiB.
func (m *crowdMemories) kernelPerClient() float64 {
	connections := (float64(m.kernels) - float64(m.kernelEmpty)) / 2
	return (connections + float64(m.tables) - float64(m.tablesEmpty)) / 1024 / float64(m.clients)
}
