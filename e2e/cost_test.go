package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/systeminfo"
	"github.com/chromedp/chromedp"
)

const (
	// costWindow is how long a page is watched.
	costWindow = 10 * time.Second

	// maxCost is what an open page may take of a processor, without a graphics
	// card. They are made for 0.05; machines differ, and this one has other
	// things to do meanwhile. With animations that never end it is 0.3 and more.
	maxCost = 0.15
)

// drawingTime returns the processor time that the browser has spent on
// showing pages: that of its renderers and of what paints for them.
func drawingTime(t *testing.T) (spent time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(shared.ctx, step)
	defer cancel()
	info, err := chromedp.CallBrowser(ctx, systeminfo.GetProcessInfo, cdp.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range info.ProcessInfo {
		if p.Type == "renderer" || p.Type == "GPU" {
			spent += time.Duration(p.CPUTime * float64(time.Second))
		}
	}
	return spent
}

// inexpensive fails the test if the page in the only tab keeps a processor
// busy.
func (b *tab) inexpensive() {
	b.t.Helper()
	begun, before := time.Now(), drawingTime(b.t)
	<-time.After(costWindow)
	cost := (drawingTime(b.t) - before).Seconds() / time.Since(begun).Seconds()
	b.t.Logf("the page takes %.1f %% of a processor", 100*cost)
	if cost > maxCost {
		b.t.Errorf("the page takes %.1f %% of a processor", 100*cost)
	}
}

// The tests of what pages cost are not parallel to others: the browser is
// theirs alone then.

func TestDemoIsInexpensive(t *testing.T) {
	url := startDemo(t, wires[0])
	b := newTab(t)
	b.open(url)
	b.waitText("#ratio", "2 → 1")
	b.wait(`received > 30`)
	b.wait(`document.querySelectorAll("[data-busy]").length > 1`) // the dots are there
	b.inexpensive()
}

// servePrices serves a stream of two upstreams to which events come, and its status.
func servePrices(t *testing.T) *server {
	t.Helper()
	a, c := newOrigin(t, "a"), newOrigin(t, "b")
	s := newServer(t, wires[0], fmt.Sprintf(`sse_fanin /events {
		stream   prices
		upstream kite %s
		upstream lark %s
	}
	sse_fanin_status /status`, a.URL(), c.URL()))
	a.SetRate(20)
	c.SetRate(5)
	return s
}

func TestStatusPageIsInexpensive(t *testing.T) {
	s := servePrices(t)
	b := newTab(t)
	b.open(s.url("/status"))
	b.wait(`parseFloat(document.querySelector("#sumin").textContent) > 10`)
	b.inexpensive()
}
