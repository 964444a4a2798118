package ssefanin

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/pattern"
)

// Only is what clients may see of a stream. In a pattern, `*` stands for any
// characters, also for none, and a placeholder of the request for its value, which
// is never a pattern itself. A client for which a placeholder is empty gets a 403.
type Only struct {
	// Patterns of the names of sources, or of the upstreams they are of. Default:
	// all.
	Source []string `json:"source,omitempty"`

	// Patterns of the types of events, as clients see them (`message` for unnamed
	// ones). Default: all.
	Type []string `json:"type,omitempty"`
}

// validate validates what was given; nil is nothing.
func (o *Only) validate() error {
	if o == nil {
		return nil
	}
	if o.Source == nil && o.Type == nil {
		return errors.New("only: neither source nor type is given; without only, clients may see everything")
	}
	for _, list := range []struct {
		what     string
		patterns []string
	}{{"source", o.Source}, {"type", o.Type}} {
		if list.patterns != nil && len(list.patterns) == 0 {
			return fmt.Errorf("only: %s: the list is empty, so nobody would see anything; give at least one pattern", list.what)
		}
		for i, text := range list.patterns {
			if _, err := pattern.ParseTemplate(text); err != nil {
				return fmt.Errorf("only: %s: '%s': %w", list.what, text, err)
			}
			if long := expandShorthand(text); long != text {
				return fmt.Errorf("only: %s: '%s': outside of a Caddyfile, that is written '%s'", list.what, text, long)
			}
			if slices.Contains(list.patterns[:i], text) {
				return fmt.Errorf("only: %s: '%s' is given twice", list.what, text)
			}
		}
	}
	return nil
}

// judge validates that a stream has the sources that are named as such. Which of
// those an upstream with dynamic addresses has is not known; they begin with its name.
func (o *Only) judge(def *definition) error {
	if o == nil {
		return nil
	}
	var names []string
	for _, u := range def.upstreams {
		names = append(names, u.name)
	}
	for _, text := range o.Source {
		if strings.ContainsAny(text, "*{") {
			continue
		}
		if !slices.ContainsFunc(def.upstreams, func(u *upstreamDef) bool {
			return text == u.name || text == u.upstream || u.expands && strings.HasPrefix(text, memberName(u.name, ""))
		}) {
			return fmt.Errorf("only: source: '%s' is none of the stream's upstreams, which are: %s", text, strings.Join(slices.Sorted(slices.Values(names)), ", "))
		}
	}
	if o.Type != nil && !slices.ContainsFunc(o.Type, func(text string) bool { return strings.ContainsAny(text, "*{") || def.maySend(text) }) {
		return fmt.Errorf("only: type: nobody would see anything, since 'events' and 'prefix' of the upstreams leave no events of %s", quoted(o.Type))
	}
	return nil
}

// over returns what o gives, and for what it does not, what base does: o can be
// nil, and so can base.
func (o *Only) over(base *Only) *Only {
	switch {
	case base == nil:
		return o
	case o == nil:
		return base
	}
	both := *o
	if both.Source == nil {
		both.Source = base.Source
	}
	if both.Type == nil {
		both.Type = base.Type
	}
	return &both
}

// onlySettings are an Only, compiled. The zero value is everything.
type onlySettings struct{ sources, types []pattern.Template }

// resolve compiles the patterns, which have been validated.
func (o *Only) resolve() onlySettings {
	if o == nil {
		return onlySettings{}
	}
	return onlySettings{templates(o.Source), templates(o.Type)}
}

func templates(texts []string) []pattern.Template {
	all := make([]pattern.Template, len(texts))
	for i, text := range texts {
		all[i], _ = pattern.ParseTemplate(text) // validated at load
	}
	return all
}

// onlyError is an error about a request without a value for a placeholder.
type onlyError struct {
	placeholder string
	err         error
}

func (e *onlyError) Error() string {
	return fmt.Sprintf("only: the value of {%s} %v", e.placeholder, e.err)
}

// errForbidden is what a client is told that may see nothing: neither what its
// request lacks nor what it would have to bring.
var errForbidden = errors.New("forbidden")

// choiceOf fills in the placeholders for a request.
func (o *onlySettings) choiceOf(r *http.Request) (choice, error) {
	sources, err := fill(o.sources, r)
	if err != nil {
		return choice{}, err
	}
	types, err := fill(o.types, r)
	return choice{sources, types}, err
}

// fill returns the set of patterns for a request; nil if there are none.
func fill(all []pattern.Template, r *http.Request) (*pattern.Set, error) {
	if len(all) == 0 {
		return nil, nil
	}
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	value := func(name string) (string, error) {
		text := ""
		if repl != nil {
			text, _ = repl.GetString(name)
		}
		switch {
		case text == "":
			return "", &onlyError{name, errors.New("is empty")}
		case len(text) > maxKeyValue:
			return "", &onlyError{name, errors.New("is too long")}
		}
		return strings.Clone(text), nil // without the rest of the request
	}
	patterns := make([]pattern.Pattern, len(all))
	for i, t := range all {
		var err error
		if patterns[i], err = t.Fill(value); err != nil {
			return nil, err
		}
	}
	return pattern.NewSet(patterns), nil
}
