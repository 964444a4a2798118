package ssetest

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// see lets a client observe events written as source:n, "gap" or data.
func see(tr *Track, events ...string) {
	for _, e := range events {
		if e == "gap" {
			tr.Observe([]byte(gapType), []byte("g"), []byte(`{"reason":"expired","missed":3,"resumed":"g"}`))
			continue
		}
		data := e
		if source, n, ok := strings.Cut(e, ":"); ok {
			data = fmt.Sprintf(`{"source":"%s","n":%s,"at":1}`, source, n)
		}
		tr.Observe([]byte("message"), []byte("id-"+e), []byte(data))
	}
}

func TestVerifier(t *testing.T) {
	all := []string{"a:1", "b:7", "a:2", "a:3", "b:8", "a:4"}
	for _, c := range []struct {
		name   string
		second []string // what another client than the one with all sees
		want   Counts   // beyond Events, Numbered
		text   string   // of a violation
	}{
		{"the same", all, Counts{}, ""},
		{"later start", all[3:], Counts{}, ""},
		{"earlier start", append([]string{"b:6", "b:5"}[:1], all...), Counts{}, ""},
		{"lost", []string{"a:1", "b:7", "a:3", "b:8"}, Counts{Lost: 1}, "lost a:2 to 2"},
		{"doubled", []string{"a:1", "b:7", "a:2", "b:7", "a:3"}, Counts{Doubled: 1}, "got b:7 again"},
		{"out of order", []string{"a:1", "b:7", "a:3", "a:2", "b:8"}, Counts{OutOfOrder: 1}, "got a:2 out of order, after 3"},
		{"another order", []string{"a:1", "a:2", "b:7", "a:3"}, Counts{Order: 3}, "got a:2 directly after a:1, client first got b:7 there"},
		{"another order at the edge", []string{"b:7", "a:3"}, Counts{Order: 1}, "got a:3 directly after b:7"},
		{"silent loss of another source", []string{"a:1", "a:2", "a:3"}, Counts{Order: 1}, "got a:2 directly after a:1"},
		{"gap", []string{"a:1", "gap", "b:8", "a:4"}, Counts{Control: 1, Gaps: 1, GapMissed: 3, Announced: 2}, "gap event"},
		{"repeated after gap", []string{"a:1", "b:7", "a:2", "gap", "b:7", "a:2", "a:3"}, Counts{Control: 1, Gaps: 1, GapMissed: 3, Repeated: 2}, "gap event"},
		{"other", []string{"a:1", "no number", "b:7"}, Counts{Other: 1}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := NewVerifier()
			see(v.Track("first"), all...)
			tr := v.Track("second")
			see(tr, c.second...)
			got := tr.Counts()
			c.want.Events, c.want.Numbered = got.Events, got.Numbered
			if got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
			err := v.Err()
			if (err != nil) != (c.text != "") || err != nil && !strings.Contains(err.Error(), "client second "+c.text) && !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %v, want %q", err, c.text)
			}
		})
	}
}

func TestVerifierOrderBefore(t *testing.T) {
	v := NewVerifier()
	see(v.Track("first"), "b:1", "a:1")
	see(v.Track("second"), "c:1", "a:1")
	if err := v.Err(); err == nil || !strings.Contains(err.Error(), "client second got c:1 directly before a:1, client first got b:1 there") {
		t.Errorf("error %v", err)
	}
}

func TestVerifierContent(t *testing.T) {
	v := NewVerifier()
	see(v.Track("first"), "a:1")
	v.Track("second").Observe([]byte("other"), []byte("id-a:1"), []byte(`{"source":"a","n":1,"at":1}`))
	if r := v.Report(); r.Differing != 1 {
		t.Errorf("%s", r)
	}
}

func TestVerifierAllowGaps(t *testing.T) {
	v := NewVerifier(AllowGaps())
	see(v.Track("c"), "a:1", "gap", "a:5", "a:6")
	must(t, v.Err())
	if r := v.Report(); r.Announced != 3 || len(r.GapEvents) != 1 || r.GapEvents[0].Reason != "expired" || *r.GapEvents[0].Missed != 3 {
		t.Errorf("%+v", r)
	}
}

func TestVerifierEmptyIsAnError(t *testing.T) {
	if NewVerifier().Err() == nil {
		t.Error("nothing seen, and no error")
	}
}

func TestVerifierWaitSeen(t *testing.T) {
	v := NewVerifier()
	early, late := v.Track("early"), v.Track("late")
	see(early, "a:1", "a:2")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := v.WaitSeen(ctx, "a", 2); err == nil || !strings.Contains(err.Error(), "late (none)") || strings.Contains(err.Error(), "early") {
		t.Errorf("error %v", err)
	}
	done := make(chan error, 1) // one result
	go func() { done <- v.WaitSeen(within(t), "a", 2) }()
	see(late, "a:1", "a:2")
	must(t, <-done)
}

func TestFindNumbered(t *testing.T) {
	for _, c := range []struct {
		data, source string
		n            uint64
	}{
		{`{"source":"a","n":17,"at":1}`, "a", 17},
		{`{"source":"up","type":"x","data":{"source":"a","n":17}}`, "a", 17},
		{`{"source":"a"}`, "", 0},
		{`{"source":"a","n":"x"}`, "", 0},
		{`{"source":"`, "", 0},
	} {
		source, n, ok := FindNumbered([]byte(c.data))
		if ok != (c.n != 0) || ok && (string(source) != c.source || n != c.n) {
			t.Errorf("%s: %s %d %t", c.data, source, n, ok)
		}
	}
}
