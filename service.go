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
