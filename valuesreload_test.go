package ssefanin

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/lastvalue"
	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// presentKeys are the last values of a log, each its key and its offset.
func presentKeys(v *lastValues) (all []string) {
	now, _ := v.snapshot()
	for _, value := range now.Between(0, lastvalue.NoOffset) {
		all = append(all, fmt.Sprint(value.Key, value.Offset))
	}
	return all
}

// An envelope is no part of a key: the values stay, and later events replace them,
// whether they come in one or not, and whatever else the same reload changes.
func TestLastValuesWhileTheEnvelopeChanges(t *testing.T) {
	const kept, other = "last_value price {\nkey /s\n}\n", "last_value price trade {\nkey /n\n}\n"
	for name, tc := range map[string]struct {
		before, after string
		want          []int
	}{
		"turned on":             {kept, kept + "envelope json\n", []int{0, 2, 3, 5}},
		"turned off":            {kept + "envelope json\n", kept, []int{0, 2, 3, 5}},
		"turned on, a new key":  {kept, other + "envelope json\n", []int{0, 1, 2, 3, 4, 5}},
		"turned off, a new key": {kept + "envelope json\n", other, []int{0, 1, 2, 3, 4, 5}},
		"turned on, the first":  {"", kept + "envelope json\n", []int{0, 2, 3, 5}},
		"turned off, the first": {"envelope json\n", kept, []int{0, 2, 3, 5}},
	} {
		t.Run(name, func(t *testing.T) {
			a := plain(t)
			site := func(options string) string {
				if strings.Contains(options, "last_value") {
					options += "start last_value\n"
				}
				return "sse_fanin /events {\nstream s\nupstream a " + a.URL() + "\n" + options + "}"
			}
			in := serve(t, "", site(tc.before))
			up(t, a)
			all := in.connect("/events")
			var sent []string
			emit := func(symbols string) {
				for symbol := range strings.SplitSeq(symbols, " ") {
					typ := "price"
					if len(sent) == 4 && strings.Contains(tc.after, "trade") {
						typ = "trade"
					}
					sent = append(sent, price(symbol, len(sent)))
					a.Emit(typ, sent[len(sent)-1])
				}
				waitFor(t, all, "all events", func() bool { return len(received(all)) == len(sent) })
			}
			emit("A B")
			if strings.Contains(tc.after, "/n") {
				emit("C")
			} else {
				emit("B")
			}
			in.reload("", site(tc.after))
			emit("C D D")
			var want []string
			for _, n := range tc.want {
				want = append(want, sent[n])
			}
			getsDatas(t, in.connect("/events"), want...)
		})
	}
}

// An upstream that sends such envelopes itself is not mistaken for one in an envelope.
func TestLastValuesOfAnUpstreamWithEnvelopes(t *testing.T) {
	for _, key := range []string{"/data/s", "/source"} {
		for _, wrapped := range []bool{false, true} {
			h := valuesHub(eventlog.Options{MaxEvents: 100, MaxBytes: 1 << 20}, 100)
			h.shaped.Store(&streamShape{envelope: wrapped})
			def := &definition{ids: idsStream, retain: eventlog.Options{MaxBytes: 1 << 20}, shape: streamShape{envelope: wrapped}}
			log := h.log.Load()
			log.adjust(log.memory.Options(), def.lastValues(&LastValue{Types: []string{"v"}, Key: key}))
			in := &input{hub: h, name: "outer", sourceID: h.tags.source("outer", "")}
			in.shape.Store(new(shape))
			enc := new(encoder)
			for _, from := range []string{"one", "two", "one"} {
				ev := &sse.Event{Type: []byte("v"), Data: []byte(`{"s":"` + from + `","source":"no"}`)}
				ev.Data = slices.Clone(enc.wrap(ev, ev.Type, from, time.Now()))
				in.deliver(ev, false, enc, time.Now())
				enc.reset()
			}
			if got, want := presentKeys(&log.values), []string{`"two"2`, `"one"3`}; !slices.Equal(got, want) {
				t.Errorf("%s, in an envelope of its own %t: there are %q, want %q", key, wrapped, got, want)
			}
		}
	}
}

func TestUnwrap(t *testing.T) {
	for _, tc := range []struct{ typ, data, from, want string }{
		{"v", `{ "s" : 1 }`, "a", `{"s":1}`},
		{"", `[1]`, `qu"ote`, `[1]`},
		{`t"\`, "no JSON", "\u2028<", `"no JSON"`},
		{"v", "", "", `""`},
	} {
		ev := &sse.Event{Type: []byte(tc.typ), Data: []byte(tc.data), ID: []byte(`"id\`)}
		wrapped := new(encoder).wrap(ev, ev.Type, tc.from, time.UnixMilli(5))
		from, data, ok := unwrap(wrapped, ev.Type)
		if !ok || string(data) != tc.want || !isJSONString(from, tc.from) || isJSONString(from, tc.from+"x") {
			t.Errorf("%s: got %s from %s, %t", wrapped, data, from, ok)
		}
		if _, _, ok := unwrap(wrapped, []byte("other")); ok {
			t.Errorf("%s is taken for an event of another type", wrapped)
		}
		for n := range wrapped {
			if _, _, ok := unwrap(wrapped[:n], ev.Type); ok && wrapped[n-1] != '}' {
				t.Errorf("%s is taken for an envelope", wrapped[:n])
			}
		}
	}
}

// What another configuration changes while Caddy is away counts for the values that are
// stored, and for the events that are read: another key, and an envelope.
func TestStoredLastValuesOfAnotherConfiguration(t *testing.T) {
	for _, killed := range []bool{false, true} {
		for _, tc := range []struct {
			from, to string
			want     []uint64
		}{
			{"key /s", "key /n", []uint64{2, 3, 5}},
			{"start last_value", "start last_value\nenvelope json", []uint64{1, 2, 5}},
		} {
			t.Run(fmt.Sprintf("%s, killed %t", tc.to, killed), func(t *testing.T) {
				o := newOrigin(t, ssetest.OriginConfig{})
				dir := t.TempDir()
				retain := "" // all is read from the log
				if !killed {
					retain = "retain {\nevents 2\n}"
				}
				site := keptValuesSite(dir, o, retain)
				in := serve(t, "", site)
				c := in.connect("/events")
				up(t, o)
				for _, data := range []string{price("A", 1), price("B", 1), price("C", 2)} {
					o.Emit("price", data)
					hasGot(t, c, data)
				}
				o.Emit("news", "4")
				hasGot(t, c, "4")
				at := dir
				if killed {
					at = copied(t, dir)
				}
				c.Close()
				in.stop()
				in.reload("", strings.NewReplacer(tc.from, tc.to, dir, at).Replace(site))
				awaitWriting(t)
				c = in.connect("/events")
				up(t, o)
				o.Emit("price", price("C", 3))
				waitFor(t, c, "the event", func() bool { return slices.Contains(unwrapped(c), price("C", 3)) })
				if got := slices.Sorted(maps.Keys(storedValues(t))); !slices.Equal(got, tc.want) {
					t.Errorf("there are the values of %v, want %v", got, tc.want)
				}
			})
		}
	}
}

// A source by another name has its values and no other one's, also where names are
// exchanged or passed on, and where what is kept changes afterwards.
func TestLastValuesOfRenamedUpstreams(t *testing.T) {
	for name, tc := range map[string]struct {
		steps string // the names of the two sources, - for none
		want  string // the values of each source, by the number of the event
	}{
		"another name":   {"a b;c b", "0 2,1 3"},
		"exchanged":      {"a b;b a", "0 2,1 3"},
		"twice":          {"a b;b a;a b", "0 2,1 3"},
		"passed on":      {"a b;b c", "0 2,1 3"},
		"of one removed": {"a b;b -", "0 2,"},
	} {
		for _, stored := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, stored %t", name, stored), func(t *testing.T) {
				both := plainOrigins(t, 2)
				dir := t.TempDir()
				var in *instance
				site := func(names, values string) string {
					site := "sse_fanin /events {\nstream s\nstart last_value\nfilters on\n" + values + "\n"
					if stored {
						site += "log file {\ndir " + dir + "\n}\n"
					}
					for i, name := range strings.Fields(names) {
						if name != "-" {
							site += "upstream " + name + " " + both[i].URL() + "\n"
						}
					}
					return site + "}"
				}
				steps := strings.Split(tc.steps, ";")
				const kept, other = "last_value price {\nkey /s\n}", "last_value price {\nkey /n\n}"
				in = serve(t, "", site(steps[0], kept))
				connected(t, both...)
				all := in.connect("/events")
				for n, o := range []*ssetest.Origin{both[0], both[1], both[0], both[1]} {
					data := price(fmt.Sprint("S", n/2), n)
					o.Emit("price", data)
					hasGot(t, all, data)
				}
				verify := func() {
					t.Helper()
					last := strings.Fields(steps[len(steps)-1])
					for i, want := range strings.Split(tc.want, ",") {
						if last[i] == "-" {
							continue
						}
						var datas []string
						for n := range strings.FieldsSeq(want) {
							datas = append(datas, price(fmt.Sprint("S", (n[0]-'0')/2), int(n[0]-'0')))
						}
						c := in.connect("/events?source=" + last[i])
						getsDatas(t, c, datas...)
						c.Close() // else the stream waits for it at its end
					}
				}
				for _, step := range steps[1:] {
					in.reload("", site(step, kept))
				}
				verify()
				in.reload("", site(steps[len(steps)-1], other))
				verify()
				all.Close()
				if stored { // the names in the log are the old ones
					in.stop()
					in.reload("", site(steps[len(steps)-1], other))
					awaitWriting(t)
					verify()
				}
			})
		}
	}
}
