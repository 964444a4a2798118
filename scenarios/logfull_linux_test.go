package scenarios

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// mountSmall mounts a file system of 160 MiB, twice what a test sends.
func mountSmall(t *testing.T, dir string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o700))
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=160m"); errors.Is(err, syscall.EPERM) {
		t.Skip("no file system can be mounted here")
	} else {
		must(t, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
}

// fillUp writes a file until nothing more can be written.
func fillUp(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	must(t, err)
	defer f.Close()
	for piece := make([]byte, 1<<20); len(piece) > 0; {
		n, err := f.Write(piece)
		switch {
		case errors.Is(err, syscall.ENOSPC):
			piece = piece[:min(n, len(piece)/2)] // down to the last bytes
		case err != nil:
			t.Fatal(err)
		}
	}
}

// full is a stream whose log can be given and denied room.
type full struct {
	t     *testing.T
	p     *process
	a, b  *ssetest.Origin
	v     *ssetest.Verifier
	fleet *ssetest.Fleet
	site  string
}

func startFull(t *testing.T, dir string, begin func(p *process, site string), options ...ssetest.VerifierOption) *full {
	t.Helper()
	f := &full{
		t: t,
		// the burst below is more than may wait in memory to be written
		a: newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 20, Pad: 8 << 10}),
		b: newOrigin(t, ssetest.OriginConfig{Source: "b", Rate: 100}),
		v: ssetest.NewVerifier(options...),
	}
	f.site = directive("/events", "stream s\nstart oldest\n"+promptly+keepAll+logFile(dir, ""), f.a.URL(), f.b.URL()) + "sse_fanin_status /status\n"
	f.p = prepareProcess(t)
	begin(f.p, f.site)
	f.fleet = ssetest.StartFleet(ssetest.FleetConfig{
		Clients:  scale(3, 50),
		Client:   ssetest.ClientConfig{URL: f.p.url("/events")},
		Verifier: f.v,
	})
	t.Cleanup(f.fleet.Close)
	must(t, f.fleet.WaitOpen(within(t, 10*time.Second)))
	f.seeAll()
	return f
}

func (f *full) seeAll() {
	f.t.Helper()
	for _, o := range []*ssetest.Origin{f.a, f.b} {
		must(f.t, f.v.WaitSeen(within(f.t, time.Minute), o.Source(), max(o.Last(), 10)))
	}
}

// standsStill waits until nothing but heartbeats comes, to clients that come
// now, too. There is no end to that.
func (f *full) standsStill() {
	t := f.t
	t.Helper()
	f.p.awaitLog("the log cannot be written")
	count := func() (n uint64) {
		for _, c := range f.fleet.Clients {
			n += c.Count()
		}
		return n
	}
	eventually(t, time.Minute, "the stream stands still", func() bool {
		before := count()
		for _, c := range f.fleet.Clients {
			must(t, c.WaitComments(within(t, 10*time.Second), c.Comments()+3))
		}
		return count() == before
	})
	newest := f.fleet.Clients[0].Count()
	late := connect(t, f.v, "late", ssetest.ClientConfig{URL: f.p.url("/events")})
	must(t, late.WaitComments(within(t, 10*time.Second), 5))
	if conn := late.Connection(); conn.Status != http.StatusOK || conn.Events > newest {
		t.Errorf("a client that comes now gets %d events with status %d, others have %d", conn.Events, conn.Status, newest)
	}
	f.fleet.Clients = append(f.fleet.Clients, late.Client)
	if status, _, body := f.p.fetch("/status?ready", ""); status != http.StatusServiceUnavailable {
		t.Errorf("it is ready: %d %s", status, body)
	}
}

// burst has more come than can wait in memory, and none of it be lost.
func (f *full) burst() {
	f.a.EmitNumbered(2500)
	f.b.EmitNumbered(1000)
}

// goesOn waits until everybody has everything, once.
func (f *full) goesOn() {
	t := f.t
	t.Helper()
	f.p.awaitLog("the log can be written again")
	f.seeAll()
	eventually(t, patience, "it is ready", func() bool {
		status, _, _ := f.p.fetch("/status?ready", "")
		return status == http.StatusOK
	})
	settle(t, f.v, f.a, f.b)
	kept(t, f.fleet)
	t.Log(f.v.Report())
}

func TestFileSystemRunsFull(t *testing.T) { //nolint:tparallel // in full length, one after the other
	besideOthers(t)
	t.Run("no room", func(t *testing.T) {
		besideOthers(t)
		dir := logDir(t)
		mountSmall(t, dir)
		f := startFull(t, dir, func(p *process, site string) { p.run("", site) })
		for range scale(1, 2) {
			ballast := filepath.Join(dir, "ballast")
			fillUp(t, ballast)
			f.standsStill()
			f.burst()
			f.standsStill()
			must(t, os.Remove(ballast))
			f.p.awaitLog("the log can be written again")
			f.seeAll()
		}
		f.goesOn()
		nobodyDisconnected(t, f.fleet)
	})

	// A process that begins on a full disk knows every position that it can read.
	t.Run("no room, killed", func(t *testing.T) {
		besideOthers(t)
		dir := logDir(t)
		mountSmall(t, dir)
		f := startFull(t, dir, func(p *process, site string) { p.run("", site) })
		ballast := filepath.Join(dir, "ballast")
		fillUp(t, ballast)
		f.standsStill()
		f.p.running.Kill()
		f.p.run("", f.site)
		f.standsStill()
		must(t, os.Remove(ballast))
		f.goesOn()
	})

	// The system denies a process files of more than some size. It is told so by
	// SIGXFSZ, too.
	t.Run("limited files", func(t *testing.T) {
		besideOthers(t)
		f := startFull(t, logDir(t), func(p *process, site string) {
			binary, err := ssetest.Build("./cmd/caddy", false)
			must(t, err)
			file := filepath.Join(p.dir, "Caddyfile")
			must(t, os.WriteFile(file, []byte(p.caddyfile("", site)), 0o600))
			p.binary = "/bin/sh"
			p.start("-c", `ulimit -S -f 2048; exec "$0" run --config "$1" --adapter caddyfile`, binary, file)
			must(t, ssetest.AwaitListening(patience, p.addr))
		})
		f.a.EmitNumbered(500)
		f.standsStill()
		out, err := exec.Command("prlimit", "--pid", strconv.Itoa(f.p.running.PID()), "--fsize=unlimited").CombinedOutput()
		if err != nil {
			t.Fatalf("prlimit: %v: %s", err, out)
		}
		f.goesOn()
		nobodyDisconnected(t, f.fleet)
	})
}
