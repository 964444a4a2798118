package ssefanin

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// exprs finds the queries in a dashboard or in alert rules, whatever they are
// nested in.
func exprs(node any) (found []string) {
	switch node := node.(type) {
	case map[string]any:
		for key, child := range node {
			if text, ok := child.(string); ok && (key == "expr" || key == "query") {
				found = append(found, text)
				continue
			}
			found = append(found, exprs(child)...)
		}
	case []any:
		for _, child := range node {
			found = append(found, exprs(child)...)
		}
	}
	return found
}

// What the examples ask for exists, with the labels they ask for.
func TestGrafanaExamplesNameWhatThereIs(t *testing.T) {
	a := plain(t)
	in := serve(t, "", directive("/e", "stream s\nupstream u "+a.URL())+directive("/k", "stream k\nupstream u "+a.URL()+"/{query.user}"))
	var dashboard, alerts any
	must(t, json.Unmarshal([]byte(readFile(t, "examples/grafana/dashboard.json")), &dashboard))
	must(t, yaml.Unmarshal([]byte(readFile(t, "examples/grafana/alerts.yml")), &alerts))

	labels := make(map[string]string) // by metric
	for line := range strings.Lines(in.metrics()) {
		name, rest, _ := strings.Cut(line, "{")
		labels[strings.TrimSuffix(name, "_count")] = rest
	}
	metric := regexp.MustCompile(`caddy_sse_fanin_\w+`)
	reasonIs := regexp.MustCompile(`(caddy_sse_fanin_\w+)\{[^}]*reason(=|!~)"([^"]*)"`)
	used := make(map[string]bool)
	for file, all := range map[string][]string{"dashboard.json": exprs(dashboard), "alerts.yml": exprs(alerts)} {
		n := 0
		for _, expr := range all {
			for _, name := range metric.FindAllString(expr, -1) {
				n++
				name = strings.TrimSuffix(name, "_bucket")
				used[name] = true
				if labels[name] == "" {
					t.Errorf("%s: there is no metric %s", file, name)
				}
			}
			for _, m := range reasonIs.FindAllStringSubmatch(expr, -1) {
				for why := range strings.SplitSeq(m[3], "|") {
					if !strings.Contains(in.metrics(), m[1]+`{reason="`+why+`"`) {
						t.Errorf("%s: %s has no reason %q", file, m[1], why)
					}
				}
			}
		}
		if n < 5 {
			t.Errorf("%s has %d metrics", file, n)
		}
	}
	for name := range labels {
		if !used[name] {
			t.Errorf("%s is in neither of them", name)
		}
	}
}
