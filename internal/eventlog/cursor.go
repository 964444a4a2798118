package eventlog

import (
	"strconv"
	"strings"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

const (
	// The largest time of a cursor in Unix ms, the last of 9 digits in base
	// 36: the year 5188.
	maxTime = 36*36*36*36*36*36*36*36*36 - 1

	// The largest offset of a cursor, 19 digits.
	maxOffset = 1e19 - 1

	// Bytes of the longest cursor: epoch, dash, offset, dash, time.
	maxCursorLen = logstore.EpochLen + 1 + 19 + 1 + 9 // 40
)

// Cursor is where a client stands: it has received everything up to and
// including Offset of the incarnation Epoch of a log. Clients keep it as the
// SSE id and bring it back when they reconnect.
//
// The epoch is what makes an offset safe. Without it, a client that had read
// up to 5000 before a restart would come back to a new log that has reached
// 7000, be served from 5001 as if nothing had happened, and never learn that
// it missed the first 5000 events of the new log.
//
// The time serves where the epoch does not: another node, or the same one
// after a restart, can still tell about when the client left off.
type Cursor struct {
	Epoch  string
	Offset uint64
	Time   int64 // Unix ms
}

// AppendTo appends the cursor's text to dst: the epoch, the offset in decimal
// and the time in base 36, joined by dashes. That is at most 40 bytes of
// [A-Za-z0-9-] for every cursor that a Log or ParseCursor made.
func (c Cursor) AppendTo(dst []byte) []byte {
	dst = append(dst, c.Epoch...)
	dst = append(dst, '-')
	dst = strconv.AppendUint(dst, c.Offset, 10)
	dst = append(dst, '-')
	return appendBase36(dst, c.Time)
}

// appendBase36 is strconv.AppendInt for a base that the compiler knows, which
// spares a division a digit. It is for times, which are not negative.
func appendBase36(dst []byte, t int64) []byte {
	var digits [13]byte // of the largest uint64
	i := len(digits)
	for n := uint64(t); ; n /= 36 {
		i--
		digits[i] = "0123456789abcdefghijklmnopqrstuvwxyz"[n%36]
		if n < 36 {
			return append(dst, digits[i:]...)
		}
	}
}

// String returns the cursor's text, as AppendTo writes it.
func (c Cursor) String() string {
	return string(c.AppendTo(make([]byte, 0, maxCursorLen)))
}

// ParseCursor reads what AppendTo wrote. It takes exactly that form (no
// leading zeros, no upper case), so that one position has one text, and reports
// false for everything else: s comes from the client and can be anything.
func ParseCursor(s string) (Cursor, bool) {
	if len(s) > maxCursorLen {
		return Cursor{}, false
	}
	epoch, rest, ok := strings.Cut(s, "-")
	if !ok || len(epoch) != logstore.EpochLen {
		return Cursor{}, false
	}
	for i := range len(epoch) {
		if digit(epoch[i]) < 0 {
			return Cursor{}, false
		}
	}
	offsetText, timeText, ok := strings.Cut(rest, "-")
	if !ok {
		return Cursor{}, false
	}
	offset, ok := parseDigits(offsetText, 10, maxOffset)
	if !ok {
		return Cursor{}, false
	}
	t, ok := parseDigits(timeText, 36, maxTime)
	if !ok {
		return Cursor{}, false
	}
	return Cursor{Epoch: epoch, Offset: offset, Time: int64(t)}, true
}

// parseDigits is strconv.ParseUint without signs, underscores, upper case and
// leading zeros.
func parseDigits(s string, base, limit uint64) (uint64, bool) {
	if s == "" || (s[0] == '0' && len(s) > 1) {
		return 0, false
	}
	var n uint64
	for i := range len(s) {
		d := digit(s[i])
		if d < 0 || uint64(d) >= base || n > (limit-uint64(d))/base {
			return 0, false
		}
		n = n*base + uint64(d)
	}
	return n, true
}

// digit returns the value of c in base 36, or -1.
func digit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'z':
		return int(c-'a') + 10
	default:
		return -1
	}
}

// millis returns t in Unix ms, forced into what a cursor can carry.
func millis(t time.Time) int64 {
	return min(max(t.UnixMilli(), 0), maxTime)
}
