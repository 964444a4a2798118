package ssefanin

import (
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
)

// activeLogger is for what no configuration that uses it can log any more: the
// logger of the App, of the configuration that is active now, whether that has
// one or not. Caddy's own logger would not do: it writes into the default log
// alone, which leaves out what another log includes by name.
func activeLogger() *zap.Logger {
	if ctx := caddy.ActiveContext(); ctx.Context != nil {
		return ctx.Logger(loggerName{})
	}
	return caddy.Log().Named("sse_fanin") // the last configuration has gone
}

// loggerName stands for the App where the name of its logger is all that is
// needed of it.
type loggerName struct{}

// CaddyModule implements caddy.Module.
func (loggerName) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "sse_fanin", New: func() caddy.Module { return loggerName{} }}
}
