package scenarios

import (
	"errors"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// mountVolume mounts a file system that can be frozen.
func mountVolume(t *testing.T) *ssetest.Volume {
	t.Helper()
	v, err := ssetest.MountVolume(t.TempDir())
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() {
		if err := v.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return v
}

// A file system that is frozen, as for a snapshot, or a disk that does not answer,
// makes the streams wait that have their log there, and nothing else of Caddy.
func TestFileSystemIsFrozen(t *testing.T) {
	besideOthers(t)
	volume := mountVolume(t)
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 100})
	b := newOrigin(t, ssetest.OriginConfig{Source: "b", Rate: 100})
	p := startProcess(t, "", directive("/kept", "stream s\nstart oldest\n"+promptly+keepAll+logFile(filepath.Join(volume.Dir, "log"), ""), a.URL())+
		directive("/other", "start oldest\n"+promptly+keepAll, b.URL())+"sse_fanin_status /status\n")
	t.Cleanup(func() { _ = volume.Thaw() }) // a process that waits for the volume cannot be killed
	watch := func(path string) (*ssetest.Verifier, *ssetest.Fleet) {
		v := ssetest.NewVerifier()
		fleet := ssetest.StartFleet(ssetest.FleetConfig{
			Clients:  scale(3, 50),
			Client:   ssetest.ClientConfig{URL: p.url(path)},
			Verifier: v,
		})
		t.Cleanup(fleet.Close)
		return v, fleet
	}
	ofLog, logFleet := watch("/kept")
	ofOther, otherFleet := watch("/other")
	must(t, ofLog.WaitSeen(within(t, time.Minute), "a", 10))
	must(t, ofOther.WaitSeen(within(t, time.Minute), "b", 10))

	for range scale(2, 10) {
		must(t, volume.Freeze())
		client := logFleet.Clients[0]
		eventually(t, time.Minute, "the stream stands still", func() bool {
			before := client.Count()
			must(t, client.WaitComments(within(t, 10*time.Second), client.Comments()+3))
			return client.Count() == before
		})
		p.get("/debug/pprof/heap?gc=1") // a collection stops every goroutine
		must(t, ofOther.WaitSeen(within(t, time.Minute), "b", b.Last()+20))
		if status, _, body := p.fetch("/status?ready", ""); status != http.StatusOK {
			t.Errorf("it is not ready, though no error is known: %d %s", status, body)
		}
		must(t, volume.Thaw())
		must(t, ofLog.WaitSeen(within(t, time.Minute), "a", a.Last()+20))
	}
	settle(t, ofLog, a)
	settle(t, ofOther, b)
	nobodyDisconnected(t, logFleet)
	nobodyDisconnected(t, otherFleet)
}
