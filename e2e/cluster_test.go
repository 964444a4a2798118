package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// clusterPatience is how long examples/cluster may take to build what it starts,
// and what it has started may take to do what the page waits for.
const clusterPatience = 5 * time.Minute

// startCluster runs examples/cluster and returns the address of its page.
func startCluster(t *testing.T) string {
	t.Helper()
	needBrowser(t)
	binary, err := ssetest.Build("./examples/cluster", false)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ssetest.StartProcess(t.TempDir(), append(goCaches(t), "TMPDIR="+t.TempDir()), binary, "-listen", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Terminate(); err != nil || !p.WaitExit(time.Minute) {
			t.Errorf("the cluster does not end: %v", err)
		}
		p.Kill()
		if t.Failed() {
			t.Logf("it wrote:\n%s", p.Log.Tail(4000))
		}
	})
	var found []string
	eventually(t, clusterPatience, "the cluster's address", func() bool {
		found = pageLine.FindStringSubmatch(p.Log.String())
		return found != nil || !p.Running()
	})
	if found == nil {
		t.Fatal("the cluster has ended")
	}
	return found[1]
}

// goCaches is the part of the environment with which go finds what it has built,
// whatever the home directory is.
func goCaches(t *testing.T) (env []string) {
	t.Helper()
	out, err := exec.Command("go", "env", "-json", "GOCACHE", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	var found map[string]string
	if err := json.Unmarshal(out, &found); err != nil {
		t.Fatal(err)
	}
	for name, value := range found {
		env = append(env, name+"="+value)
	}
	return env
}

// waitLong is wait for what NATS servers and Caddys take longer for.
func (b *tab) waitLong(expression string) {
	b.t.Helper()
	eventually(b.t, clusterPatience, expression, func() bool { return eval[bool](b, expression) })
}

// killNode presses a node's button.
func (b *tab) killNode(name string) {
	b.t.Helper()
	b.click("#" + name + " button")
	b.waitText("#"+name+" .badge", "killed")
}

// startNode presses the button of one that was killed, and waits until it has
// caught up.
func (b *tab) startNode(name string) {
	b.t.Helper()
	b.click("#" + name + " button")
	b.waitLong("document.querySelector('#" + name + " .badge').textContent === 'follows'")
}

// waitGoesOn waits until events come as they are made, and checks that all have
// come.
func (b *tab) waitGoesOn() {
	b.t.Helper()
	b.waitLong(fmt.Sprintf("%d < received && !held && state === 'open'", eval[int](b, "received")+30))
	b.waitText("#check", "0 lost, 0 repeated")
	if gaps := b.text("#gaps"); gaps != "" {
		b.t.Errorf("the page says %q", gaps)
	}
}

// killWriter kills the Caddy that writes the log, and waits until another one
// writes it and the stream goes on.
func (b *tab) killWriter() (killed string) {
	b.t.Helper()
	b.waitLong("writer !== '' && received > 30")
	killed = eval[string](b, "writer")
	b.killNode(killed)
	b.waitLong("writer !== '" + killed + "' && document.querySelectorAll('[data-writes]').length === 1")
	b.waitGoesOn()
	return killed
}

// The page of examples/cluster, on which the Caddy that writes the log is killed,
// then the one that the page is on, and then the NATS server that leads the log.
func TestCluster(t *testing.T) {
	t.Parallel()
	url := startCluster(t)
	b := newTab(t)
	b.forgive() // its stream breaks when its Caddy is killed
	b.open(url)
	b.waitText("#state", "open")
	b.wait("document.querySelectorAll('#caddys .member').length === 3 && document.querySelectorAll('#nats .member').length === 3")
	b.waitLong("on !== '' && !document.getElementById(on).querySelector('.here').hidden")
	b.accessible("a page of a cluster")

	killed := b.killWriter()
	b.shoot("cluster-killed")
	b.startNode(killed)

	b.wait("on !== ''")
	killed = eval[string](b, "on")
	b.killNode(killed)
	b.waitLong("on !== '' && on !== '" + killed + "'")
	b.waitGoesOn()
	b.waitText("#notes", "Reconnected to "+eval[string](b, "on"))
	b.startNode(killed)

	leader := eval[string](b, "leader")
	b.killNode(leader)
	b.waitLong("leader !== '" + leader + "'")
	b.waitGoesOn()
	b.startNode(leader)
	b.waitText("#check", "0 lost, 0 repeated")
	b.shoot("cluster-end")
	b.do(chromedp.EmulateViewport(390, 844))
	b.dark(true)
	b.shoot("cluster-end-phone-dark")
}
