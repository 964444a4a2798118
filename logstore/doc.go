// Package logstore describes where a stream's log can be kept besides memory:
// on disk, or in an engine that several nodes share. It knows neither Caddy nor
// any engine, so that a store can live in a module of its own. Package storetest
// has the suite that every store has to pass.
//
// # The log
//
// A log is a sequence of Records in one total order. Offsets begin with 1 and
// rise by 1. A committed record never changes, and never gets another offset.
// The oldest records may be dropped, in order; nothing else is ever removed.
//
// # Roles
//
// Each process that serves the stream is a node. It opens the Store once, and
// follows it for as long as it lives: Follow hands over every committed record,
// those included that the node has appended itself. Nothing that has not come
// back through Follow may be shown to anybody.
//
// At most one node at a time is the writer. Campaign waits until this node is,
// and returns its Term. A term's records are committed in the order of Append,
// without holes, or, from some record on, not at all.
//
// # What the store owes
//
//   - Before Campaign returns, everything that earlier terms have committed has
//     been applied by this node's Follow. No record of an earlier term can be
//     committed after that. So the writer knows the whole log that it adds to.
//   - A record that was committed is applied by every node that follows, in
//     order, once, even if the store, the network or the process fails in
//     between, as long as it is retained and what the store promises about its
//     own durability holds.
//   - An offset never names two different records within one epoch. A store
//     that may have lost committed records (a power cut before they were on
//     disk, a backup) begins a new epoch at the next offset.
//   - A store that cannot be reached, or that has no room, is no error of Follow or
//     Append: both go on when it can be reached again. Status shows it meanwhile.
//
// # What the caller owes
//
//   - One Follow at a time, and one Campaign or Term at a time.
//   - Arrival times that do not decrease within a term; see Term.
//   - Every Term is released, every Store closed.
//
// All methods are safe for concurrent use unless they say otherwise.
package logstore
