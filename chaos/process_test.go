package chaos

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// buildRace builds Caddy with the race detector, and a clock that can be set
// where that is possible.
func buildRace(dir string) (string, error) {
	binary, source := filepath.Join(dir, "caddy"), "./cmd/caddy"
	if ssetest.SteppedClocks() {
		source = ssetest.SteppedCaddy
	}
	cmd := exec.Command("go", "build", "-race", "-o", binary, source)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building Caddy with the race detector: %w\n%s", err, out)
	}
	return binary, nil
}

// process is a running Caddy.
type process struct {
	cmd           *exec.Cmd
	dir           string
	plain, secure string // addresses of the sites
	socket        string
	admin         *http.Client
	log           *logBuffer
	clock         *ssetest.SteppedClock // nil where clocks cannot be set
	done          chan struct{}         // closed when it has ended
	err           error                 // how; after done
}

// logBuffer keeps what a process writes.
type logBuffer struct {
	mu  sync.Mutex // protects buf
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// startProcess runs Caddy with two sites that have nothing.
func startProcess(binary, dir string) (*process, error) {
	p := &process{dir: dir, log: new(logBuffer), done: make(chan struct{}), socket: filepath.Join(dir, "admin.sock")}
	if err := writeCertificate(dir); err != nil {
		return nil, err
	}
	for _, addr := range []*string{&p.plain, &p.secure} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close()
		*addr = ln.Addr().String()
		ln.Close()
	}
	p.admin = &http.Client{
		Timeout: time.Minute,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", p.socket)
			},
		},
	}
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(p.idle()), 0o600); err != nil {
		return nil, err
	}
	p.cmd = exec.Command(binary, "run", "--config", file, "--adapter", "caddyfile")
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir, "HOME="+dir, "GOTRACEBACK=all")
	if ssetest.SteppedClocks() {
		var err error
		if p.clock, err = ssetest.NewSteppedClock(dir); err != nil {
			return nil, err
		}
		p.cmd.Env = append(p.cmd.Env, p.clock.Env())
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go p.wait()
	return p, await(time.Minute, "caddy listens", func() bool {
		conn, err := net.Dial("tcp", p.secure)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// wait reaps the process; kill or an exit ends it.
func (p *process) wait() {
	p.err = p.cmd.Wait()
	if p.clock != nil {
		_ = p.clock.Close()
	}
	close(p.done)
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// running reports whether the process has not ended.
func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
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
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if os.IsNotExist(err) {
		err = nil // no /proc
	}
	u.descriptors = len(files)
	return u, err
}

// exit asks the process to end, by a signal or as `caddy stop` does, and
// returns how long it took.
func (p *process) exit(signal bool, atMost time.Duration) (time.Duration, error) {
	begin := time.Now()
	if signal {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return 0, err
		}
	} else {
		go func() { _, _ = p.call(http.MethodPost, "/stop") }() // it is answered when all has stopped
	}
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-p.done:
		return time.Since(begin), p.err
	case <-timer.C:
		took, stacks := time.Since(begin), p.stacks()
		if heldElsewhere(stacks) {
			return took, fmt.Errorf("it has not exited after %s, %w:\n%s", atMost, errHeldElsewhere, stacks)
		}
		return took, fmt.Errorf("it has not exited after %s:\n%s", atMost, stacks)
	}
}

// stacks ends the process and returns its connections and the stacks of all its
// goroutines. It asks nothing of the process, whose admin endpoint may be gone.
func (p *process) stacks() string {
	conns := p.connections()
	from := len(p.log.String())
	_ = p.cmd.Process.Signal(syscall.SIGABRT)
	select {
	case <-p.done:
	case <-time.After(patience):
		p.kill()
	}
	return conns + p.log.String()[from:]
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
	fds := fmt.Sprintf("/proc/%d/fd/", p.cmd.Process.Pid)
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
	text := p.log.String()
	at := troubles.FindStringIndex(text)
	if at == nil {
		return ""
	}
	return text[max(at[0]-200, 0):min(at[1]+6000, len(text))]
}

// await waits for a condition.
func await(atMost time.Duration, what string, ok func() bool) error {
	deadline := time.NewTimer(atMost)
	defer deadline.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			return fmt.Errorf("not within %s: %s", atMost, what)
		case <-again.C:
		}
	}
	return nil
}

func writeCertificate(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    time.Now().Add(-24 * time.Hour),
		NotAfter:     time.Now().Add(240 * time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)
}
