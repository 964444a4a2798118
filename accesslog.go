package ssefanin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// accessLine is the line in the access log of a stream that outlives its request:
// the line that Caddy's server would write, at the end of the stream. The server's
// own, which is due when the request's handlers return, is left out.
//
// It is written when both have come, the end of the request, with all that its
// handlers had to say for the log, and that of the stream. Nil: the server has no
// access log for the request.
type accessLine struct {
	awaited atomic.Int32 // ends
	written func()

	logger  *zap.Logger     // that the server writes access logs with
	request []byte          // a loggedRequest
	added   []zapcore.Field // by other handlers
	before  int             // how many of them had been added before the stream began

	size     uint64
	duration time.Duration
	stream   []zapcore.Field
}

// loggedRequest is what the access log has of a request and its response, for as
// long as the stream lasts kept as JSON, which is a fraction of the size.
type loggedRequest struct {
	RemoteAddr, ClientIP, Proto, Method, Host, URI string

	Header           http.Header
	TransferEncoding []string   `json:",omitempty"`
	TLS              *loggedTLS `json:",omitempty"`
	UserID           string     `json:",omitempty"`
	ResponseHeader   http.Header
	Loggers          []string
	Level            zapcore.Level
	Credentials      bool
}

// loggedTLS is what the access log has of a connection over TLS.
type loggedTLS struct {
	Resumed, ECH         bool
	Version, CipherSuite uint16
	Proto, ServerName    string

	Certificate        bool
	CommonName, Serial string
}

// newAccessLine returns the line of a request whose stream goes on without it, and
// has the server write none. The logger is its server's, and the response w the
// handler's. written is called when the line has been written; if there is to be none,
// the caller does.
func newAccessLine(logger *zap.Logger, w http.ResponseWriter, r *http.Request, written func()) *accessLine {
	ctx, host := r.Context(), originalHost(w, r)
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if skip, _ := caddyhttp.GetVar(ctx, caddyhttp.LogSkipVar).(bool); skip || server == nil || !logs(server.Logs, withoutPort(host)) {
		return nil
	}
	caddyhttp.SetVar(ctx, caddyhttp.LogSkipVar, true)
	l := &accessLine{logger: logger, written: written, before: len(addedFields(ctx))}
	l.awaited.Store(2)
	context.AfterFunc(ctx, func() { l.requestEnded(host, w, r, server.Logs) })
	return l
}

// requestEnded is called when the request's handlers have returned.
func (l *accessLine) requestEnded(host string, w http.ResponseWriter, r *http.Request, config *caddyhttp.ServerLogConfig) {
	ctx := r.Context()
	request := loggedRequest{
		RemoteAddr: r.RemoteAddr, Proto: r.Proto, Method: r.Method, Host: host, URI: r.RequestURI,
		Header: shownHeader(r.Header, config.ShouldLogCredentials), TransferEncoding: r.TransferEncoding, TLS: loggedTLSOf(r.TLS),
		ResponseHeader: w.Header(), Loggers: loggerNames(ctx, config, withoutPort(r.Host)), Level: levelOf(ctx),
		Credentials: config.ShouldLogCredentials,
	}
	if original, ok := ctx.Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok { // handlers may have changed it
		request.RemoteAddr, request.Method, request.URI = original.RemoteAddr, original.Method, original.RequestURI
	}
	request.ClientIP, _ = caddyhttp.GetVar(ctx, caddyhttp.ClientIPVarKey).(string)
	if replacer, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		request.UserID, _ = replacer.GetString("http.auth.user.id")
	}
	l.request, _ = json.Marshal(request) // of strings and numbers only
	l.added = slices.Clone(addedFields(ctx))
	l.ended()
}

// streamEnded is called at the end of the stream, with its size and its fields.
func (l *accessLine) streamEnded(size uint64, duration time.Duration, fields []zapcore.Field) {
	l.size, l.duration, l.stream = size, duration, fields
	l.ended()
}

// ended writes the line when both ends have come.
func (l *accessLine) ended() {
	if l.awaited.Add(-1) == 0 {
		l.write()
		l.written()
	}
}

// write writes the line to the logs of the request's configuration, as the server does
// with requests that outlive theirs.
func (l *accessLine) write() {
	var request loggedRequest
	_ = json.Unmarshal(l.request, &request) // which was made of one
	fields := slices.Concat([]zapcore.Field{
		zap.Object("request", request.loggable()),
		zap.Int("bytes_read", 0), // a request with a body ends with its stream
		zap.String("user_id", request.UserID),
		zap.Duration("duration", l.duration),
		zap.Uint64("size", l.size),
		zap.Int("status", http.StatusOK),
		zap.Object("resp_headers", caddyhttp.LoggableHTTPHeader{Header: request.ResponseHeader, ShouldLogCredentials: request.Credentials}),
	}, l.added[:l.before], l.stream, l.added[l.before:])
	for _, name := range request.Loggers {
		if entry := l.logger.Named(name).Check(request.Level, "handled request"); entry != nil {
			entry.Write(fields...)
		}
	}
}

// loggable returns the request as Caddy's access log takes it.
func (q *loggedRequest) loggable() caddyhttp.LoggableHTTPRequest {
	ctx := context.WithValue(context.Background(), caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: q.ClientIP})
	r := &http.Request{
		RemoteAddr: q.RemoteAddr, Proto: q.Proto, Method: q.Method, Host: q.Host, RequestURI: q.URI,
		Header: q.Header, TransferEncoding: q.TransferEncoding, TLS: q.TLS.state(),
	}
	return caddyhttp.LoggableHTTPRequest{Request: r.WithContext(ctx), ShouldLogCredentials: q.Credentials}
}

func loggedTLSOf(state *tls.ConnectionState) *loggedTLS {
	if state == nil {
		return nil
	}
	t := &loggedTLS{
		Resumed: state.DidResume, ECH: state.ECHAccepted, Version: state.Version, CipherSuite: state.CipherSuite,
		Proto: state.NegotiatedProtocol, ServerName: state.ServerName, Certificate: len(state.PeerCertificates) > 0,
	}
	if t.Certificate {
		t.CommonName, t.Serial = state.PeerCertificates[0].Subject.CommonName, state.PeerCertificates[0].SerialNumber.String()
	}
	return t
}

func (t *loggedTLS) state() *tls.ConnectionState {
	if t == nil {
		return nil
	}
	state := &tls.ConnectionState{
		DidResume: t.Resumed, ECHAccepted: t.ECH, Version: t.Version, CipherSuite: t.CipherSuite,
		NegotiatedProtocol: t.Proto, ServerName: t.ServerName,
	}
	if t.Certificate {
		serial, _ := new(big.Int).SetString(t.Serial, 10)
		state.PeerCertificates = []*x509.Certificate{{Subject: pkix.Name{CommonName: t.CommonName}, SerialNumber: serial}}
	}
	return state
}

// originalHost returns the host that a request came for, which a handler may have
// changed in what it passes on. net/http has the request as it came with its response,
// in a private field; a test notices when it has it elsewhere.
func originalHost(w http.ResponseWriter, r *http.Request) string {
	if response := reflect.Indirect(reflect.ValueOf(innermost(w))); response.Kind() == reflect.Struct {
		came := response.FieldByName("req")
		if came.IsValid() && came.Type() == reflect.TypeFor[*http.Request]() && !came.IsNil() {
			return came.Elem().FieldByName("Host").String()
		}
	}
	return r.Host
}

// withoutPort returns a host without its port.
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
// server decides itself: those that `log_name` gives, or that the host has, or the
// default.
func loggerNames(ctx context.Context, config *caddyhttp.ServerLogConfig, host string) []string {
	if given, ok := caddyhttp.GetVar(ctx, caddyhttp.AccessLoggerNameVarKey).([]any); ok {
		names := make([]string, 0, len(given))
		for _, name := range given {
			text, _ := name.(string)
			names = append(names, text)
		}
		return names
	}
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

// levelOf returns the level that `log_level` gives a request's line.
func levelOf(ctx context.Context) zapcore.Level {
	name, _ := caddyhttp.GetVar(ctx, caddyhttp.LogLevelVar).(string)
	if level, err := zapcore.ParseLevel(name); err == nil && level >= zapcore.DebugLevel && level <= zapcore.ErrorLevel && name != "" {
		return level
	}
	return zapcore.InfoLevel
}

// addedFields returns the fields that handlers have added so far to a request's line.
// caddyhttp has no function that does; a test notices when it has them elsewhere.
func addedFields(ctx context.Context) []zapcore.Field {
	extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields)
	if !ok {
		return nil
	}
	fields := reflect.ValueOf(extra).Elem().FieldByName("fields")
	if !fields.IsValid() || fields.Type() != reflect.TypeFor[[]zapcore.Field]() {
		return nil
	}
	return *(*[]zapcore.Field)(unsafe.Pointer(fields.UnsafeAddr())) //nolint:gosec // its type has been looked at
}
