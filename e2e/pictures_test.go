package e2e

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// pictures is where TestPictures writes the pictures of the README.
var pictures = flag.String("pictures", "", "write the README's pictures into this `directory`")

// mostPicture is the most that one of them may have, in bytes.
const mostPicture = 150 << 10

// TestPictures makes the pictures of the README, when asked for:
//
//	go test -run TestPictures -pictures ../docs .
func TestPictures(t *testing.T) {
	if *pictures == "" {
		t.Skip("without -pictures there is nothing to do")
	}
	t.Run("demo", func(t *testing.T) {
		url := startDemo(t, wires[0]) // outlives the tab, whose console would show its end
		b := newTab(t)
		b.open(url)
		b.waitText("#ratio", "2 → 1")
		b.wait("received > 150")
		b.picture("demo", 900)
	})
	t.Run("cluster", func(t *testing.T) {
		url := startCluster(t)
		b := newTab(t)
		b.forgive()
		b.open(url)
		b.killWriter()
		b.picture("cluster", 1000)
	})
	t.Run("status", func(t *testing.T) {
		prices, builds, orders := newOrigin(t, "prices"), newOrigin(t, "builds"), newOrigin(t, "orders")
		s := newServer(t, wires[0], fmt.Sprintf(`sse_fanin /events {
			stream   live
			upstream prices %s
			upstream builds %s
			upstream orders %s
			backoff  1m
		}
		sse_fanin_status /status`, prices.URL(), builds.URL(), orders.URL()))
		page := newTab(t)
		page.open(s.url("/events.html"))
		page.wait("seen.opens == 1")
		page.sibling().open(s.url("/events.html"))
		prices.SetRate(20)
		builds.SetRate(5)
		orders.SetRate(2)
		// until the plots have something to show
		eventually(t, 5*time.Minute, "a minute of events", func() bool { return prices.Last() > 20*60 })
		builds.Stop()
		eventually(t, time.Minute, "some seconds more", func() bool { return prices.Last() > 20*75 })
		b := newTab(t)
		b.open(s.url("/status"))
		b.waitText("#verdict", "1 of 3 upstreams of 1 stream is down")
		b.waitText("#link", "live")
		b.wait(`parseFloat(document.querySelector("#sumin").textContent) > 10`)
		b.wait(`document.querySelectorAll("#streams .plot canvas").length === 8`)
		b.picture("status", 1184)
	})
}

// picture writes what a window of this height shows.
func (b *tab) picture(name string, height int64) {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(1280, height))
	b.dark(false)
	ctx, cancel := context.WithTimeout(b.ctx, step)
	defer cancel()
	shot, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Fatal(err)
	}
	small, err := reduced(shot)
	if err != nil {
		b.t.Fatal(err)
	}
	if len(small) > mostPicture {
		b.t.Errorf("%s has %d bytes", name, len(small))
	}
	if err := os.WriteFile(filepath.Join(*pictures, name+".png"), small, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// reduced returns a picture with its 256 most frequent colours, which is all
// that a page of flat colours needs. Every other becomes the nearest of them.
func reduced(shot []byte) ([]byte, error) {
	full, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		return nil, err
	}
	frame := full.Bounds()
	count := make(map[color.RGBA]int)
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(full.At(x, y)).(color.RGBA) }
	for y := frame.Min.Y; y < frame.Max.Y; y++ {
		for x := frame.Min.X; x < frame.Max.X; x++ {
			count[at(x, y)]++
		}
	}
	frequent := slices.SortedFunc(maps.Keys(count), func(a, b color.RGBA) int {
		return cmp.Or(count[b]-count[a], cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)))
	})
	palette := make(color.Palette, 0, 256)
	for _, c := range frequent[:min(256, len(frequent))] {
		palette = append(palette, c)
	}
	small := image.NewPaletted(frame, palette)
	nearest := make(map[color.RGBA]uint8, len(count))
	for c := range count {
		nearest[c] = uint8(palette.Index(c)) //nolint:gosec // there are 256 at most
	}
	for y := frame.Min.Y; y < frame.Max.Y; y++ {
		for x := frame.Min.X; x < frame.Max.X; x++ {
			small.SetColorIndex(x, y, nearest[at(x, y)])
		}
	}
	var out bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	err = encoder.Encode(&out, small)
	return out.Bytes(), err
}
