package ssefanin

import (
	"net/http"
	"slices"
	"strings"
)

// shownFields are the fields of a request's header that a detached client's line
// shows, in alphabetical order: what clients and the proxies in front of Caddy send,
// with those whose values Caddy hides itself. The line comes too late to know of other
// fields whether the client sent them or a handler has set them, as `forward_auth` does
// with the token of a user.
var shownFields = []string{
	"Accept", "Accept-Charset", "Accept-Encoding", "Accept-Language", "Authorization",
	"Cache-Control", "Cdn-Loop", "Cf-Connecting-Ip", "Cf-Ipcountry", "Cf-Ray", "Connection",
	"Content-Length", "Content-Type", "Cookie", "Dnt", "Early-Data", "Forwarded", "Host",
	"If-Modified-Since", "If-None-Match", "Keep-Alive", "Last-Event-Id", "Max-Forwards", "Origin",
	"Pragma", "Priority", "Proxy-Authorization", "Range", "Referer", "Save-Data", "Sec-Gpc", "Te",
	"Traceparent", "Tracestate", "Upgrade", "Upgrade-Insecure-Requests", "User-Agent", "Via",
	"X-Correlation-Id", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Port",
	"X-Forwarded-Proto", "X-Real-Ip", "X-Request-Id", "X-Requested-With",
}

// hidden is what Caddy's access log has in place of a credential.
const hidden = "REDACTED"

// shownHeader returns the header of a request for the line of a detached client: the
// values of other fields are hidden, unless credentials are to be logged.
func shownHeader(header http.Header, credentials bool) http.Header {
	if credentials {
		return header
	}
	shown := make(http.Header, len(header))
	for name, values := range header {
		if !isShown(name) {
			values = slices.Repeat([]string{hidden}, len(values))
		}
		shown[name] = values
	}
	return shown
}

func isShown(name string) bool {
	_, listed := slices.BinarySearch(shownFields, name)
	return listed || strings.HasPrefix(name, "Sec-Ch-") || strings.HasPrefix(name, "Sec-Fetch-")
}
