package ssefanin

import (
	"net/http"
	"strconv"
	"strings"
)

// accepted returns the offer that an Accept header (RFC 9110, section 12.5.1)
// prefers, the earlier one of equals; the first one without a header, none if
// the header refuses all.
func accepted(accept []string, offers ...string) string {
	ranges := strings.Split(strings.Join(accept, ","), ",")
	if strings.TrimSpace(strings.Join(ranges, "")) == "" {
		return offers[0]
	}
	best, bestQuality := "", 0.0
	for _, offer := range offers {
		quality, specific := 0.0, -1
		for _, text := range ranges {
			media, params, _ := strings.Cut(text, ";")
			at := specificity(strings.ToLower(strings.TrimSpace(media)), offer)
			if at > specific {
				quality, specific = qualityOf(params), at
			}
		}
		if quality > bestQuality {
			best, bestQuality = offer, quality
		}
	}
	return best
}

// specificity returns how closely a media range matches a type; -1: not at all.
func specificity(media, offer string) int {
	main, _, _ := strings.Cut(offer, "/")
	switch media {
	case offer:
		return 2
	case main + "/*":
		return 1
	case "*/*":
		return 0
	}
	return -1
}

// qualityOf returns the weight among a media range's parameters; one that
// cannot be read is 1, as if it were not there.
func qualityOf(params string) float64 {
	for param := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		if !strings.EqualFold(strings.TrimSpace(name), "q") {
			continue
		}
		if q, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil && q >= 0 && q <= 1 {
			return q
		}
	}
	return 1
}

// Media types.
const (
	typeJSON   = "application/json"
	typeHTML   = "text/html"
	typeEvents = "text/event-stream"
)

func writeBody(w http.ResponseWriter, r *http.Request, status int, body []byte) error {
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) //nolint:gosec // JSON, our page, or plain text that is not to be sniffed; nobody is left to tell of an error
	}
	return nil
}
