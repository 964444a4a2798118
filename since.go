package ssefanin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

const (
	// maxSince is the longest time in a query that is looked at, in bytes: RFC 3339
	// with nanoseconds and an offset has 35.
	maxSince = 64

	// firstMillis is the number from which on Unix time is in milliseconds: as
	// seconds it is in the year 5138, as milliseconds in March 1973.
	firstMillis = 100_000_000_000

	// lastMillis is the end of the year 9999, the last one of RFC 3339.
	lastMillis = 253_402_300_799_999

	sinceForms = "expected a time as in RFC 3339, such as 2026-01-31T12:00:00Z, or Unix seconds or milliseconds, such as 1769860800 or 1769860800000"
)

// requestedSince returns the time from which on a client wants what arrived, in
// Unix ms; 0: it names none. The error is about a time that would count, and has
// nothing of it: where the request has a position, that counts.
func requestedSince(r *http.Request) (t int64, err error) {
	found := false
	for pair := range strings.SplitSeq(r.URL.RawQuery, "&") {
		name, value, _ := strings.Cut(pair, "=")
		if name != "since" {
			continue
		}
		if found {
			err = errors.New("is given more than once; expected one time")
			break
		}
		found = true
		if t, err = decodeSince(value); err != nil {
			break
		}
	}
	switch {
	case err == nil:
		return t, nil
	case requestedPosition(r) != "":
		return 0, nil
	}
	return 0, fmt.Errorf("'since' %w", err)
}

// decodeSince reads a time as a query has it. The function that makes a map of a
// query leaves out what it cannot decode; the client would get other events than
// it asked for, and not know.
func decodeSince(value string) (int64, error) {
	if len(value) > 3*maxSince { // each byte may be encoded as three
		return 0, errLongSince
	}
	text, err := url.QueryUnescape(value)
	if err != nil {
		return 0, fmt.Errorf("is not encoded as a query has to be; %s", sinceForms)
	}
	return parseSince(text)
}

var errLongSince = fmt.Errorf("has more than %d bytes; %s", maxSince, sinceForms)

// parseSince reads a time, which is rounded down to the millisecond: an event's
// arrival is. It is 1 at least.
func parseSince(text string) (int64, error) {
	switch {
	case text == "":
		return 0, fmt.Errorf("is empty; %s", sinceForms)
	case len(text) > maxSince:
		return 0, errLongSince
	case text[0] == '-':
		return 0, errors.New("is negative; expected the time itself, not how long ago that was, or 0 for everything retained")
	case strings.Trim(text, "0123456789.") == "":
		return parseUnix(text)
	}
	return parseRFC3339(text)
}

// parseUnix reads seconds, or milliseconds where there are too many for that, with
// a fraction or without.
func parseUnix(text string) (int64, error) {
	whole, fraction, fractional := strings.Cut(text, ".")
	if whole == "" || fractional && (fraction == "" || strings.Contains(fraction, ".")) {
		return 0, fmt.Errorf("is not a number; %s", sinceForms)
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n > lastMillis {
		return 0, errors.New("is after the year 9999; expected seconds or milliseconds, not microseconds or nanoseconds")
	}
	if n < firstMillis {
		millis, _ := strconv.ParseInt((fraction + "000")[:3], 10, 64) // digits only
		n = n*1000 + millis
	}
	return max(n, 1), nil
}

// parseRFC3339 reads a time with an offset. A plus that stands for itself in a
// query arrives as a space, which can be nothing else there. As RFC 3339 allows,
// letters may be small, and a space may stand before the time of day.
func parseRFC3339(text string) (int64, error) {
	const date, sign = len("2006-01-02"), len("+01:00")
	b := []byte(strings.ToUpper(text))
	if len(b) > date && b[date] == ' ' {
		b[date] = 'T'
	}
	if at := len(b) - sign; at > date && b[at] == ' ' {
		b[at] = '+'
	}
	t, err := time.Parse(time.RFC3339, string(b))
	if err != nil {
		for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
			if _, err := time.Parse(layout, string(b)); err == nil {
				return 0, errors.New("lacks the time of day, the seconds or the offset; expected all of them, as in 2026-01-31T12:00:00Z or 2026-01-31T13:00:00%2B01:00")
			}
		}
		return 0, fmt.Errorf("is not a time; %s", sinceForms)
	}
	if t.UnixMilli() < 0 || t.UnixMilli() > lastMillis {
		return 0, errors.New("is not in the years from 1970 to 9999; 0 is everything retained")
	}
	return max(t.UnixMilli(), 1), nil
}

// beginningSince is where a client begins that wants what arrived from a time on.
// False: that is being asked for.
func (c *client) beginningSince() (b beginning, ok bool) {
	next, all, ok := c.since(c.from)
	b = beginning{next: next, fresh: true}
	if ok && !all && c.hasLostSince(c.from) {
		b.gap = gapExpired
	}
	return b, ok
}

// hasLostSince reports whether an event for the client may be gone that arrived at a
// time (Unix ms) or later, where some such event is, or may be.
func (c *client) hasLostSince(t int64) bool {
	log := c.at.log
	if c.view == nil || t <= log.earlier.Load() {
		return true
	}
	first := log.first()
	if log.durable != nil {
		log.memory.GoneBefore(first)
	}
	lost, arrived := log.memory.Evicted(1, first, c.view.mayWant)
	return lost != 0 && arrived >= t
}

// since returns the offset of the first event that arrived at a time (Unix ms)
// or later, and whether all such events can be had. False: it is being asked for.
func (c *client) since(t int64) (next uint64, all, ok bool) {
	log := c.at.log
	t = max(t, 1)
	later := t > log.earlier.Load()
	next, all = log.memory.Since(t)
	if log.durable == nil || next > log.memory.Tail() || log.first() >= log.memory.Tail() {
		return next, all && later, true
	}
	if a := c.answered(); a != nil && a.since == t {
		first := log.first()
		if a.err != nil {
			return first, first == 1 && later, true // rather repeats than a hole
		}
		return max(a.next, first), a.all && first <= a.next && later, true
	}
	if c.ask(olderQuestion{since: t}) {
		return 0, false, false
	}
	return next, all && later, true
}

// sinceInStore returns the offset of the first record that arrived at t (Unix ms)
// or later, and whether no such record is gone. The record before it arrived
// earlier, and so did all before that; where that one is gone, it is not known
// when it arrived. The store's status would not do: it may be a second old.
func sinceInStore(ctx context.Context, store logstore.Store, t int64) (next uint64, all bool, err error) {
	next, err = store.Since(ctx, t)
	if err != nil || next <= 1 {
		return next, err == nil, err
	}
	_, err = store.Read(ctx, next-1, 1)
	if errors.Is(err, logstore.ErrEvicted) {
		return next, false, nil
	}
	return next, err == nil, err
}
