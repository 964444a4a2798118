package ssefanin

import (
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
)

// activeLogger is for what no configuration that uses it can log any more: the
// logger of the App, of the configuration that is active now, whether that has
// one or not. Caddy's own logger would not do: it writes into the default log
// alone, which leaves out what another log includes by name.
func activeLogger() *zap.Logger {
	return loggerOf(caddy.ActiveContext(), "sse_fanin")
}

// loggerOf returns the logger of a module of a configuration. Without one, it is
// Caddy's own: the last configuration has gone.
func loggerOf(ctx caddy.Context, module loggerName) *zap.Logger {
	if ctx.Context != nil {
		return ctx.Logger(module)
	}
	return caddy.Log().Named(string(module))
}

// followingLogger is for what outlives configurations: each of its lines goes to
// the logger of the configuration that is active at that moment.
func followingLogger() *zap.Logger { return zap.New(new(followingCore)) }

// detachedLogger is the logger of clients that outlive their requests.
var detachedLogger = followingLogger()

// followingCore is the core of followingLogger. Immutable.
type followingCore struct{ fields []zapcore.Field }

// Enabled implements zapcore.Core.
func (*followingCore) Enabled(level zapcore.Level) bool { return activeLogger().Core().Enabled(level) }

// With implements zapcore.Core.
func (c *followingCore) With(fields []zapcore.Field) zapcore.Core {
	return &followingCore{slices.Concat(c.fields, fields)}
}

// Check implements zapcore.Core.
func (c *followingCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

// Write implements zapcore.Core.
func (c *followingCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	logger := activeLogger()
	entry.LoggerName = logger.Name()
	if checked := logger.Core().Check(entry, nil); checked != nil {
		checked.Write(slices.Concat(c.fields, fields)...)
	}
	return nil
}

// Sync implements zapcore.Core.
func (*followingCore) Sync() error { return activeLogger().Core().Sync() }

// loggerName stands for a module where the name of its logger is all that is
// needed of it.
type loggerName caddy.ModuleID

// CaddyModule implements caddy.Module.
func (n loggerName) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: caddy.ModuleID(n), New: func() caddy.Module { return n }}
}
