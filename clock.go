package ssefanin

import "time"

// started is the origin of the process's monotonic clock.
var started = time.Now()

// startedNanos makes readings of the clock positive, and alike under a
// synthetic clock, whose times have no monotonic part and may be earlier.
var startedNanos = started.UnixNano()

// monotonic returns t on the process's monotonic clock: nanoseconds, of which
// only differences have a meaning. t is a time.Now() that has not been through
// anything that strips its monotonic reading (UnixNano, Round, UTC).
//
// Everything that waits, is due, or lasts is reckoned in it, since the wall
// clock may be set: by NTP, after a machine's suspension, by an operator. The
// wall clock is for cursors, ages of events and what is displayed.
func monotonic(t time.Time) int64 {
	return startedNanos + int64(t.Sub(started))
}

// deadlineAt returns the time at which the monotonic clock will read at, for
// functions that take a deadline.
func deadlineAt(at int64) time.Time {
	now := time.Now()
	return now.Add(time.Duration(at - monotonic(now)))
}
