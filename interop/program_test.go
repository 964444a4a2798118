package interop

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// A message is what a library has handed out.
type message struct {
	Type string `json:"type"` // message where it has none
	ID   string `json:"id"`
	Data string `json:"data"`

	at time.Time // when the test has read the program's line
}

// key is the message without its time.
func (m message) key() message { return message{Type: m.Type, ID: m.ID, Data: m.Data} }

func (m message) String() string {
	data := m.Data
	if len(data) > 80 {
		data = fmt.Sprintf("%s… (%d bytes)", data[:80], len(data))
	}
	return fmt.Sprintf("%s %s %q", m.Type, m.ID, data)
}

// A transcript is what one client has got so far. It is safe for concurrent use.
type transcript struct {
	mu       sync.Mutex // protects messages
	messages []message
}

func (r *transcript) add(m message) {
	if m.Type == "" {
		m.Type = "message"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.messages = append(r.messages, m)
}

// since returns the messages but for the first n.
func (r *transcript) since(n int) []message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.messages[min(n, len(r.messages)):len(r.messages):len(r.messages)]
}

func (r *transcript) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.messages)
}

// A program is a library at work.
type program struct {
	library library
	transcript
	errors ssetest.LogBuffer // what it writes besides
	ended  chan struct{}     // closed at its end
}

// startProgram runs a library's program until the test ends.
func startProgram(t *testing.T, l library, url, certFile string) *program {
	t.Helper()
	argv := slices.Concat(l.argv, []string{url}, types)
	p := &program{library: l, ended: make(chan struct{})}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = &p.errors
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // curl as well
	cmd.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+certFile)
	if l.http2 { // it replaces what else would be trusted
		cmd.Env = append(cmd.Env, "SSL_CERT_FILE="+certFile, "CURL_CA_BUNDLE="+certFile)
	}
	lines, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	go p.read(lines)
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-p.ended
		_ = cmd.Wait()
		if t.Failed() && p.errors.String() != "" {
			t.Logf("%s wrote:\n%s", l, p.errors.Tail(1500))
		}
	})
	return p
}

// read takes the program's lines until it ends. startProgram starts it, and waits
// for it.
func (p *program) read(lines io.Reader) {
	defer close(p.ended)
	for r := bufio.NewReader(lines); ; {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return
		}
		m := message{at: time.Now()}
		if err := json.Unmarshal(line, &m); err != nil {
			m.Data = fmt.Sprintf("no message: %q", line)
		}
		p.add(m)
	}
}

// running reports whether the program has not ended.
func (p *program) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}
