package main

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestBuckets(t *testing.T) {
	for d := histogramMin; d < histogramMax-histogramMax/100; d += d/1000 + 1 { // the last bucket goes beyond the range
		bucket := bucketOf(d)
		top := bucketTop(bucket)
		if top < d || float64(top-d) > float64(d)*0.01 {
			t.Fatalf("%v is in bucket %d, which ends at %v", d, bucket, top)
		}
		if bucketOf(top) != bucket || bucketOf(top+1) != bucket+1 {
			t.Fatalf("the end of bucket %d, %v, is in %d, and the next in %d", bucket, top, bucketOf(top), bucketOf(top+1))
		}
	}
	for _, d := range []time.Duration{-1, 0, 1, time.Hour} {
		if bucket := bucketOf(d); bucket < 0 || bucket >= histogramSize {
			t.Errorf("%v is in bucket %d", d, bucket)
		}
	}
}

func TestQuantiles(t *testing.T) {
	var (
		h      histogram
		values []time.Duration
		d      distribution
	)
	for range 100_000 {
		v := time.Duration(rand.ExpFloat64() * float64(10*time.Millisecond))
		v = max(v, histogramMin)
		h.add(v)
		values = append(values, v)
	}
	slices.Sort(values)
	d.plus(&h)
	q := d.quantiles()
	if q.Count != uint64(len(values)) {
		t.Errorf("%d values, want %d", q.Count, len(values))
	}
	for _, c := range []struct {
		name string
		got  time.Duration
		rank int
	}{
		{"p50", q.P50, 50_000},
		{"p99", q.P99, 99_000},
		{"p99.9", q.P999, 99_900},
		{"max", q.Max, 100_000},
	} {
		if want := values[c.rank-1]; c.got < want || float64(c.got-want) > float64(want)*0.01 {
			t.Errorf("%s is %v, want %v", c.name, c.got, want)
		}
	}
}

func TestDistributionSince(t *testing.T) {
	var (
		h             histogram
		before, after distribution
	)
	h.add(time.Second)
	before.plus(&h)
	h.add(time.Millisecond)
	after.plus(&h)
	after.minus(&before)
	if q := after.quantiles(); q.Count != 1 || q.Max > 2*time.Millisecond {
		t.Errorf("%+v", q)
	}
	var none distribution
	if q := none.quantiles(); q != (quantiles{}) {
		t.Errorf("of nothing: %+v", q)
	}
}
