package demo

import (
	_ "embed"
	"encoding/json"
	"net/http"
	"strings"
)

//go:embed page.html
var page string

//go:embed look.css
var look string

//go:embed common.js
var common string

// A page is one file: nothing is loaded from elsewhere, and nothing is sent
// elsewhere.
const pagePolicy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; " +
	"connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// PageHandler serves a page. What all pages of examples share takes the places of
// the comments "/*look.css*/" and "/*common.js*/" in its text.
func PageHandler(text string) http.HandlerFunc {
	body := []byte(strings.NewReplacer("/*look.css*/", look, "/*common.js*/", common).Replace(text))
	return func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", pagePolicy)
		h.Set("Cache-Control", "no-cache")
		_, _ = w.Write(body) // nobody is left to notify
	}
}

// WriteJSON answers a page's request with v, which is never to be stored.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // nobody is left to notify
}
