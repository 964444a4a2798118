package logstore

import (
	"fmt"
	"maps"
	"strings"
	"testing"
)

// body makes a record an event.
var body = []byte("data: 1\n\n")

func TestSourcesKeepTheNewest(t *testing.T) {
	var s Sources
	if all := s.All(); len(all) != 0 {
		t.Errorf("of nothing %v is known", all)
	}
	for _, r := range []Record{
		{Offset: 1, Time: 10, Source: "a", ID: "1", Body: body},
		{Offset: 2, Time: 20, Source: "b", ID: "x", Body: body},
		{Offset: 3, Time: 30, Source: "a", Body: body},
		{Offset: 4, Time: 40, Source: "node"}, // a fence
		{Offset: 5, Time: 50, Source: "c", ID: strings.Repeat("i", MaxLatestText+1), Body: body},
		{Offset: 6, Time: 60, Source: strings.Repeat("s", MaxLatestText+1), Body: body},
		{Offset: 7, Time: 70, Source: "", ID: "n", Body: body},
	} {
		s.Note(&r)
	}
	s.Set("b", Latest{1, 5, "older"})
	s.Set("d", Latest{9, 90, "newer"})
	want := map[string]Latest{"a": {3, 30, ""}, "b": {2, 20, "x"}, "c": {5, 50, ""}, "": {7, 70, "n"}, "d": {9, 90, "newer"}}
	if all := s.All(); !maps.Equal(all, want) {
		t.Errorf("known is %v, want %v", all, want)
	}
	s.Cut(5)
	want = map[string]Latest{"a": {3, 30, ""}, "b": {2, 20, "x"}}
	if all := s.All(); !maps.Equal(all, want) {
		t.Errorf("of the records before 5 %v is known, want %v", all, want)
	}
}

func TestSourcesAreBounded(t *testing.T) {
	var s Sources
	for i := range uint64(10 * MaxSources) {
		s.Note(&Record{Offset: i + 1, Source: fmt.Sprint(i), Body: body})
		s.Note(&Record{Offset: i + 1, Source: "always", Body: body})
		if len(s.latest) > 2*MaxSources {
			t.Fatalf("%d sources are known", len(s.latest))
		}
	}
	all := s.All()
	if len(all) != MaxSources || all["always"].Offset != 10*MaxSources {
		t.Fatalf("%d sources are known, and %v", len(all), all["always"])
	}
	for i := 10*MaxSources - 1; i > 9*MaxSources; i-- {
		if l, ok := all[fmt.Sprint(i)]; !ok || l.Offset != uint64(i+1) {
			t.Fatalf("of source %d is known: %v, %v", i, l, ok)
		}
	}
}

func TestNotingAKnownSourceAllocatesNothing(t *testing.T) {
	var s Sources
	r := Record{Offset: 1, Source: "a", ID: "1", Body: body}
	s.Note(&r)
	if n := testing.AllocsPerRun(100, func() { s.Note(&r) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
