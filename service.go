package ssefanin

import (
	"net/http"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// service is how one handler serves a stream. Immutable once its configuration
// has started.
type service struct {
	def      *definition // nil: the stream is not defined, and the configuration is about to fail
	settings *clientSettings
	logger   *zap.Logger

	accessLogger *zap.Logger // that its server writes access logs with

	errorRoutes bool // what it returns as an error gets a page of the configuration's
}

// unavailable answers 503. Without a route that handles errors, returning one
// would have no effect beyond the status but a line at level ERROR in the
// server's log, for every client that finds the stream full.
func (s *service) unavailable(w http.ResponseWriter, err error) error {
	if s.errorRoutes {
		return caddyhttp.Error(http.StatusServiceUnavailable, err)
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	return nil
}

// badRequest answers 400, with the reason in the body unless the configuration
// makes a page of it: it is about what the client has sent, and has no value of it
// but the name of a source.
func (s *service) badRequest(w http.ResponseWriter, r *http.Request, err error) error {
	return s.answerError(w, r, http.StatusBadRequest, err)
}

// forbidden answers 403 to a client that may see nothing. The error is for the log.
func (s *service) forbidden(w http.ResponseWriter, r *http.Request, err error) error {
	s.def.refused(err)
	return s.answerError(w, r, http.StatusForbidden, errForbidden)
}

// answerError answers with an error, in the body unless the configuration makes a
// page of it.
func (s *service) answerError(w http.ResponseWriter, r *http.Request, status int, err error) error {
	if s.errorRoutes {
		return caddyhttp.Error(status, err)
	}
	if entry := s.logger.Check(zap.DebugLevel, "bad request"); entry != nil {
		entry.Write(zap.String("stream", s.def.label), zap.Error(err))
	}
	header := w.Header()
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set("X-Content-Type-Options", "nosniff")
	return writeBody(w, r, status, []byte(err.Error()+"\n"))
}
