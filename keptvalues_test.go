package ssefanin

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/internal/lastvalue"
	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// keptValuesSite is a stream in files that keeps last values.
func keptValuesSite(dir string, o *ssetest.Origin, options string) string {
	return kept(dir, "", "upstream u "+o.URL()+" {\nbackoff 10ms 10ms\n}\nlast_value price {\nkey /s\n}\nstart last_value\n"+options)
}

// storedValues are the last values of the stream s, by offset.
func storedValues(t *testing.T) map[uint64]string {
	t.Helper()
	awaitWriting(t)
	v := &hubNamed(t, "s").log.Load().values
	now, _ := v.snapshot()
	all := make(map[uint64]string)
	for _, value := range now.Between(0, lastvalue.NoOffset) {
		all[value.Offset] = value.Key
	}
	return all
}

func TestLastValuesOutliveARestart(t *testing.T) {
	for _, ids := range []string{idsStream, idsUpstream} {
		t.Run(ids, func(t *testing.T) {
			o := newOrigin(t, ssetest.OriginConfig{})
			dir := t.TempDir()
			site := keptValuesSite(dir, o, "retain {\nevents 2\n}\nids "+ids)
			in := serve(t, "", site)
			c := in.connect("/events")
			up(t, o)
			var want []string
			for i := range 5 {
				o.Emit("price", price(fmt.Sprint("S", i%4), i))
				hasGot(t, c, price(fmt.Sprint("S", i%4), i))
				if i > 0 {
					want = append(want, price(fmt.Sprint("S", i%4), i))
				}
			}
			c.Close()
			in.stop()
			var shown strings.Builder
			must(t, listLogs(&shown, []string{filepath.Join(dir, "s")}))
			if !strings.Contains(shown.String(), "\n  kept      last values, ") {
				t.Errorf("the command shows\n%s", shown.String())
			}
			in.reload("", site)
			c = in.connect("/events")
			getsDatas(t, c, want...)
			o.Emit("price", price("S1", 5))
			getsDatas(t, c, append(want, price("S1", 5))...)
		})
	}
}

// valueHistory is what a stream has had.
type valueHistory struct {
	keys []string // by offset, from 1; empty: the event is no value
}

// values returns the last values at an offset.
func (h *valueHistory) values(at uint64) map[uint64]string {
	newest := make(map[string]uint64)
	for i, key := range h.keys[:at] {
		if key != "" {
			newest[key] = uint64(i + 1)
		}
	}
	all := make(map[uint64]string)
	for key, offset := range newest {
		all[offset] = key
	}
	return all
}

// copied copies a log while it is written to, as a kill leaves it.
func copied(t *testing.T, dir string) string {
	t.Helper()
	from, to := filepath.Join(dir, "s"), t.TempDir()
	must(t, os.Mkdir(filepath.Join(to, "s"), 0o700))
	entries, err := os.ReadDir(from)
	must(t, err)
	for _, e := range entries {
		body, err := os.ReadFile(filepath.Join(from, e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // it has just been dropped or renamed
		}
		must(t, err)
		must(t, os.WriteFile(filepath.Join(to, "s", e.Name()), body, 0o600))
	}
	return to
}

// playHistory has a stream get events, and calls each now and then, with the offset of
// the newest.
func playHistory(t *testing.T, o *ssetest.Origin, in *instance, events int, each func(head uint64)) *valueHistory {
	t.Helper()
	c := in.connect("/events")
	up(t, o)
	random := rand.New(rand.NewPCG(1, 2))
	h := new(valueHistory)
	for i := range events {
		name := fmt.Sprint("S", random.IntN(12))
		if i > 60 { // some do not change any more
			name = fmt.Sprint("S", random.IntN(6))
		}
		typ, key := "price", `"`+name+`"`
		if random.IntN(3) == 0 {
			typ, key = "news", ""
		}
		data := fmt.Sprintf(`{"s":"%s","n":%d,"pad":"%s"}`, name, i, strings.Repeat("x", 1000))
		o.Emit(typ, data)
		h.keys = append(h.keys, key)
		if random.IntN(10) == 0 || i == events-1 {
			hasGot(t, c, data)
			each(uint64(i + 1))
		}
	}
	c.Close()
	return h
}

// Whenever the process is killed, the last values are those of the log, also where most
// of their events are no longer retained.
func TestLastValuesAfterAKill(t *testing.T) {
	dir := t.TempDir()
	o := newOrigin(t, ssetest.OriginConfig{})
	options := "retain {\nsize 128KiB\n}"
	in := serve(t, "", keptValuesSite(dir, o, options))
	var copies []string
	h := playHistory(t, o, in, 600, func(at uint64) { // quicker than the disk
		if at == 600 {
			eventually(t, 0, "what does not change any more is gone", func() bool { return durableOf(t).status().First > 61 })
		}
		copies = append(copies, copied(t, dir))
	})
	in.stop()
	o.Stop()  // nothing comes any more
	gone := 0 // values whose events the log has not any more
	for i, dir := range copies {
		if i%10 > 0 && i < len(copies)-1 {
			continue
		}
		in.reload("", keptValuesSite(dir, o, options))
		got := storedValues(t)
		st := durableOf(t).status()
		for offset := range got {
			if offset < st.First {
				gone++
			}
		}
		head := st.Last
		if want := h.values(head); !maps.Equal(got, want) {
			t.Errorf("killed at event %d, there are\n%v, want\n%v", head, got, want)
		}
		in.stop()
	}
	if gone < 3 {
		t.Errorf("the log had the events of all values but %d", gone)
	}
}

// As long as the last values cannot be stored, the log keeps more events than it has to,
// so that they are found after a kill.
func TestEventsStayUntilTheirLastValuesAreStored(t *testing.T) {
	for name, since := range map[string]uint64{"none are stored": 0, "some are stored": 60} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file, aside := filepath.Join(dir, "s", keptValues+".kept"), filepath.Join(t.TempDir(), "kept")
			o := newOrigin(t, ssetest.OriginConfig{})
			site := keptValuesSite(dir, o, "retain {\nsize 128KiB\n}")
			in := serve(t, "", site)
			hinder := func() {
				eventually(t, 0, "a directory is in the way", func() bool {
					err := os.Rename(file, aside)
					return err == nil && os.MkdirAll(filepath.Join(file, "x"), 0o700) == nil
				})
			}
			if since == 0 {
				hinder()
			}
			var head uint64
			h := playHistory(t, o, in, 400, func(at uint64) {
				if head < since && at >= since {
					hinder()
				}
				head = at
			})
			in.stop()
			o.Stop() // nothing comes any more
			must(t, os.RemoveAll(file))
			must(t, os.Rename(aside, file))
			in.reload("", site)
			if got, want := storedValues(t), h.values(head); !maps.Equal(got, want) {
				t.Errorf("there are\n%v, want\n%v", got, want)
			}
			durableOf(t).keeping.hasten()
			eventually(t, 0, "what is too much goes", func() bool { return durableOf(t).status().Bytes < 256<<10 })
		})
	}
}

// Where the log has lost its end, the last values that were stored may be newer than it.
func TestLastValuesOfALogThatHasLostItsEnd(t *testing.T) {
	dir := t.TempDir()
	o := newOrigin(t, ssetest.OriginConfig{})
	in := serve(t, "", keptValuesSite(dir, o, ""))
	var early string
	var at uint64
	h := playHistory(t, o, in, 200, func(head uint64) {
		if head > 100 && early == "" {
			early, at = copied(t, dir), head
		}
	})
	in.stop()
	o.Stop() // nothing comes any more
	values := keptValues + ".kept"
	body, err := os.ReadFile(filepath.Join(dir, "s", values))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(early, "s", values), body, 0o600))
	must(t, os.Remove(filepath.Join(early, "s", "head")))
	in.reload("", keptValuesSite(early, o, ""))
	got := storedValues(t)
	if last := durableOf(t).status().Last; last != at || len(durableOf(t).epochs()) != 2 {
		t.Fatalf("the log ends with %d, want %d, and has the epochs %v", last, at, durableOf(t).epochs())
	}
	if want := h.values(at); !maps.Equal(got, want) {
		t.Errorf("there are\n%v, want\n%v", got, want)
	}
}

// What is configured otherwise while Caddy is away, and what is damaged.
func TestStoredLastValuesThatDoNotFit(t *testing.T) {
	origins := map[string]func(string) string{
		"other types": func(site string) string {
			return strings.Replace(site, "last_value price", "last_value price news", 1)
		},
		"another key":      func(site string) string { return strings.Replace(site, "key /s", "key /n", 1) },
		"no such upstream": func(site string) string { return strings.Replace(site, "upstream u", "upstream other", 1) },
		"damaged":          nil,
		"no values any more": func(site string) string {
			return strings.NewReplacer("last_value price {\nkey /s\n}\nstart last_value", "").Replace(site)
		},
	}
	want := map[string][]int{"other types": {0, 4, 5, 6, 7}, "another key": {0, 4, 5, 7}, "no such upstream": nil, "damaged": {0, 4, 5, 7}, "no values any more": nil}
	for name, change := range origins {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			o := newOrigin(t, ssetest.OriginConfig{})
			site := keptValuesSite(dir, o, "retain {\nevents 2\n}")
			in := serve(t, "", site)
			c := in.connect("/events")
			up(t, o)
			for i, e := range []struct{ typ, key string }{
				{"price", "A"}, {"price", "B"}, {"news", "A"}, {"price", "C"}, {"price", "C"}, {"price", "B"}, {"news", "D"}, {"price", "E"},
			} {
				o.Emit(e.typ, price(e.key, i))
				hasGot(t, c, price(e.key, i))
			}
			c.Close() // else the stream is open until it has been drained
			in.stop()
			if change == nil {
				file := filepath.Join(dir, "s", keptValues+".kept")
				body, err := os.ReadFile(file)
				must(t, err)
				body[len(body)-1] ^= 1
				must(t, os.WriteFile(file, body, 0o600))
			} else {
				site = change(site)
			}
			in.reload("", site)
			awaitWriting(t)
			if name == "no values any more" {
				if hubNamed(t, "s").log.Load().values.kept() {
					t.Error("there are some")
				}
				return
			}
			var got []int
			for offset := range storedValues(t) {
				got = append(got, int(offset)-1)
			}
			slices.Sort(got)
			if !slices.Equal(got, want[name]) {
				t.Errorf("got %v, want %v", got, want[name])
			}
		})
	}
}

func TestKeptForm(t *testing.T) {
	k := keptLog{upTo: 300, epoch: "0123456789", ids: idsStream, text: "price\n/s"}
	values := []*lastvalue.Value{{Offset: 1, Key: `"a"`, Event: []byte("data: 1\n\n")}, {Offset: 300, Event: []byte("data: 2\n\n")}}
	body := k.appendHead(nil)
	for i, value := range values {
		body = appendKept(body, fmt.Sprint("source ", i), value)
	}
	got, all, err := parseKept(body)
	if err != nil || got != k || len(all) != len(values) {
		t.Fatalf("got %+v with %d values, %v", got, len(all), err)
	}
	for i, value := range values {
		if v := all[i]; v.offset != value.Offset || v.source != fmt.Sprint("source ", i) || string(v.key) != value.Key || string(v.event) != string(value.Event) {
			t.Errorf("value %d is %+v", i, v)
		}
	}
	for n := range body {
		cut, all, err := parseKept(body[:n])
		if err == nil && (cut != k || len(all) == len(values)) {
			t.Errorf("cut to %d bytes: got %+v with %d values", n, cut, len(all))
		}
	}
	if _, _, err := parseKept(append([]byte{keptVersion + 1}, body[1:]...)); err == nil {
		t.Error("another version is taken for this one")
	}
}

func FuzzParseKept(f *testing.F) {
	k := keptLog{upTo: 300, epoch: "0123456789", ids: idsStream, text: "price"}
	f.Add(k.appendHead(nil))
	f.Add(appendKept(k.appendHead(nil), "u", &lastvalue.Value{Offset: 7, Key: "1", Event: []byte("data: 1\n\n")}))
	f.Fuzz(func(t *testing.T, body []byte) {
		k, all, err := parseKept(body)
		if err != nil {
			return
		}
		last := uint64(0)
		for _, value := range all {
			if value.offset <= last || value.offset > k.upTo {
				t.Errorf("offset %d comes after %d, up to %d", value.offset, last, k.upTo)
			}
			last = value.offset
		}
	})
}

func TestGoodUpTo(t *testing.T) {
	epochs := []logstore.Epoch{{ID: "a", First: 1}, {ID: "b", First: 50}}
	for _, tc := range []struct {
		epoch    string
		upTo     uint64
		last     uint64
		want     uint64
		wantGood bool
	}{{"a", 40, 90, 40, true}, {"a", 60, 90, 49, true}, {"b", 60, 90, 60, true}, {"b", 95, 90, 90, true}, {"c", 60, 90, 0, false}} {
		k := keptLog{epoch: tc.epoch, upTo: tc.upTo}
		if got, ok := k.goodUpTo(epochs, tc.last); got != tc.want || ok != tc.wantGood {
			t.Errorf("%+v: got %d, %v", tc, got, ok)
		}
	}
}
