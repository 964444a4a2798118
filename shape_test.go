package ssefanin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// typed are the type and data of what a client got.
func typed(c *ssetest.Client) []string {
	all := []string{}
	for _, e := range c.Events() {
		all = append(all, e.Type+":"+e.Data)
	}
	return all
}

// shaped serves an origin's events, sends some, each "type:data", and checks
// what a client gets. An event of the type "end", which has to pass, is last.
func shaped(t *testing.T, options string, send []string, want ...string) {
	t.Helper()
	o := newOrigin(t, ssetest.OriginConfig{})
	in := serve(t, "", "sse_fanin /events "+o.URL()+" {\n"+options+"\n}")
	c := in.connect("/events")
	up(t, o)
	for _, event := range append(send, "end:") {
		typ, data, _ := strings.Cut(event, ":")
		o.Emit(typ, data)
	}
	waitFor(t, c, "the end", func() bool {
		got := typed(c)
		return len(got) > 0 && strings.HasSuffix(got[len(got)-1], "end:")
	})
	got := typed(c)
	if got = got[:len(got)-1]; !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestEventsAreChosenByTheirOriginalType(t *testing.T) {
	send := []string{":1", "message:2", "price:3", "other:4", "p.price:5", "Price:6", "fanin.x:7"}
	t.Run("named", func(t *testing.T) {
		shaped(t, "events price end", send, "price:3")
	})
	t.Run("unnamed", func(t *testing.T) {
		shaped(t, "events message end", send, "message:1", "message:2")
	})
	t.Run("by patterns", func(t *testing.T) {
		shaped(t, "events p*ce m* end", send, "message:1", "message:2", "price:3", "p.price:5")
	})
	t.Run("before the prefix and the renaming", func(t *testing.T) {
		shaped(t, "events price fanin.x end\nprefix p.", send, "p.price:3", "p.fanin.x:7")
	})
}

func TestPrefix(t *testing.T) {
	shaped(t, "prefix a.", []string{":1", "message:2", "price:3"}, "a.message:1", "a.message:2", "a.price:3")
}

func TestTypesOfTheModulesOwnAreRenamed(t *testing.T) {
	t.Run("as they come", func(t *testing.T) {
		shaped(t, "", []string{"fanin.gap:1", "fanin.:2", "fanin:3", "upstream.fanin.gap:4", "Fanin.gap:5"},
			"upstream.fanin.gap:1", "upstream.fanin.:2", "fanin:3", "upstream.fanin.gap:4", "Fanin.gap:5")
	})
	t.Run("with a prefix", func(t *testing.T) {
		shaped(t, "prefix fan", []string{"in.gap:1", ":2", "fanin.gap:3"},
			"upstream.fanin.gap:1", "fanmessage:2", "fanfanin.gap:3")
	})
	t.Run("with a prefix that is the word itself", func(t *testing.T) {
		shaped(t, "prefix fanin", []string{".gap:1", "gap:2"}, "upstream.fanin.gap:1", "faningap:2")
	})
}

func TestDifferentlyShapedStreamsShareAConnection(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := serve(t, "", fmt.Sprintf(`
	sse_fanin /plain %[1]s
	sse_fanin /prefixed %[1]s {
		prefix a.
	}
	sse_fanin /some %[1]s {
		events price
	}
	sse_fanin /wrapped {
		upstream w %[1]s
		envelope json
	}
	sse_fanin /ids %[1]s {
		ids upstream
	}`, o.URL()))
	want := map[string][]string{
		"/plain":    {"message:1", "price:2"},
		"/prefixed": {"a.message:1", "a.price:2"},
		"/some":     {"price:2"},
		"/ids":      {"message:1", "price:2"},
	}
	clients := make(map[string]*ssetest.Client)
	for path := range want {
		clients[path] = in.connect(path)
	}
	wrapped := in.connect("/wrapped")
	up(t, o)
	o.Emit("", "1")
	o.Emit("price", "2")
	for path, want := range want {
		waitFor(t, clients[path], "the last event", func() bool { return len(typed(clients[path])) == len(want) })
		if got := typed(clients[path]); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
	waitFor(t, wrapped, "the last event", func() bool { return len(wrapped.Events()) == 2 })
	if e := wrapped.Events()[1]; e.Type != "price" || !strings.HasPrefix(e.Data, `{"source":"w","type":"price","id":"2","time":`) || !strings.HasSuffix(e.Data, `,"data":2}`) {
		t.Errorf("wrapped: %+v", e)
	}
	if id := clients["/ids"].LastEventID(); id != "2" {
		t.Errorf("with the upstream's ids: %s, want 2", id)
	}
	if n := o.TotalConnections(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

func TestEnvelopeEmbedsData(t *testing.T) {
	at := time.UnixMilli(1700000000123)
	for name, tc := range map[string]struct{ data, want string }{
		"number":           {"1", "1"},
		"big number":       {"12345678901234567890.10e+05", "12345678901234567890.10e+05"},
		"big in an object": {`{ "n" : 9007199254740993 }`, `{"n":9007199254740993}`},
		"string":           {`"a<b>&\u00e9"`, `"a<b>&\u00e9"`},
		"null":             {"null", "null"},
		"line breaks":      {"{\n  \"a\": [\n 1,\n 2 ]\n}", `{"a":[1,2]}`},
		"repeated keys":    {`{"a":1,"a":2}`, `{"a":1,"a":2}`},
		"empty":            {"", `""`},
		"blank":            {"  \n ", `"  \n "`},
		"text":             {"hello <b> & \"x\"", `"hello <b> & \"x\""`},
		"text with breaks": {"a\nb\tc", `"a\nb\tc"`},
		"two values":       {"1 2", `"1 2"`},
		"cut off":          {`{"a":1`, `"{\"a\":1"`},
		"trailing comma":   {`[1,]`, `"[1,]"`},
		"leading zero":     {"007", `"007"`},
		"NaN":              {"NaN", `"NaN"`},
		"invalid UTF-8":    {"a\xffb", `"a\ufffdb"`},
		"control":          {"\x00\x1f", `"\u0000\u001f"`},
		"separators":       {"\u2028", `"\u2028"`},
		"too deep":         {strings.Repeat("[", 10001) + strings.Repeat("]", 10001), ""},
	} {
		t.Run(name, func(t *testing.T) {
			var e encoder
			ev := &sse.Event{Type: []byte("p\"x"), ID: []byte("7"), Data: []byte(tc.data)}
			got := string(e.wrap(ev, ev.Type, "a.b", at))
			if tc.want == "" {
				tc.want = `"` + tc.data + `"`
			}
			if want := `{"source":"a.b","type":"p\"x","id":"7","time":1700000000123,"data":` + tc.want + `}`; got != want {
				t.Errorf("got  %.200s\nwant %.200s", got, want)
			}
			if !json.Valid([]byte(got)) || strings.Contains(got, "\n") {
				t.Errorf("not JSON on one line: %.200s", got)
			}
		})
	}
}

func TestEnvelopeLeavesTheTypeAsItWas(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := serve(t, "", "sse_fanin /events {\nupstream up "+o.URL()+" {\nprefix a.\n}\nenvelope json\n}")
	c := in.connect("/events")
	up(t, o)
	o.Emit("price", `{"p": 1.50}`)
	o.Raw([]byte("data\n\n"))
	must(t, c.WaitCount(within(t, 10*time.Second), 2))
	var wrapped struct {
		Source, Type, ID string
		Time             int64
		Data             json.RawMessage
	}
	e := c.Events()[0]
	must(t, json.Unmarshal([]byte(e.Data), &wrapped))
	if e.Type != "a.price" || wrapped.Type != "a.price" || wrapped.Source != "up" || wrapped.ID != "1" || string(wrapped.Data) != `{"p":1.50}` {
		t.Errorf("got %+v", e)
	}
	if since := time.Since(time.UnixMilli(wrapped.Time)); since < -time.Second || since > time.Minute {
		t.Errorf("the time is %s ago", since)
	}
	if e := c.Events()[1]; e.Type != "a.message" || !strings.HasSuffix(e.Data, `"data":""}`) {
		t.Errorf("an event without data: %+v", e)
	}
}

func TestEncoderGivesBackLargeBuffers(t *testing.T) {
	var e encoder
	s := new(shape)
	large := &sse.Event{Data: bytes.Repeat([]byte("x"), 4*keepScratch)}
	for _, envelope := range []bool{false, true} {
		e.reset()
		e.encode(large, s.finalType(&e, nil), "a", envelope, false, false, time.Now())
	}
	e.reset()
	if n := cap(e.plain) + cap(e.shaped) + e.wrapped.Cap(); n > 3*keepScratch {
		t.Errorf("%d bytes are kept", n)
	}
}
