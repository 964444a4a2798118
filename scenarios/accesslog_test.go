package scenarios

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// The line of a client is in the log that its site had, also after a reload: never in
// another site's, nor in the default log, which hides nothing.
func TestAccessLogAfterAReload(t *testing.T) {
	for name, test := range map[string]struct {
		before, after []string // logs of two sites, of which the client is at the second
	}{
		"the other site gets a log": {[]string{"", "own"}, []string{"other", "own"}},
		"the other log is removed":  {[]string{"other", "own"}, []string{"", "own"}},
		"its log is removed":        {[]string{"other", "own"}, []string{"other", ""}},
		"the only log is removed":   {[]string{"", "own"}, []string{"", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, mode := range takenModes {
				o, p := newOrigin(t, ssetest.OriginConfig{Source: "a"}), prepareProcess(t)
				first := freeAddr(t)
				log := func(name string) string {
					if name == "" {
						return ""
					}
					return "log {\noutput file " + filepath.Join(p.dir, name) + " {\nroll_disabled\n}\nformat filter {\nrequest>uri query {\ndelete token\n}\n}\n}\n"
				}
				global := func(logs []string) string {
					return "sse_fanin {\nstream live " + o.URL() + "\n}\n}\nhttp://" + first + " {\n" + log(logs[0]) + "respond first"
				}
				site := func(logs []string) string { return log(logs[1]) + "sse_fanin /events live {\ndetach " + mode + "\n}" }
				p.run(global(test.before), site(test.before))
				c := &strictClient{dial: func() (net.Conn, error) { return net.Dial("tcp", p.addr) }}
				must(t, c.ask("GET /events?token=secret HTTP/1.1", p.addr, "\r\n"))
				lasting := map[string]int{"off": 1, "on": 0}[mode]
				eventually(t, patience, "the stream has begun", func() bool {
					n, _ := p.clients("live")
					return n == 1 && p.goroutinesIn("caddy-sse-fanin.serveStream") == lasting
				})
				p.reload(global(test.after), site(test.after))
				must(t, c.conn.Close())
				eventually(t, patience, "the client has left", func() bool { n, _ := p.clients("live"); return n == 0 })
				p.terminate(30 * time.Second)
				for name, want := range map[string]int{"own": 1, "other": 0} {
					if text, _ := os.ReadFile(filepath.Join(p.dir, name)); bytes.Count(text, []byte("handled request")) != want {
						t.Errorf("with detach %s, the log %s has %q, want %d lines", mode, name, text, want)
					}
				}
				if log := p.running.Log.Tail(1 << 20); strings.Contains(log, "handled request") || strings.Contains(log, "secret") {
					t.Errorf("with detach %s, the default log has the client:\n%s", mode, log)
				}
			}
		})
	}
}
