package ssefanin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/filestore"
	"github.com/sse-fanin/caddy-sse-fanin/internal/option"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

func init() {
	caddy.RegisterModule(new(FileLog))
}

// logNamespace is that of the modules that keep logs; each is a logstore.Opener.
const logNamespace = "http.handlers.sse_fanin.log"

const (
	// guestLog is the kind whose module is in a folder of this repository, and a
	// Go module of its own.
	guestLog = "jetstream"

	modulePath = "github.com/sse-fanin/caddy-sse-fanin"
)

// logDef is where a definition has its log besides memory. Immutable.
type logDef struct {
	kind   string
	key    string // of the log
	opener logstore.Opener
	sharer logstore.Sharer // the opener, if several nodes share the log; else nil
	bounds logstore.Bounds
	cache  eventlog.Options // of the part in memory
}

// same reports whether two definitions have the same log; nil is memory alone.
func (l *logDef) same(other *logDef) bool {
	if l == nil || other == nil {
		return l == other
	}
	return l.kind == other.kind && l.key == other.key
}

// sourceKey is the part of the log in the identity of the stream's sources: they
// begin where the log ends, so that no stream with another log can share them.
func (l *logDef) sourceKey() string {
	if l == nil {
		return ""
	}
	return l.kind + " " + l.key
}

// inMemory are the bounds of the part of the log that is in memory.
func (d *definition) inMemory() eventlog.Options {
	if d.log != nil {
		return d.log.cache
	}
	return d.retain
}

// logKind returns the kind of log that a stream is configured with; empty if
// none is.
func (s *Stream) logKind() string {
	if !given(s.LogRaw) {
		return ""
	}
	var mod struct {
		Kind string `json:"kind"`
	}
	_ = json.Unmarshal(s.LogRaw, &mod) // loading the module reports what is wrong
	return mod.Kind
}

// judgeLog validates that a stream can have a log besides memory. The name is
// empty for an unnamed stream.
func (s *Stream) judgeLog(name string) error {
	switch {
	case !given(s.LogRaw):
	case name == "":
		return errors.New("log: it needs 'stream <name>': the name is what the log is found by when Caddy is started again")
	case name == "." || name == "..":
		return fmt.Errorf("log: the name '%s' cannot be that of a folder, and the log gets one of the stream's name; give the stream another name", name)
	case s.keyed() != "":
		return fmt.Errorf("log: the placeholder %s makes this a stream for each of its values, and those are kept in memory only; remove the placeholder or 'log'", s.keyed())
	case s.IDs == idsNone:
		return errors.New("log: with 'ids none' no client can resume, so there is nothing to keep a log for; remove 'ids none' or 'log'")
	}
	return nil
}

// checkLogKind validates that there is a module that keeps logs of a kind.
func checkLogKind(kind string) error {
	var kinds []string
	for _, module := range caddy.GetModules(logNamespace) {
		if module.ID.Name() == kind {
			return nil
		}
		kinds = append(kinds, module.ID.Name())
	}
	if kind == guestLog {
		return fmt.Errorf("log: this Caddy is built without the module for '%s': xcaddy build --with %s --with %s/%s", kind, modulePath, modulePath, kind)
	}
	if kind == "" {
		return fmt.Errorf("log: the kind is missing, expected %s", strings.Join(kinds, " or "))
	}
	return fmt.Errorf("log: unrecognized kind '%s', expected %s; any other is a module to build Caddy with", kind, strings.Join(kinds, " or "))
}

// log loads the module that keeps a stream's log; nil if none is configured.
// What the stream's options leave out is taken from the defaults for the kind.
func (b *builder) log(name string, cfg *Stream, retain eventlog.Options) (*logDef, error) {
	if err := cfg.judgeLog(name); err != nil || !given(cfg.LogRaw) {
		return nil, err
	}
	kind := cfg.logKind()
	if err := checkLogKind(kind); err != nil {
		return nil, err
	}
	raw, err := mergeOptions(b.logDefaults[kind], cfg.LogRaw)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	// loading clears the raw text
	l := struct {
		LogRaw json.RawMessage `caddy:"namespace=http.handlers.sse_fanin.log inline_key=kind"`
	}{raw}
	mod, err := b.ctx.LoadModule(&l, "LogRaw")
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	opener, ok := mod.(logstore.Opener)
	if !ok {
		return nil, fmt.Errorf("log: module %T keeps no logs", mod)
	}
	if completer, ok := mod.(logstore.Completer); ok {
		if err := completer.Complete(); err != nil {
			return nil, fmt.Errorf("log: %w", err)
		}
	}
	sharer, _ := opener.(logstore.Sharer)
	return &logDef{
		kind: kind, key: opener.Key(name), opener: opener, sharer: sharer,
		bounds: logstore.Bounds{Events: uint64(retain.MaxEvents), Bytes: retain.MaxBytes, Age: retain.MaxAge},
		cache: eventlog.Options{
			MaxEvents: retain.MaxEvents, MaxBytes: min(opener.Memory(), retain.MaxBytes), MaxAge: retain.MaxAge, IDs: retain.IDs,
		},
	}, nil
}

// mergeOptions returns a module's options with those of defaults where it has
// none.
func mergeOptions(defaults, own json.RawMessage) (json.RawMessage, error) {
	merged := make(map[string]json.RawMessage)
	for _, raw := range []json.RawMessage{defaults, own} {
		var options map[string]json.RawMessage
		if given(raw) {
			if err := json.Unmarshal(raw, &options); err != nil {
				return nil, err
			}
		}
		maps.DeleteFunc(options, func(_ string, raw json.RawMessage) bool { return !given(raw) })
		maps.Copy(merged, options)
	}
	return json.Marshal(merged)
}

// FileLog keeps the log of a stream in files, so that it outlives the process:
// after a restart, clients and upstreams go on where they were. Each stream has
// a folder of its own, which one process can use at a time. `retain` bounds what
// the files hold.
type FileLog struct {
	// The directory in which the streams have their folders.
	// Default: `sse_fanin/log` in Caddy's data directory.
	Dir string `json:"dir,omitempty"`

	// When what was written is forced to disk: `always` before any client gets
	// it, `off` when the system likes to, or a duration: that often. A power cut
	// may cost what was written since; the end of the process costs nothing.
	// Default: `1s`.
	Sync string `json:"sync,omitempty"`

	// How many bytes of the newest events are held in memory; older ones are read
	// from the files. Default: 64 MiB.
	MaxMemory int64 `json:"memory,omitempty"`

	sync time.Duration
}

// CaddyModule returns the Caddy module information.
func (*FileLog) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  logNamespace + ".file",
		New: func() caddy.Module { return new(FileLog) },
	}
}

// The words of `sync`.
const (
	syncAlways = "always"
	syncOff    = "off"
)

// Provision evaluates placeholders and validates the options. It opens nothing.
func (f *FileLog) Provision(caddy.Context) error {
	if f.Dir == "" {
		f.Dir = defaultLogDir()
	}
	// what is missing in the path would make it another one
	dir, err := caddy.NewReplacer().ReplaceOrErr(f.Dir, true, true)
	if err != nil {
		return fmt.Errorf("dir: %w", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("dir: %w", err)
	}
	f.Dir = dir
	if f.sync, err = parseSync(f.Sync); err != nil {
		return err
	}
	if f.MaxMemory == 0 {
		f.MaxMemory = option.DefaultLogMemory
	}
	return option.CheckLogMemory(f.MaxMemory)
}

// parseSync reads `sync`.
func parseSync(text string) (time.Duration, error) {
	switch text {
	case "":
		return filestore.DefaultSync, nil
	case syncAlways:
		return filestore.SyncAlways, nil
	case syncOff:
		return filestore.SyncOff, nil
	}
	every, err := caddy.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("sync: '%s' is neither always, off nor a duration such as 1s", text)
	}
	if every == 0 {
		return 0, fmt.Errorf("sync: %s is no interval; to have what is written on disk before clients get it, write always", text)
	}
	return every, checkDuration("sync", caddy.Duration(every), false)
}

// Key implements logstore.Opener.
func (f *FileLog) Key(stream string) string { return filepath.Join(f.Dir, stream) }

// Memory implements logstore.Opener.
func (f *FileLog) Memory() int64 { return f.MaxMemory }

// Open implements logstore.Opener.
func (f *FileLog) Open(_ context.Context, stream string, o logstore.OpenOptions) (logstore.Store, error) {
	store, err := filestore.Open(filestore.Options{Dir: f.Key(stream), Sync: f.sync, Bounds: o.Bounds, Hold: o.Hold, Logger: o.Logger})
	if err != nil {
		return nil, err // and not a store that is nil
	}
	return store, nil
}

// Adjust implements logstore.Opener.
func (f *FileLog) Adjust(s logstore.Store) {
	if store, ok := s.(interface{ SetSync(d time.Duration) }); ok {
		store.SetSync(f.sync)
	}
}

// UnmarshalCaddyfile sets up the log from Caddyfile tokens:
//
//	file {
//		dir    <path>
//		sync   always|<interval>|off
//		memory <size>
//	}
func (f *FileLog) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if d.NextArg() {
		return d.Errf("log: unexpected '%s', the options stand in a block: log file { dir <path> }", d.Val())
	}
	_, err := option.Block(d, func() (err error) {
		switch d.Val() {
		case "dir":
			f.Dir, err = option.Argument(d, "<path>")
		case "sync":
			if f.Sync, err = option.Argument(d, "always|<interval>|off"); err == nil {
				_, err = parseSync(f.Sync)
				err = option.Wrap(d, err)
			}
		case "memory":
			if err = option.Size(d, &f.MaxMemory); err == nil {
				err = option.Wrap(d, option.CheckLogMemory(f.MaxMemory))
			}
		default:
			err = unrecognized(d, " of log file", logWords)
		}
		return err
	})
	return err
}

// Interface guards
var (
	_ caddy.Provisioner     = (*FileLog)(nil)
	_ caddyfile.Unmarshaler = (*FileLog)(nil)
	_ logstore.Opener       = (*FileLog)(nil)
)
