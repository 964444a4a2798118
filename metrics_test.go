package ssefanin

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// metrics returns what a scraper of the running configuration gets of ours.
func (in *instance) metrics() string {
	in.t.Helper()
	ctx := caddy.ActiveContext()
	families, err := ctx.GetMetricsRegistry().Gather()
	must(in.t, err)
	var b strings.Builder
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "caddy_sse_fanin_") {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			value := m.GetCounter().GetValue() + m.GetGauge().GetValue()
			name := f.GetName()
			if h := m.GetHistogram(); h != nil {
				name, value = name+"_count", float64(h.GetSampleCount())
			}
			fmt.Fprintf(&b, "%s{%s} %v\n", name, strings.Join(labels, ","), value)
		}
	}
	return b.String()
}

// value returns the value of one series; the test fails without it.
func (in *instance) value(series string) float64 {
	in.t.Helper()
	text := in.metrics()
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			must(in.t, err)
			return v
		}
	}
	in.t.Fatalf("there is no series %s in\n%s", series, text)
	return 0
}

// wantMetrics waits until series have values.
func wantMetrics(t *testing.T, in *instance, want map[string]float64) {
	t.Helper()
	for series, value := range want {
		eventually(t, 5*time.Second, fmt.Sprint(series, " is ", value, ", not ", in.value(series)), func() bool { return in.value(series) == value })
	}
}

// Every name of the documented list, and no other.
func TestMetricNames(t *testing.T) {
	a := plain(t)
	in := serve(t, "", directive("/e", "stream m\nupstream u "+a.URL())+"\n"+directive("/k", "stream k\nupstream u "+a.URL()+"/{query.user}")+
		"\n"+kept(t.TempDir(), "", "upstream u "+a.URL()))
	got := make(map[string]bool)
	for line := range strings.Lines(in.metrics()) {
		name, _, _ := strings.Cut(line, "{")
		got[strings.TrimSuffix(name, "_count")] = true
	}
	for _, name := range []string{
		"upstream_up", "upstream_connects_total", "upstream_disconnects_total", "upstream_last_event_timestamp_seconds",
		"events_received_total", "received_bytes_total", "events_skipped_total", "duplicates_total", "clients",
		"clients_total", "client_disconnects_total", "events_delivered_total", "delivered_bytes_total",
		"replayed_events_total", "gaps_total", "retained_events", "retained_bytes", "retained_age_seconds",
		"max_lag_events", "delivery_delay_seconds", "refused_total", "max_clients", "max_streams", "keys",
		"log_state", "log_writes", "log_nodes", "log_last_error_timestamp_seconds", "log_memory_head_offset", "log_head_offset", "log_first_offset", "log_bytes", "log_buffered_events", "log_buffered_bytes",
		"log_term", "log_takeovers_total", "log_refused_appends_total", "log_resyncs_total", "log_commit_delay_seconds",
	} {
		name = "caddy_sse_fanin_" + name
		if !got[name] {
			t.Errorf("there is no %s", name)
		}
		delete(got, name)
	}
	for name := range got {
		t.Errorf("%s is not documented", name)
	}
}

func TestMetricsAreClean(t *testing.T) {
	a := plain(t)
	serve(t, "", directive("/e", "stream m\nupstream u "+a.URL())+"\n"+kept(t.TempDir(), "", "upstream u "+a.URL()))
	registry := prometheus.NewPedanticRegistry()
	must(t, registry.Register(&metrics))
	families, err := registry.Gather()
	must(t, err)
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	must(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// Every series is there before anything happens: rates and alerts need a zero
// to begin with.
func TestMetricsBeginWithZero(t *testing.T) {
	a := plain(t)
	site := directive("/e", "stream s\nupstream u "+a.URL()) +
		directive("/d", "stream d\nconnect on_demand\nupstream one "+a.URL()+"?x\nupstream two {\npolicy merge\ndynamic a no-such-host.invalid 1\n}") +
		directive("/k", "stream k\nupstream u http://"+a.Addr()+"/{query.u}")
	site = strings.Replace(site, "upstream two {", "upstream two http://example.com/ {", 1)
	in := serve(t, "", site)
	connected(t, a)
	for stream, upstreams := range map[string][]string{"s": {"u"}, "d": {"one", "two"}, "k": {"u"}} {
		for _, u := range upstreams {
			up := 0.0
			if stream == "s" {
				up = 1
			}
			labels := fmt.Sprintf("stream=%q,upstream=%q}", stream, u)
			want := map[string]float64{
				"caddy_sse_fanin_upstream_up{" + labels:                             up,
				"caddy_sse_fanin_upstream_connects_total{" + labels:                 up,
				"caddy_sse_fanin_upstream_last_event_timestamp_seconds{" + labels:   0,
				"caddy_sse_fanin_events_received_total{" + labels:                   0,
				"caddy_sse_fanin_received_bytes_total{" + labels:                    0,
				`caddy_sse_fanin_events_skipped_total{reason="too_large",` + labels: 0,
				`caddy_sse_fanin_events_skipped_total{reason="type",` + labels:      0,
				"caddy_sse_fanin_duplicates_total{" + labels:                        0,
			}
			for _, why := range reasons {
				want[fmt.Sprintf("caddy_sse_fanin_upstream_disconnects_total{reason=%q,%s", why, labels)] = 0
			}
			wantMetrics(t, in, want)
		}
		label := fmt.Sprintf("stream=%q}", stream)
		want := map[string]float64{
			`caddy_sse_fanin_gaps_total{reason="expired",` + label: 0,
			`caddy_sse_fanin_gaps_total{reason="unknown",` + label: 0,
		}
		for _, name := range []string{
			"clients", "clients_total", "events_delivered_total", "delivered_bytes_total", "replayed_events_total",
			"retained_events", "retained_bytes", "retained_age_seconds", "max_lag_events", "delivery_delay_seconds_count", "max_clients",
		} {
			want["caddy_sse_fanin_"+name+"{"+label] = 0
		}
		for _, why := range endReasons {
			want[fmt.Sprintf("caddy_sse_fanin_client_disconnects_total{reason=%q,%s", why, label)] = 0
		}
		for _, why := range allRefusals {
			want[fmt.Sprintf("caddy_sse_fanin_refused_total{reason=%q,%s", why, label)] = 0
		}
		wantMetrics(t, in, want)
	}
}

// Each constant of the source has a counter.
func TestEveryReasonIsCounted(t *testing.T) {
	if len(reasons) > maxReasons || len(endReasons) > maxEndReasons || len(gapReasons) != len(streamCounts{}.gaps) {
		t.Error("there are more reasons than counters")
	}
	for file, tc := range map[string]struct {
		pattern string
		known   func(string) bool
	}{
		"connection.go": {`(?m)^\treason\w+\s+reason = "(\w+)"`, func(s string) bool { return slices.Contains(reasons, reason(s)) }},
		"subscriber.go": {`(?m)^\tend\w+\s+endReason = "(\w+)"`, func(s string) bool { return slices.Contains(endReasons, endReason(s)) }},
		"refusals.go":   {`(?m)^\trefused\w+\s+refusal = "(\w+)"`, func(s string) bool { return slices.Contains(allRefusals[:], refusal(s)) }},
	} {
		found := regexp.MustCompile(tc.pattern).FindAllStringSubmatch(readFile(t, file), -1)
		if len(found) == 0 {
			t.Errorf("%s has no reasons", file)
		}
		for _, m := range found {
			if !tc.known(m[1]) {
				t.Errorf("%s: reason %q has no counter", file, m[1])
			}
		}
	}
}

func TestMetricsOfDelivery(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := serve(t, "", directive("/e", "stream s\nstart oldest\nupstream u "+o.URL()))
	connected(t, o)
	first := follow(t, in, "/e")
	emitSeen(t, o, first, "one", "two")
	second := follow(t, in, "/e")
	waitData(t, second, "two")
	o.Emit("", "three")
	waitData(t, first, "three")
	waitData(t, second, "three")
	wantMetrics(t, in, map[string]float64{
		`caddy_sse_fanin_events_delivered_total{stream="s"}`:       6,
		`caddy_sse_fanin_replayed_events_total{stream="s"}`:        2,
		`caddy_sse_fanin_clients{stream="s"}`:                      2,
		`caddy_sse_fanin_clients_total{stream="s"}`:                2,
		`caddy_sse_fanin_retained_events{stream="s"}`:              3,
		`caddy_sse_fanin_delivery_delay_seconds_count{stream="s"}`: 4,
		`caddy_sse_fanin_upstream_up{stream="s",upstream="u"}`:     1,
	})
	if n := in.value(`caddy_sse_fanin_upstream_last_event_timestamp_seconds{stream="s",upstream="u"}`); n < float64(time.Now().Add(-time.Minute).Unix()) {
		t.Errorf("the last event was at %v", n)
	}
	first.Close()
	in.openClient(ssetest.ClientConfig{URL: "/e", LastEventID: "nonsense"})
	wantMetrics(t, in, map[string]float64{
		`caddy_sse_fanin_client_disconnects_total{reason="client",stream="s"}`: 1,
		`caddy_sse_fanin_gaps_total{reason="unknown",stream="s"}`:              1,
	})
}

// Reloads, with and without changes, reset nothing.
func TestMetricsOutliveReloads(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{})
	b := newOrigin(t, ssetest.OriginConfig{})
	site := func(more string) string { return directive("/e", "stream s\nupstream u "+a.URL()+"\n"+more) }
	in := serve(t, "", site(""))
	connected(t, a)
	c := follow(t, in, "/e")
	emitSeen(t, a, c, "one", "two")
	series := []string{
		`caddy_sse_fanin_events_received_total{stream="s",upstream="u"}`,
		`caddy_sse_fanin_upstream_connects_total{stream="s",upstream="u"}`,
		`caddy_sse_fanin_events_delivered_total{stream="s"}`,
		`caddy_sse_fanin_clients_total{stream="s"}`,
		`caddy_sse_fanin_delivery_delay_seconds_count{stream="s"}`,
	}
	wantMetrics(t, in, map[string]float64{series[0]: 2, series[2]: 2})
	check := func(what string) {
		t.Helper()
		for _, s := range series {
			if in.value(s) == 0 {
				t.Errorf("%s: %s is 0", what, s)
			}
		}
	}
	in.reload("", site("")+"respond /x y")
	check("another site")
	in.reload("", site("upstream v "+b.URL()))
	check("another upstream")
	wantMetrics(t, in, map[string]float64{`caddy_sse_fanin_events_received_total{stream="s",upstream="v"}`: 0})
	in.reload("", site("idle_timeout 1h")) // another connection
	wantMetrics(t, in, map[string]float64{
		series[0]: 2, series[1]: 2,
		`caddy_sse_fanin_upstream_disconnects_total{reason="closed",stream="s",upstream="u"}`: 1,
	})
	must(t, a.WaitConnections(within(t, 5*time.Second), 1))
	emitSeen(t, a, c, "three")
	wantMetrics(t, in, map[string]float64{series[0]: 3})
	if strings.Contains(in.metrics(), `upstream="v"`) {
		t.Error("a removed upstream is still told")
	}
	// a name that goes over to another source begins anew
	in.reload("", directive("/e", "stream s\nidle_timeout 1h\nupstream renamed "+a.URL()))
	wantMetrics(t, in, map[string]float64{
		`caddy_sse_fanin_events_received_total{stream="s",upstream="renamed"}`:   0,
		`caddy_sse_fanin_upstream_connects_total{stream="s",upstream="renamed"}`: 1,
		`caddy_sse_fanin_upstream_up{stream="s",upstream="renamed"}`:             1,
	})
}

// A configuration that fails leaves no series behind.
func TestMetricsOfAFailedReload(t *testing.T) {
	a := plain(t)
	in := serve(t, "", directive("/e", "stream s\nupstream u "+a.URL()))
	if err := in.tryReload("", directive("/e", "stream other\nupstream u "+a.URL())+"\nbind 192.0.2.1"); err == nil {
		t.Fatal("it has not failed")
	}
	eventually(t, 5*time.Second, "the failed stream is gone", func() bool { return !strings.Contains(in.metrics(), "other") })
}

// The metrics are served where Caddy serves its own.
func TestMetricsAreServed(t *testing.T) {
	a := plain(t)
	in := serve(t, "", "metrics /metrics\n"+directive("/e", "stream s\nupstream u "+a.URL()))
	resp := in.do(http.MethodGet, "/metrics")
	lines := bufio.NewScanner(io.LimitReader(resp.Body, 1<<20))
	for lines.Scan() {
		if lines.Text() == `caddy_sse_fanin_clients{stream="s"} 0` {
			return
		}
	}
	t.Error("they are not there")
}

func readFile(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	return string(text)
}
