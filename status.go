package ssefanin

import (
	"slices"
	"time"
)

// streamStatus is the operators' view of a stream. It has no credentials, no
// query strings and no data. Times are Unix milliseconds, 0 is never or none.
type streamStatus struct {
	// The name, or for an unnamed stream 8 hex digits.
	Name string `json:"name"`
	// It depends on the request: the fields below are of all keys together.
	Keyed bool `json:"keyed"`
	// How many keys there are now.
	Keys int `json:"keys"`
	// How many there may be; 0 unless it is keyed.
	MaxKeys int `json:"max_keys"`
	// It is no longer configured; its clients are leaving.
	Removed bool `json:"removed"`
	// It is connected only while it has clients.
	OnDemand bool `json:"on_demand"`

	// By name.
	Upstreams []*upstreamStatus `json:"upstreams"`
	Log       logStatus         `json:"log"`
	Clients   clientsStatus     `json:"clients"`
	Delivered deliveredStatus   `json:"delivered"`
	Gaps      gapsStatus        `json:"gaps"`
	// How many of the last events had which type.
	Types map[string]int `json:"types"`
}

// upstreamStatus is the operators' view of an upstream of a stream.
type upstreamStatus struct {
	Name string `json:"name"`
	// As configured, without user and query.
	URLs []string `json:"urls"`
	// Those of them that are connected now.
	Connected []string `json:"connected"`
	Policy    string   `json:"policy"`
	State     phase    `json:"state"`
	Since     int64    `json:"since"`
	// How the last attempt or connection ended, also while it is up again.
	Reason  reason `json:"reason"`
	Error   string `json:"error"`
	RetryAt int64  `json:"retry_at"`

	LastEvent   int64  `json:"last_event"`
	LastEventID string `json:"last_event_id"`

	// Since the stream has this upstream.
	Connects    uint64 `json:"connects"`
	Disconnects uint64 `json:"disconnects"` // of connections; not failed attempts
	Events      uint64 `json:"events"`
	Bytes       uint64 `json:"bytes"`
	Skipped     uint64 `json:"skipped"` // too large
	Duplicates  uint64 `json:"duplicates"`

	endedAt  time.Time // what Reason, Error and the next two are about
	status   int       // of the response, if that was the reason
	hint     string    // what to look at; Error has it at its end
	partly   bool      // URLs lack a user or query
	replicas []*replicaStatus
}

// logStatus is the operators' view of a log.
type logStatus struct {
	// What clients can get, from memory or from where it is kept besides.
	Epoch  string `json:"epoch"`
	IDs    string `json:"ids"`
	Head   uint64 `json:"head"`
	Tail   uint64 `json:"tail"`
	Events uint64 `json:"events"`
	Bytes  int64  `json:"bytes"`
	Memory int64  `json:"memory"` // that it takes
	Oldest int64  `json:"oldest"`
	Newest int64  `json:"newest"`

	// The bounds; of each key's log.
	MaxEvents int   `json:"max_events"` // 0 is none
	MaxBytes  int64 `json:"max_bytes"`
	MaxAge    int64 `json:"max_age"` // milliseconds

	// Of a stream that keeps last values.
	LastValues *valuesStatus `json:"last_values,omitempty"`

	// Of a log that is kept besides memory.
	MaxMemory int64        `json:"max_memory,omitempty"`
	Store     *storeStatus `json:"store,omitempty"`
}

// valuesStatus is the operators' view of the last values.
type valuesStatus struct {
	Values  int    `json:"values"`
	Memory  int64  `json:"memory"`  // that they take besides the log's
	Evicted uint64 `json:"evicted"` // dropped by the bounds so far
	// How many there may be; of each key's log.
	Max int `json:"max"`
}

// merge adds the values of another log. Those evicted are counted for all together.
func (v *valuesStatus) merge(other *valuesStatus) {
	v.Values += other.Values
	v.Memory += other.Memory
	v.Evicted, v.Max = max(v.Evicted, other.Evicted), other.Max
}

// clientsStatus is the operators' view of the clients of a stream.
type clientsStatus struct {
	Connected int    `json:"connected"`
	Total     uint64 `json:"total"`
	MaxLag    uint64 `json:"max_lag"` // events
	Oldest    int64  `json:"oldest"`  // when the one that has been here longest came
	// How many there may be, by the lowest limit of the handlers; 0 is no limit.
	Max int `json:"max"`
	// How many got no stream, by reason.
	Refused map[refusal]uint64 `json:"refused"`

	timeouts, overtaken uint64 // that were disconnected for reading too slowly
}

// deliveredStatus counts deliveries to clients.
type deliveredStatus struct {
	Events   uint64 `json:"events"` // replayed ones included
	Bytes    uint64 `json:"bytes"`
	Replayed uint64 `json:"replayed"`
}

type gapsStatus struct {
	Expired uint64 `json:"expired"`
	Unknown uint64 `json:"unknown"`
}

// merge adds another source of the same name.
func (u *upstreamStatus) merge(other *upstreamStatus) {
	if u.URLs == nil {
		u.URLs, u.Policy = other.URLs, other.Policy
	}
	u.partly = u.partly || other.partly
	for _, url := range other.Connected {
		if !slices.Contains(u.Connected, url) {
			u.Connected = append(u.Connected, url)
		}
	}
	if u.replicas == nil {
		u.replicas = other.replicas
	}
	if other.State.rank() > u.State.rank() || u.Since == 0 {
		u.State, u.Since = other.State, other.Since
	}
	if other.endedAt.After(u.endedAt) {
		u.Reason, u.Error, u.endedAt = other.Reason, other.Error, other.endedAt
		u.status, u.hint = other.status, other.hint
	}
	u.RetryAt = earlier(u.RetryAt, other.RetryAt)
	if u.State == phaseUp {
		u.RetryAt = 0
	}
	if other.LastEvent >= u.LastEvent {
		u.LastEvent, u.LastEventID = other.LastEvent, other.LastEventID
	}
	u.Connects += other.Connects
	u.Disconnects += other.Disconnects
	u.Events += other.Events
	u.Bytes += other.Bytes
	u.Skipped += other.Skipped
	u.Duplicates += other.Duplicates
}

// add adds counts.
func (u *upstreamStatus) add(n upstreamCounts) {
	u.Connects += n.connects
	u.Disconnects += n.disconnects
	u.Events += n.events
	u.Bytes += n.bytes
	u.Skipped += n.tooLarge
	u.Duplicates += n.duplicates
}

// set replaces the counts.
func (u *upstreamStatus) set(n upstreamCounts) {
	u.Connects, u.Disconnects, u.Events, u.Bytes, u.Skipped, u.Duplicates = 0, 0, 0, 0, 0, 0
	u.add(n)
}

// merge adds another log.
func (l *logStatus) merge(other logStatus) {
	l.Epoch, l.IDs, l.Tail = other.Epoch, other.IDs, other.Tail
	l.MaxEvents, l.MaxBytes, l.MaxAge = other.MaxEvents, other.MaxBytes, other.MaxAge
	l.MaxMemory = other.MaxMemory
	if other.Store != nil {
		l.Store = other.Store
	}
	switch {
	case other.LastValues == nil:
	case l.LastValues == nil:
		l.LastValues = other.LastValues
	default:
		l.LastValues.merge(other.LastValues)
	}
	l.Head += other.Head
	l.Events += other.Events
	l.Bytes += other.Bytes
	l.Memory += other.Memory
	l.Oldest = earlier(l.Oldest, other.Oldest)
	l.Newest = max(l.Newest, other.Newest)
}

// earlier is the earlier of two times, where 0 is none.
func earlier(a, b int64) int64 {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}

func unixMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// shownURLs are the URLs as configured, without parts that may be secret, and
// with the addresses that were looked up for them.
func shownURLs(spec *sourceSpec, addresses []string) []string {
	urls := make([]string, 0, len(spec.URLs))
	for i := range spec.URLs {
		if len(addresses) == 0 {
			urls = append(urls, spec.shown(i, ""))
		}
		for _, address := range addresses {
			urls = append(urls, spec.shown(i, address))
		}
	}
	return urls
}
