package ssefanin

import (
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
)

// requestPlaceholders finds placeholders that only a request can fill.
// Placeholders of the upstream itself are filled at every dial.
var requestPlaceholders = regexp.MustCompile(`\{(http\.[^{}]*)\}`)

func findRequestPlaceholder(s string) string {
	for _, m := range requestPlaceholders.FindAllStringSubmatch(s, -1) {
		if !strings.HasPrefix(m[1], "http.reverse_proxy.upstream.") {
			return m[0]
		}
	}
	return ""
}

// placeholdersIn returns the request's placeholders in texts, without braces,
// each once, sorted.
func placeholdersIn(texts ...string) []string {
	var names []string
	for _, text := range texts {
		for _, m := range requestPlaceholders.FindAllStringSubmatch(text, -1) {
			if name := m[1]; !strings.HasPrefix(name, "http.reverse_proxy.upstream.") && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// headerPlaceholders returns the placeholders of header operations.
func headerPlaceholders(ops ...*headers.HeaderOps) []string {
	var texts []string
	for _, o := range ops {
		if o == nil {
			continue
		}
		texts = append(texts, o.Delete...)
		for _, h := range []http.Header{o.Add, o.Set} {
			for field, values := range h {
				texts = append(append(texts, field), values...)
			}
		}
		for field, replacements := range o.Replace {
			texts = append(texts, field)
			for _, r := range replacements {
				texts = append(texts, r.Search, r.SearchRegexp, r.Replace)
			}
		}
	}
	return placeholdersIn(texts...)
}
