package ssefanin

import (
	"maps"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// accessLogs are the access logs of the configurations in use. The exit has no active
// configuration any more while streams end.
var accessLogs accessLogsInUse

// accessLogsInUse is safe for concurrent use.
type accessLogsInUse struct {
	mu  sync.Mutex // protects all
	all []*configuredLogs
}

// configuredLogs are the access logs of one configuration. Immutable.
type configuredLogs struct {
	logger  *zap.Logger // of its servers
	servers map[string]*caddyhttp.Server
}

// logDestination is what decides, beside its host, where the line of a request goes.
// The configuration may have been replaced by then, and the names that it gave to its
// logs are no more to go by: Caddy numbers the logs of a Caddyfile that have none of
// their own. So the logs are those that the same request would have if it came then.
type logDestination struct {
	Listen []string // addresses of the server, of which the request came to one
	Local  string   // address that it came to

	Named []string    `json:",omitempty"` // the names of loggers, if `log_name` has given some
	For   distinction // what the logs were for that were to have it
}

// distinction is what a log is for, as far as lines are concerned that come to it.
type distinction int

const (
	forAnything    distinction = iota
	forAccessLines             // distinguished by the name that access logs begin with
	forItsName                 // distinguished by the name of a logger
)

// destinationOf returns the destination of a server's request.
func destinationOf(r *http.Request, server *caddyhttp.Server) logDestination {
	var d logDestination
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		d.Local = local.String()
	}
	d.Listen = slices.DeleteFunc(slices.Clone(server.Listen), func(address string) bool { return !d.isAt(address) })
	if len(d.Listen) == 0 { // behind a proxy's header, the address is the proxy's
		d.Listen = server.Listen
	}
	if given, ok := caddyhttp.GetVar(r.Context(), caddyhttp.AccessLoggerNameVarKey).([]any); ok {
		d.Named = make([]string, 0, len(given))
		for _, value := range given {
			name, _ := value.(string)
			d.Named = append(d.Named, name)
		}
	}
	d.For = forItsName
	if logs := accessLogs.of(server); logs != nil { // nil: it is only about to start
		for _, name := range d.names(server, r.Host) {
			d.For = min(d.For, logs.distinguish(name))
		}
	}
	return d
}

// names returns the names of the loggers that the request's line goes to if it comes to
// a server.
func (d *logDestination) names(server *caddyhttp.Server, host string) []string {
	if d.Named != nil {
		return d.Named
	}
	return loggerNames(server.Logs, withoutPort(host))
}

// isAt reports whether an address of a server's is one that a request came to.
func (d *logDestination) isAt(address string) bool {
	listen, err := caddy.ParseNetworkAddress(address)
	if err != nil {
		return false
	}
	if listen.IsUnixNetwork() {
		path, _, _ := strings.Cut(listen.Host, "|") // permissions
		return path == d.Local
	}
	local, port, _ := net.SplitHostPort(d.Local)
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || uint(number) < listen.StartPort || uint(number) > listen.EndPort {
		return false
	}
	ip, err := netip.ParseAddr(listen.Host)
	return listen.Host == "" || listen.Host == local || err == nil && ip.IsUnspecified()
}

// loggersOf returns the loggers that the line of a request goes to, none if it is not
// logged, and whether they may have its credentials. What a log of its own was to have,
// which may have left out a part of it, does not go to one for other lines, too.
func (l *configuredLogs) loggersOf(host string, d *logDestination) (loggers []*zap.Logger, credentials bool) {
	server := l.serverOf(d)
	if server == nil || !logs(server.Logs, withoutPort(host)) {
		return nil, false
	}
	for _, name := range d.names(server, host) {
		if l.distinguish(name) >= d.For {
			loggers = append(loggers, l.logger.Named(name))
		}
	}
	return loggers, server.Logs.ShouldLogCredentials
}

// serverOf returns the server that a request would come to, nil without one: the one
// that has the address of the earlier server, or else, since sites may have been bound
// to other addresses, the one that listens where the request came.
func (l *configuredLogs) serverOf(d *logDestination) *caddyhttp.Server {
	same := func(address string) bool { return slices.Contains(d.Listen, address) }
	for _, reached := range []func(string) bool{same, d.isAt} {
		for _, name := range slices.Sorted(maps.Keys(l.servers)) {
			if server := l.servers[name]; slices.ContainsFunc(server.Listen, reached) {
				return server
			}
		}
	}
	return nil
}

// distinguish returns what the logs are for that take the lines of a logger. They tell
// lines apart by names that they include or exclude.
func (l *configuredLogs) distinguish(name string) distinction {
	taking := l.taking(l.logger.Named(name).Name())
	switch base := l.logger.Name(); {
	case !slices.Equal(taking, l.taking(base+"."+noName)):
		return forItsName
	case !slices.Equal(taking, l.taking(noName)):
		return forAccessLines
	default:
		return forAnything
	}
}

// noName is what no logger is called.
const noName = "\x00"

// taking returns for each log whether it takes the lines of a logger, of some level.
func (l *configuredLogs) taking(name string) []bool {
	cores := []zapcore.Core{l.logger.Core()}
	if tee := reflect.ValueOf(cores[0]); tee.Kind() == reflect.Slice { // a zapcore.NewTee
		cores = cores[:0]
		for i := range tee.Len() {
			core, _ := reflect.TypeAssert[zapcore.Core](tee.Index(i))
			cores = append(cores, core)
		}
	}
	line := zapcore.Entry{LoggerName: name, Level: zapcore.InvalidLevel} // which no sampling counts
	takes := make([]bool, len(cores))
	for i, core := range cores {
		takes[i] = core != nil && core.Check(line, nil) != nil
	}
	return takes
}

// withoutPort returns the host of a request without its port.
func withoutPort(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return host
}

// logs reports whether a server has an access log for a host, as it decides
// itself.
func logs(config *caddyhttp.ServerLogConfig, host string) bool {
	if config == nil {
		return false
	}
	matches := func(pattern string) bool { return certmagic.MatchWildcard(host, pattern) }
	for pattern := range config.LoggerNames {
		if matches(pattern) {
			return true
		}
	}
	return !slices.ContainsFunc(config.SkipHosts, matches) && !config.SkipUnmappedHosts
}

// loggerNames returns the names of the loggers that a host's line goes to, as the
// server decides itself: those that the host has, or the default.
func loggerNames(config *caddyhttp.ServerLogConfig, host string) []string {
	host = strings.ToLower(host)
	if names, ok := config.LoggerNames[host]; ok {
		return names
	}
	labels := strings.Split(host, ".")
	for i, label := range labels {
		if label == "" {
			continue
		}
		labels[i] = "*"
		if names, ok := config.LoggerNames[strings.Join(labels, ".")]; ok {
			return names
		}
	}
	return []string{config.DefaultLoggerName}
}

// add is called when a configuration starts, remove when it is cleaned up.
func (l *accessLogsInUse) add(logs *configuredLogs) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, logs)
}

func (l *accessLogsInUse) remove(logs *configuredLogs) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = slices.DeleteFunc(l.all, func(other *configuredLogs) bool { return other == logs })
}

// newest returns those of the configuration that has started last.
func (l *accessLogsInUse) newest() *configuredLogs {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.all); n > 0 {
		return l.all[n-1]
	}
	return logsOf(caddy.ActiveContext())
}

// of returns those of a server's configuration, nil before it has started.
func (l *accessLogsInUse) of(server *caddyhttp.Server) *configuredLogs {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, logs := range l.all {
		for _, other := range logs.servers {
			if other == server {
				return logs
			}
		}
	}
	return nil
}

// logsOf returns the access logs of a configuration.
func logsOf(ctx caddy.Context) *configuredLogs {
	l := &configuredLogs{logger: loggerOf(ctx, "http").Named("log.access")}
	if app, err := ctx.AppIfConfigured("http"); err == nil {
		l.servers = app.(*caddyhttp.App).Servers
	}
	return l
}
