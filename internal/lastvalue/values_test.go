package lastvalue

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// model keeps the values in the plainest way.
type model struct {
	bounds Bounds
	order  []id // least recently changed first
	values map[id]*Value
	own    map[id]int64 // bytes of the events that were copied
}

func (m *model) remove(key id) {
	m.order = slices.DeleteFunc(m.order, func(other id) bool { return other == key })
	delete(m.values, key)
	delete(m.own, key)
}

func (m *model) memory() (n int64) {
	for key := range m.values {
		n += entryCost + int64(len(key.key)) + m.own[key]
	}
	return n
}

func (m *model) evict() (evicted uint64) {
	for len(m.order) > 0 && (len(m.order) > m.bounds.Max || m.memory() > m.bounds.Bytes) {
		m.remove(m.order[0])
		evicted++
	}
	return evicted
}

func (m *model) want() []Value {
	var want []Value
	for _, key := range m.order {
		want = append(want, *m.values[key])
	}
	return want
}

// plain are a snapshot's values.
func plain(all []*Value) []Value {
	var values []Value
	for _, v := range all {
		values = append(values, *v)
	}
	return values
}

func same(a, b Value) bool {
	return a.Offset == b.Offset && a.Tag == b.Tag && a.Key == b.Key && string(a.Event) == string(b.Event)
}

func TestValuesAreThoseOfTheModel(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		bounds := Bounds{Max: 1 + random.IntN(20), Bytes: 1 << 20}
		if seed%2 == 0 {
			bounds.Bytes = 200 + random.Int64N(5000)
		}
		v := New(bounds)
		m := &model{bounds: bounds, values: make(map[id]*Value), own: make(map[id]int64)}
		var evicted uint64
		offset, tail := uint64(0), uint64(1)
		held := make(map[*Snapshot][]Value)
		for range 400 {
			switch random.IntN(12) {
			default:
				offset += 1 + random.Uint64N(3)
				key := id{uint32(random.IntN(3))<<20 | uint32(random.IntN(2)), fmt.Sprint(random.IntN(12))}
				event := []byte(fmt.Sprintf("event %d %*d", offset, random.IntN(200), 1))
				v.Put(offset, key.tag, []byte(key.key), event)
				m.remove(key)
				m.order = append(m.order, key)
				m.values[key] = &Value{offset, key.tag, key.key, event}
			case 7, 8:
				tail = min(tail+random.Uint64N(12), offset+1)
				v.Passed(tail)
				for key, value := range m.values {
					if value.Offset < tail {
						m.own[key] = int64(len(value.Event))
					}
				}
			case 9:
				m.bounds.Max = 1 + random.IntN(20)
				v.SetBounds(m.bounds)
			case 10:
				s := v.Snapshot()
				held[s] = plain(s.Between(0, NoOffset))
			case 11:
				drop := uint32(random.IntN(3))
				v.Forget(func(value *Value) bool { return value.Tag>>20 != drop })
				for _, key := range slices.Clone(m.order) {
					if key.tag>>20 == drop {
						m.remove(key)
					}
				}
			}
			evicted += m.evict()
			got, want := plain(v.Snapshot().Between(0, NoOffset)), m.want()
			if !slices.EqualFunc(got, want, same) {
				t.Fatalf("seed %d:\n got %v\nwant %v", seed, got, want)
			}
			if st, want := v.Stats(), (Stats{len(m.values), m.memory(), evicted}); st != want {
				t.Fatalf("seed %d: the numbers are %+v, want %+v", seed, st, want)
			}
			fresh := uint64(NoOffset)
			for key, value := range m.values {
				if _, copied := m.own[key]; !copied {
					fresh = min(fresh, value.Offset)
				}
			}
			if v.Fresh() != fresh {
				t.Fatalf("seed %d: the oldest value of the log's is %d, want %d", seed, v.Fresh(), fresh)
			}
		}
		for s, want := range held {
			if got := plain(s.Between(0, NoOffset)); !slices.EqualFunc(got, want, same) {
				t.Fatalf("seed %d: a snapshot has changed:\n got %v\nwant %v", seed, got, want)
			}
		}
	}
}

func TestSnapshotIsShared(t *testing.T) {
	v := New(Bounds{10, 1 << 20})
	v.Put(1, 0, []byte("a"), []byte("1"))
	first := v.Snapshot()
	if v.Snapshot() != first || !v.Is(first) {
		t.Error("nothing has changed, and there is another snapshot")
	}
	v.Put(2, 0, []byte("a"), []byte("2"))
	if v.Is(first) || v.Snapshot() == first {
		t.Error("a value has changed, and there is the same snapshot")
	}
}

func TestBetween(t *testing.T) {
	v := New(Bounds{10, 1 << 20})
	for _, offset := range []uint64{2, 5, 9} {
		v.Put(offset, 0, fmt.Append(nil, offset), nil)
	}
	for _, tc := range []struct {
		from, to uint64
		want     []uint64
	}{{0, 100, []uint64{2, 5, 9}}, {2, 9, []uint64{2, 5}}, {3, 5, nil}, {6, 3, nil}, {9, NoOffset, []uint64{9}}} {
		var got []uint64
		for _, value := range v.Snapshot().Between(tc.from, tc.to) {
			got = append(got, value.Offset)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("from %d to %d: got %v, want %v", tc.from, tc.to, got, tc.want)
		}
	}
}

// The bytes of an event that the log has evicted are not those of its segment.
func TestPassedEventsAreCopied(t *testing.T) {
	segment := []byte("onetwothree")
	v := New(Bounds{10, 1 << 20})
	v.Put(1, 0, []byte("a"), segment[:3])
	v.Put(2, 0, []byte("b"), segment[3:6])
	v.Put(3, 0, []byte("c"), segment[6:])
	v.Passed(3)
	clear(segment)
	var got []string
	for _, value := range v.Snapshot().Between(0, NoOffset) {
		got = append(got, string(value.Event))
	}
	if want := []string{"one", "two", "\x00\x00\x00\x00\x00"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRetag(t *testing.T) {
	v := New(Bounds{10, 1 << 20})
	put := func(offset uint64, tag uint32, key string) { v.Put(offset, tag, []byte(key), fmt.Append(nil, offset)) }
	put(1, 1, "only")
	put(2, 1, "both")
	put(3, 2, "both")
	put(4, 3, "gone")
	put(5, 4, "both")
	put(6, 5, "same")
	put(7, 6, "same")
	put(8, 6, "newer")
	put(9, 5, "newer")
	v.Retag(func(value *Value) (to uint32, keep bool) {
		return map[uint32]uint32{1: 2, 2: 1, 4: 4, 5: 6, 6: 6}[value.Tag], value.Tag != 3
	})
	got := make(map[string]uint32)
	for _, value := range v.Snapshot().Between(0, NoOffset) {
		got[string(value.Event)] = value.Tag
	}
	if want := map[string]uint32{"1": 2, "2": 2, "3": 1, "5": 4, "7": 6, "9": 6}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	put(10, 2, "only")
	put(11, 1, "both")
	put(12, 6, "newer")
	if n := v.Stats().Values; n != 6 {
		t.Errorf("an event of the source by its new name is another value: there are %d", n)
	}
}

func BenchmarkPut(b *testing.B) {
	event := []byte("id: abcdefghij-1-0\nevent: price\ndata: {\"symbol\":\"ABC\",\"price\":1}\n\n")
	keys := make([][]byte, 10_000)
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "\"S%d\"", i)
	}
	v := New(Bounds{10_000, 64 << 20})
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		v.Put(uint64(i+1), 1, keys[i%len(keys)], event)
	}
}

func BenchmarkSnapshot(b *testing.B) {
	v := New(Bounds{10_000, 64 << 20})
	for i := range 10_000 {
		v.Put(uint64(i+1), 1, fmt.Appendf(nil, "\"S%d\"", i), []byte("event"))
	}
	b.ReportAllocs()
	for i := 10_000; b.Loop(); i++ {
		v.Put(uint64(i+1), 1, []byte("\"S1\""), []byte("event"))
		v.Snapshot()
	}
}
