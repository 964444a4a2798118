package chaos

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// buildRace builds Caddy with the race detector, and a clock that can be set
// where that is possible.
func buildRace() (string, error) {
	command := "./cmd/caddy"
	if ssetest.SteppedClocks() {
		command = ssetest.SteppedCaddy
	}
	return ssetest.Build(command, true)
}

// process is a running Caddy.
type process struct {
	*ssetest.Process
	dir           string
	plain, secure string // addresses of the sites
	socket        string
	admin         *http.Client
	clock         *ssetest.SteppedClock // nil where clocks cannot be set
}

// startProcess runs Caddy with two sites that have nothing.
func startProcess(binary, dir string) (*process, error) {
	p := &process{dir: dir, socket: filepath.Join(dir, "admin.sock")}
	if _, _, err := ssetest.WriteCertificate(dir); err != nil {
		return nil, err
	}
	for _, addr := range []*string{&p.plain, &p.secure} {
		var err error
		if *addr, err = ssetest.FreeAddr(); err != nil {
			return nil, err
		}
	}
	p.admin = ssetest.UnixClient(p.socket, time.Minute)
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(p.idle()), 0o600); err != nil {
		return nil, err
	}
	env := []string{"GOTRACEBACK=all"}
	if ssetest.SteppedClocks() {
		var err error
		if p.clock, err = ssetest.NewSteppedClock(dir); err != nil {
			return nil, err
		}
		env = append(env, p.clock.Env())
	}
	var err error
	if p.Process, err = ssetest.StartProcess(dir, env, binary, "run", "--config", file, "--adapter", "caddyfile"); err != nil {
		return nil, err
	}
	return p, ssetest.AwaitListening(time.Minute, p.secure)
}

// kill ends the process, and its clock with it.
func (p *process) kill() {
	p.Kill()
	if p.clock != nil {
		_ = p.clock.Close()
	}
}

// idle is the configuration that a process begins with: both sites, nothing
// in them.
func (p *process) idle() string {
	return p.caddyfile("", "respond /version idle\n", "respond /version idle\n")
}

// load loads a configuration, and returns Caddy's answer.
func (p *process) load(caddyfile string) (status int, answer string, err error) {
	resp, err := p.admin.Post("http://caddy/load", "text/caddyfile", strings.NewReader(caddyfile))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func (p *process) call(method, path string) (string, error) {
	req, err := http.NewRequest(method, "http://caddy"+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := p.admin.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// streamNames are the streams of the process with their upstreams.
func (p *process) streamNames() (map[string][]string, error) {
	body, err := p.call(http.MethodGet, "/sse_fanin/streams")
	if err != nil {
		return nil, err
	}
	var list []struct {
		Name      string `json:"name"`
		Upstreams []struct {
			Name string `json:"name"`
		} `json:"upstreams"`
	}
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		return nil, fmt.Errorf("reading the streams: %w: %s", err, body)
	}
	names := make(map[string][]string)
	for _, s := range list {
		names[s.Name] = nil
		for _, u := range s.Upstreams {
			names[s.Name] = append(names[s.Name], u.Name)
		}
	}
	return names, nil
}

var (
	goroutineTotal = regexp.MustCompile(`goroutine profile: total (\d+)`)
	heapInUse      = regexp.MustCompile(`# HeapAlloc = (\d+)`)
)

// usage is what a process has taken.
type usage struct {
	goroutines, descriptors int
	heap                    int64 // bytes, after a collection
}

func (p *process) usage() (u usage, err error) {
	stacks, err := p.call(http.MethodGet, "/debug/pprof/goroutine?debug=1")
	if err != nil {
		return u, err
	}
	if m := goroutineTotal.FindStringSubmatch(stacks); m != nil {
		u.goroutines, _ = strconv.Atoi(m[1])
	}
	heap, err := p.call(http.MethodGet, "/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		return u, err
	}
	if m := heapInUse.FindStringSubmatch(heap); m != nil {
		u.heap, _ = strconv.ParseInt(m[1], 10, 64)
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID()))
	if os.IsNotExist(err) {
		err = nil // no /proc
	}
	u.descriptors = len(files)
	return u, err
}

// heapEntry is what the heap profile has of one stack: objects and bytes in use,
// and the functions of the stack. They are samples, one in some 512 KiB.
var heapEntry = regexp.MustCompile(`(?m)^(\d+): (\d+) \[\d+: \d+\] @.*\n(?:#.*\n)*`)

// largestHeld returns the n entries of the heap profile that hold most.
func (p *process) largestHeld(n int) (string, error) {
	profile, err := p.call(http.MethodGet, "/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		return "", err
	}
	type entry struct {
		text string
		held int64
	}
	var entries []entry
	for _, m := range heapEntry.FindAllStringSubmatch(profile, -1) {
		if held, _ := strconv.ParseInt(m[2], 10, 64); held > 0 {
			entries = append(entries, entry{m[0], held})
		}
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Compare(b.held, a.held) })
	var b strings.Builder
	for _, e := range entries[:min(n, len(entries))] {
		b.WriteString(e.text)
	}
	return b.String(), nil
}

// exit asks the process to end, by a signal or as `caddy stop` does, and
// returns how long it took.
func (p *process) exit(signal bool, atMost time.Duration) (time.Duration, error) {
	begin := time.Now()
	if signal {
		if err := p.Terminate(); err != nil {
			return 0, err
		}
	} else {
		go func() { _, _ = p.call(http.MethodPost, "/stop") }() // it is answered when all has stopped
	}
	if !p.WaitExit(atMost) {
		took, stacks := time.Since(begin), p.stacks()
		if heldElsewhere(stacks) {
			return took, fmt.Errorf("it has not exited after %s, %w:\n%s", atMost, errHeldElsewhere, stacks)
		}
		return took, fmt.Errorf("it has not exited after %s:\n%s", atMost, stacks)
	}
	return time.Since(begin), p.Err()
}

// stacks ends the process and returns its connections and the stacks of all its
// goroutines. It asks nothing of the process, whose admin endpoint may be gone.
func (p *process) stacks() string {
	conns := p.connections()
	from := len(p.Log.String())
	p.Abort()
	p.WaitExit(patience)
	return conns + p.Log.String()[from:]
}

// errHeldElsewhere is the end of a process that is held up by the servers of the
// running configuration only.
var errHeldElsewhere = errors.New("a server of the running configuration holds it up")

var (
	exiting  = regexp.MustCompile(`(?m)^goroutine (\d+) [^\n]*\n(?:[^\n]+\n)*?github\.com/caddyserver/caddy/v2\.exitProcess\(`)
	shutdown = regexp.MustCompile(`(?m)^net/http\.\(\*Server\)\.Shutdown\((?:[^\n]+\n)*?created by [^\n]*\(\*App\)\.stop in goroutine (\d+)`)
)

// heldElsewhere reports whether the exit waits for servers of the running
// configuration, and for no others.
func heldElsewhere(stacks string) bool {
	exit := exiting.FindStringSubmatch(stacks)
	waiting := shutdown.FindAllStringSubmatch(stacks, -1)
	return exit != nil && len(waiting) > 0 &&
		!slices.ContainsFunc(waiting, func(m []string) bool { return m[1] != exit[1] })
}

// connections lists the process's own TCP connections: state, what is queued
// to be sent and was not read (tx:rx), and addresses, as /proc has them.
func (p *process) connections() string {
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return "" // no /proc
	}
	inodes := make(map[string]bool)
	fds := fmt.Sprintf("/proc/%d/fd/", p.PID())
	files, _ := os.ReadDir(fds)
	for _, f := range files {
		target, _ := os.Readlink(fds + f.Name())
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			inodes[strings.TrimSuffix(inode, "]")] = true
		}
	}
	var b strings.Builder
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 9 && inodes[f[9]] {
			fmt.Fprintf(&b, "socket %s: %s -> %s, state %s, queues %s\n", f[9], tcpAddress(f[1]), tcpAddress(f[2]), f[3], f[4])
		}
	}
	return b.String()
}

// tcpAddress is an address of /proc/net/tcp with its port as it is written
// elsewhere.
func tcpAddress(s string) string {
	ip, port, _ := strings.Cut(s, ":")
	n, _ := strconv.ParseUint(port, 16, 16)
	return fmt.Sprintf("%s:%d", ip, n)
}

// troubles are the lines of a log that must not be there.
var troubles = regexp.MustCompile(`(?m)^WARNING: DATA RACE|^panic:|^fatal error:|panic serving|"level":"(?:dpanic|panic|fatal)"|runtime error`)

func (p *process) trouble() string {
	text := p.Log.String()
	at := troubles.FindStringIndex(text)
	if at == nil {
		return ""
	}
	return text[max(at[0]-200, 0):min(at[1]+6000, len(text))]
}
