package interop

import (
	"fmt"
	"slices"
	"strings"
)

// A difference is how what a library has handed out differs from what the
// reference has got.
type difference struct {
	missing []message // the reference got these, the library did not
	twice   []message // the library handed these out again
	foreign []message // nobody sent these
	order   []message // the rest is in another order, from here on
}

// compare finds out by what got differs from want, in which nothing occurs twice.
func compare(want, got []message) difference {
	var d difference
	seen := make(map[message]bool, len(want)) // whether the library has handed it out
	for _, m := range want {
		seen[m.key()] = false
	}
	inOrder := make([]message, 0, len(got))
	for _, m := range got {
		switch before, sent := seen[m.key()]; {
		case !sent:
			d.foreign = append(d.foreign, m)
		case before:
			d.twice = append(d.twice, m)
		default:
			seen[m.key()] = true
			inOrder = append(inOrder, m)
		}
	}
	next := 0
	for _, m := range want {
		switch {
		case !seen[m.key()]:
			d.missing = append(d.missing, m)
		case m.key() != inOrder[next].key():
			d.order = append(d.order, inOrder[next])
			next++
		default:
			next++
		}
	}
	return d
}

func (d difference) String() string {
	var parts []string
	for _, part := range []struct {
		what     string
		messages []message
	}{{"missing", d.missing}, {"twice", d.twice}, {"not sent by anybody", d.foreign}, {"out of order", d.order}} {
		if len(part.messages) > 0 {
			parts = append(parts, fmt.Sprintf("%d %s, such as %s", len(part.messages), part.what, part.messages[0]))
		}
	}
	return strings.Join(parts, "; ")
}

// medianAndMost returns the middle one and the largest.
func medianAndMost[T ~int64](values []T) (median, most T) {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2], sorted[len(sorted)-1]
}

// expected is what a library hands out of what it is sent: its data changed by its
// faults.
func (l library) expected(sent []message) []message {
	if !l.losesFirst {
		return sent
	}
	var all []message
	for _, m := range sent {
		m.Data = strings.TrimLeft(m.Data, "\n")
		m.Data = strings.TrimPrefix(m.Data, "\ufeff")
		all = append(all, m)
	}
	return all
}

// forgive takes out of a difference what a library's faults make of connections
// that were cut.
func (l library) forgive(d *difference, cuts int) {
	switch {
	case cuts == 0 || !l.losesCut:
	case l.handsOutCut: // a part of a position, too, with which it gets anything again
		*d = difference{}
	case len(d.missing) <= cuts+1: // begin cuts one that is not counted
		d.missing = nil
	}
}
