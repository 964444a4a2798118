package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// TestPrograms runs the programs of the page: each has to print every event,
// once, over connections that end.
func TestPrograms(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		section, language, program string
		args                       func(t *testing.T, dir, text string) []string
		resumes                    bool
		line                       string // for one event
	}{
		{"Go", "go", "go", func(t *testing.T, dir, text string) []string {
			writeFile(t, filepath.Join(dir, "go.mod"), "module follow\n\ngo 1.26\n")
			writeFile(t, filepath.Join(dir, "main.go"), text)
			return []string{"run", "."}
		}, true, "price: "},
		{"Python", "python", "python3", func(t *testing.T, dir, text string) []string {
			writeFile(t, filepath.Join(dir, "follow.py"), text)
			return []string{"follow.py"}
		}, true, "price: "},
		{"curl", "sh", "curl", nil, false, ""},
	} {
		t.Run(test.section, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(test.program); err != nil {
				t.Skipf("no %s: %v", test.program, err)
			}
			o := typedOrigin(t, "price")
			site := "sse_fanin /events " + o.URL() + " {\nstream s\nstart oldest\nretry 50ms 100ms\nheartbeat 50ms\n"
			if test.resumes {
				site += "max_age 500ms\n"
			}
			s := newPlainServer(t, wires[0], site+"}")
			waitConnected(t, 1, o)
			dir, text := t.TempDir(), clientExample(t, test.section, test.language)
			var cmd *exec.Cmd
			if test.args == nil {
				cmd = exec.Command("sh", "-c", text) //nolint:gosec // the page's
			} else {
				cmd = exec.Command(test.program, append(test.args(t, dir, text), s.url("/events"))...) //nolint:gosec // the page's
			}
			output, errors := new(ssetest.LogBuffer), new(ssetest.LogBuffer)
			cmd.Dir, cmd.Stdout, cmd.Stderr = dir, output, errors
			cmd.Env = append(os.Environ(), "GOWORK=off", "URL="+s.url("/events"))
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // go run's program as well
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
				_ = cmd.Wait()
				if t.Failed() {
					t.Logf("it wrote\n%s\n%s", output, errors)
				}
			})
			s.waitClients("s", 1)
			// while connections come and go
			const n = 60
			o.SetRate(30)
			eventually(t, step, "events are sent", func() bool { return o.Last() >= n })
			o.SetRate(0)
			last := o.Last()
			eventually(t, step, "every event is printed", func() bool {
				return strings.Contains(output.String(), fmt.Sprintf(`"n":%d,`, last))
			})
			lines := strings.Split(strings.TrimSpace(output.String()), "\n")
			if uint64(len(lines)) != last {
				t.Errorf("%d lines for %d events", len(lines), last)
			}
			for i, line := range lines {
				var data struct{ N int }
				text, has := strings.CutPrefix(line, test.line)
				if err := json.Unmarshal([]byte(text), &data); !has || err != nil || data.N != i+1 {
					t.Fatalf("line %d is %q", i+1, line)
				}
			}
			if !test.resumes {
				return
			}
			s.stop()
			s.start(site + "}")
			eventually(t, step, "the gap is printed", func() bool {
				return strings.Contains(output.String(), "gap: fetch the state anew")
			})
		})
	}
}
