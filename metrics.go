package ssefanin

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddyserver/caddy/v2"
)

// The reasons of events that were skipped.
const (
	skippedTooLarge = "too_large" // larger than max_event_size
	skippedType     = "type"      // not among `events`
)

// metrics collects the counts of all streams on demand. Counting goes on
// without it, on objects that outlive configurations; so every configuration's
// registry gets the same collector.
//
// Labels are names from the configuration and the reasons there are. A stream
// that was removed and one of the same name are reported together, as are the
// keys of a keyed stream and the addresses of a dynamic upstream.
var metrics = streamCollector{
	upstreamUp:       desc("upstream_up", "Whether the upstream is connected: 1 or 0. Of several connections, one is enough.", "upstream"),
	connects:         desc("upstream_connects_total", "How often the upstream answered with a stream.", "upstream"),
	disconnects:      desc("upstream_disconnects_total", "How often a connection to the upstream ended or an attempt failed, by reason.", "upstream", "reason"),
	lastEvent:        desc("upstream_last_event_timestamp_seconds", "When the upstream's last event arrived, in Unix seconds; 0 if none has.", "upstream"),
	received:         desc("events_received_total", "How many events arrived from the upstream, duplicates included.", "upstream"),
	receivedBytes:    desc("received_bytes_total", "How many bytes of streams arrived from the upstream.", "upstream"),
	skipped:          desc("events_skipped_total", "How many of the upstream's events were not taken over, by reason.", "upstream", "reason"),
	duplicates:       desc("duplicates_total", "How many events the upstream sent again, or another of its replicas had sent already.", "upstream"),
	clients:          desc("clients", "How many clients are connected."),
	clientsTotal:     desc("clients_total", "How many clients have been connected."),
	maxClients:       desc("max_clients", "How many clients there may be, by the lowest limit of the stream's handlers; 0 is no limit."),
	refused:          desc("refused_total", "How many clients got no stream, by reason.", "reason"),
	keys:             desc("keys", "How many keys of a keyed stream are live."),
	maxStreams:       desc("max_streams", "How many keys of a keyed stream there may be."),
	clientEnds:       desc("client_disconnects_total", "How many clients were disconnected, by reason.", "reason"),
	delivered:        desc("events_delivered_total", "How many events were written to clients, replayed ones included."),
	deliveredBytes:   desc("delivered_bytes_total", "How many bytes were written to clients, heartbeats included."),
	replayed:         desc("replayed_events_total", "How many events were written to clients that had arrived before the client."),
	gaps:             desc("gaps_total", "How many times a client was told that events are gone, by reason.", "reason"),
	retainedEvents:   desc("retained_events", "How many events are retained."),
	retainedBytes:    desc("retained_bytes", "How much memory the retained events take, in bytes."),
	retainedAge:      desc("retained_age_seconds", "How old the oldest retained event is; 0 if there is none."),
	lastValues:       desc("last_values", "How many last values are kept."),
	valueBytes:       desc("last_values_bytes", "How much memory the last values take besides the retained events, in bytes."),
	valuesEvicted:    desc("last_values_evicted_total", "How many last values were dropped since there were more than their bounds allow."),
	maxLag:           desc("max_lag_events", "How many events the client that is furthest behind has still to get."),
	logState:         desc("log_state", "What a log that is kept besides memory does: 1 for its state, 0 for the others.", "state"),
	logHead:          desc("log_head_offset", "Number of the log's newest event; 0 if there is none."),
	logMemoryHead:    desc("log_memory_head_offset", "Number of the newest event that has come from the log into memory, from where clients get it."),
	logFirst:         desc("log_first_offset", "Number of the log's oldest event; one more than the newest if there is none, 0 until the log is open."),
	logBytes:         desc("log_bytes", "How large the log is as it is stored, in bytes."),
	logBuffered:      desc("log_buffered_events", "How many events were handed to the log and are not in it yet."),
	logBufferedBytes: desc("log_buffered_bytes", "How large these events are, in bytes."),
	logWrites:        desc("log_writes", "Whether this process writes the log, and has the upstreams connected: 1 or 0. Also while nothing can be committed."),
	logNodes:         desc("log_nodes", "How many nodes are known that serve the stream from the log, this one included."),
	logFailed:        desc("log_last_error_timestamp_seconds", "When something was last seen to be wrong with the log, in Unix seconds; 0 if nothing has been."),
	logTerm:          desc("log_term", "Number of the log's newest term: it rises whenever a process begins to write."),
	logTakeovers:     desc("log_takeovers_total", "How often this process has begun to write the log."),
	logRefused:       desc("log_refused_appends_total", "How many appends the log refused since another process had begun to write."),
	logResyncs:       desc("log_resyncs_total", "How often the log had to be read anew."),
	commitDelay:      desc("log_commit_delay_seconds", "Time from an event's being handed to the log until it was in it; of one event at a time. To the millisecond."),
	deliveryDelay:    desc("delivery_delay_seconds", "Time from an event's arrival until it was flushed to a client; of the last event of each write, replays aside. To the millisecond."),
}

// streamCollector implements prometheus.Collector.
type streamCollector struct {
	upstreamUp, connects, disconnects, lastEvent       *prometheus.Desc
	received, receivedBytes, skipped, duplicates       *prometheus.Desc
	clients, clientsTotal, clientEnds                  *prometheus.Desc
	maxClients, refused, keys, maxStreams              *prometheus.Desc
	delivered, deliveredBytes, replayed, gaps          *prometheus.Desc
	retainedEvents, retainedBytes, retainedAge, maxLag *prometheus.Desc
	deliveryDelay                                      *prometheus.Desc
	lastValues, valueBytes, valuesEvicted              *prometheus.Desc // of streams that keep last values

	// Of streams whose log is kept besides memory.
	logState, logWrites, logNodes, logFailed      *prometheus.Desc
	logHead, logMemoryHead, logFirst, logBytes    *prometheus.Desc
	logBuffered, logBufferedBytes                 *prometheus.Desc
	logTerm, logTakeovers, logRefused, logResyncs *prometheus.Desc
	commitDelay                                   *prometheus.Desc
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("caddy", "sse_fanin", name), help, append([]string{"stream"}, labels...), nil)
}

// registerMetrics has a configuration's metrics include ours.
func registerMetrics(ctx caddy.Context) error {
	err := ctx.GetMetricsRegistry().Register(&metrics)
	if already := (prometheus.AlreadyRegisteredError{}); errors.As(err, &already) {
		return nil
	}
	return err
}

// Describe implements prometheus.Collector.
func (m *streamCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		m.upstreamUp, m.connects, m.disconnects, m.lastEvent,
		m.received, m.receivedBytes, m.skipped, m.duplicates,
		m.clients, m.clientsTotal, m.clientEnds,
		m.maxClients, m.refused, m.keys, m.maxStreams,
		m.delivered, m.deliveredBytes, m.replayed, m.gaps,
		m.retainedEvents, m.retainedBytes, m.retainedAge, m.maxLag,
		m.deliveryDelay,
		m.lastValues, m.valueBytes, m.valuesEvicted,
		m.logState, m.logWrites, m.logNodes, m.logFailed,
		m.logHead, m.logMemoryHead, m.logFirst, m.logBytes,
		m.logBuffered, m.logBufferedBytes,
		m.logTerm, m.logTakeovers, m.logRefused, m.logResyncs,
		m.commitDelay,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *streamCollector) Collect(ch chan<- prometheus.Metric) {
	now := time.Now()
	views := viewStreams()
	for i, v := range views {
		if i+1 < len(views) && views[i+1].Name == v.Name { // removed, and there again
			views[i+1].merge(v)
			continue
		}
		m.collect(ch, v, now)
	}
}

func (m *streamCollector) collect(ch chan<- prometheus.Metric, v *streamView, now time.Time) {
	s := streamSamples{ch, v.Name}
	for name, n := range v.counted {
		s.gauge(m.upstreamUp, zeroOrOne(n.up), name)
		s.gauge(m.lastEvent, float64(n.lastEvent)/1000, name)
		s.counter(m.connects, n.connects, name)
		for i, why := range reasons {
			s.counter(m.disconnects, n.ends[i], name, string(why))
		}
		s.counter(m.received, n.events, name)
		s.counter(m.receivedBytes, n.bytes, name)
		s.counter(m.skipped, n.tooLarge, name, skippedTooLarge)
		s.counter(m.skipped, n.unwanted, name, skippedType)
		s.counter(m.duplicates, n.duplicates, name)
	}
	s.gauge(m.clients, float64(v.Clients.Connected))
	s.counter(m.clientsTotal, v.Clients.Total)
	s.gauge(m.maxClients, float64(v.Clients.Max))
	for _, why := range allRefusals {
		s.counter(m.refused, v.Clients.Refused[why], string(why))
	}
	if v.Keyed {
		s.gauge(m.keys, float64(v.Keys))
		s.gauge(m.maxStreams, float64(v.MaxKeys))
	}
	for i, why := range endReasons {
		s.counter(m.clientEnds, v.ends[i], string(why))
	}
	s.counter(m.delivered, v.Delivered.Events)
	s.counter(m.deliveredBytes, v.Delivered.Bytes)
	s.counter(m.replayed, v.Delivered.Replayed)
	s.counter(m.gaps, v.Gaps.Expired, gapExpired)
	s.counter(m.gaps, v.Gaps.Unknown, gapUnknown)
	s.gauge(m.retainedEvents, float64(v.Log.Events))
	s.gauge(m.retainedBytes, float64(v.Log.Memory))
	age := 0.0
	if v.Log.Oldest != 0 {
		age = max(now.Sub(time.UnixMilli(v.Log.Oldest)).Seconds(), 0)
	}
	s.gauge(m.retainedAge, age)
	s.gauge(m.maxLag, float64(v.Clients.MaxLag))
	if values := v.Log.LastValues; values != nil {
		s.gauge(m.lastValues, float64(values.Values))
		s.gauge(m.valueBytes, float64(values.Memory))
		s.counter(m.valuesEvicted, values.Evicted)
	}
	ch <- v.delay.metric(m.deliveryDelay, v.Name)
	if v.Log.Store != nil {
		m.collectLog(&s, v)
	}
}

// collectLog collects what there is of a log that is kept besides memory.
func (m *streamCollector) collectLog(s *streamSamples, v *streamView) {
	log := v.Log.Store
	for _, state := range logStates {
		s.gauge(m.logState, zeroOrOne(state == log.State), string(state))
	}
	s.gauge(m.logWrites, zeroOrOne(log.Writes))
	s.gauge(m.logNodes, float64(max(len(log.Nodes), 1)))
	s.gauge(m.logFailed, float64(log.LastError)/1000)
	s.gauge(m.logHead, float64(log.Last))
	s.gauge(m.logMemoryHead, float64(log.MemoryLast))
	s.gauge(m.logFirst, float64(log.First))
	s.gauge(m.logBytes, float64(log.Bytes))
	s.gauge(m.logBuffered, float64(log.Buffered))
	s.gauge(m.logBufferedBytes, float64(log.BufferedBytes))
	s.gauge(m.logTerm, float64(log.Term))
	s.counter(m.logTakeovers, log.Takeovers)
	s.counter(m.logRefused, log.Refused)
	s.counter(m.logResyncs, log.Resyncs)
	s.ch <- v.commits.metric(m.commitDelay, v.Name)
}

func zeroOrOne(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// streamSamples sends the metrics of one stream.
type streamSamples struct {
	ch     chan<- prometheus.Metric
	stream string
}

func (s *streamSamples) gauge(d *prometheus.Desc, value float64, labels ...string) {
	s.send(d, prometheus.GaugeValue, value, labels)
}

func (s *streamSamples) counter(d *prometheus.Desc, value uint64, labels ...string) {
	s.send(d, prometheus.CounterValue, float64(value), labels)
}

func (s *streamSamples) send(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels []string) {
	s.ch <- prometheus.MustNewConstMetric(d, kind, value, append([]string{s.stream}, labels...)...)
}

// metric returns the histogram as that of a stream.
func (n delayCounts) metric(d *prometheus.Desc, stream string) prometheus.Metric {
	var total uint64
	buckets := make(map[float64]uint64, len(delayBounds))
	for i, count := range n.buckets {
		total += count
		if i < len(delayBounds) {
			buckets[float64(delayBounds[i])/1000] = total
		}
	}
	return prometheus.MustNewConstHistogram(d, total, float64(n.sum)/1000, buckets, stream)
}

// Interface guards
var _ prometheus.Collector = (*streamCollector)(nil)
