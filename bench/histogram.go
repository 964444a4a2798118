package main

import (
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	// subBuckets is how many buckets there are for each doubling: with 128 a
	// bucket is at most 0.8 % wide.
	subBuckets    = 128
	subBucketBits = 7

	// The range of a histogram. What is outside counts as its end.
	histogramMin = time.Microsecond
	histogramMax = time.Minute

	// histogramSize is the buckets up to 2^36 ns, the first power of two above
	// a minute: 36 bits less the 7 of the position within a doubling leave 29
	// doublings, and the first of them has twice as many buckets.
	histogramSize = (36 - subBucketBits + 1) * subBuckets
)

// histogram counts durations in buckets of equal relative width. Adding is
// safe for concurrent use; figures taken meanwhile miss the newest.
type histogram struct {
	counts [histogramSize]atomic.Uint64
}

// bucketOf returns the bucket of a duration.
func bucketOf(d time.Duration) int {
	v := uint64(min(max(d, histogramMin), histogramMax))
	shift := bits.Len64(v) - subBucketBits - 1 // v>>shift has 8 bits
	return shift*subBuckets + int(v>>shift)
}

// bucketTop returns the longest duration of a bucket.
func bucketTop(bucket int) time.Duration {
	shift := max(bucket/subBuckets-1, 0)
	return time.Duration((uint64(bucket-shift*subBuckets)+1)<<shift - 1)
}

func (h *histogram) add(d time.Duration) { h.counts[bucketOf(d)].Add(1) }

// distribution is the counts of histograms at a moment.
type distribution [histogramSize]uint64

// plus adds what h has counted.
func (c *distribution) plus(h *histogram) {
	for i := range c {
		c[i] += h.counts[i].Load()
	}
}

// minus takes an earlier distribution away: what is left was added since.
func (c *distribution) minus(earlier *distribution) {
	for i := range c {
		c[i] -= earlier[i]
	}
}

// quantiles are figures of a distribution.
type quantiles struct {
	Count               uint64
	P50, P99, P999, Max time.Duration
}

func (c *distribution) quantiles() quantiles {
	q := quantiles{}
	for _, n := range c {
		q.Count += n
	}
	q.P50, q.P99, q.P999, q.Max = c.at(q.Count, 0.5), c.at(q.Count, 0.99), c.at(q.Count, 0.999), c.at(q.Count, 1)
	return q
}

// at returns the duration that a share of the count is not above; 0 if there
// are none.
func (c *distribution) at(count uint64, share float64) time.Duration {
	if count == 0 {
		return 0
	}
	rank := max(uint64(share*float64(count)+0.5), 1)
	for bucket, n := range c {
		if n >= rank {
			return bucketTop(bucket)
		}
		rank -= n
	}
	return histogramMax
}
