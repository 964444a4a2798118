package ssefanin

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
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
	in := serve(t, "", directive("/e", "stream m\nupstream u "+a.URL())+directive("/k", "stream k\nupstream u "+a.URL()+"/{query.user}")+
		kept(t.TempDir(), "", "upstream u "+a.URL()))
	var dashboard, alerts, cases any
	must(t, json.Unmarshal([]byte(readFile(t, "examples/grafana/dashboard.json")), &dashboard))
	must(t, yaml.Unmarshal([]byte(readFile(t, "examples/grafana/alerts.yml")), &alerts))
	must(t, yaml.Unmarshal([]byte(readFile(t, "examples/grafana/alerts_test.yml")), &cases))

	labels := make(map[string]string) // by metric
	for line := range strings.Lines(in.metrics()) {
		name, rest, _ := strings.Cut(line, "{")
		labels[strings.TrimSuffix(name, "_count")] = rest
	}
	metric := regexp.MustCompile(`caddy_sse_fanin_\w+`)
	reasonIs := regexp.MustCompile(`(caddy_sse_fanin_\w+)\{[^}]*reason(=|=~|!~)"([^"]*)"`)
	used := make(map[string]bool)
	for file, all := range map[string][]string{"dashboard.json": exprs(dashboard), "alerts.yml": exprs(alerts), "alerts_test.yml": seriesOf(cases)} {
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

// seriesOf returns the series that the cases of the alerts are about.
func seriesOf(node any) (found []string) {
	switch node := node.(type) {
	case map[string]any:
		for key, child := range node {
			if text, ok := child.(string); ok && key == "series" {
				found = append(found, text)
			}
			found = append(found, seriesOf(child)...)
		}
	case []any:
		for _, child := range node {
			found = append(found, seriesOf(child)...)
		}
	}
	return found
}

// dashboard is what the tests look at in dashboard.json.
type dashboard struct {
	Inputs []struct {
		Name, Type, PluginID string
	} `json:"__inputs"`
	Requires []struct {
		Type, ID string
	} `json:"__requires"`
	Templating struct {
		List []struct {
			Name, Type string
			Current    struct{ Value any }
		}
	}
	Panels []struct {
		ID                       int
		Title, Description, Type string
		Datasource               struct{ Type, UID string }
		GridPos                  struct{ H, W, X, Y int }
		Targets                  []struct{ Expr string }
	}
}

// rowType is that of a panel that is a title over others.
const rowType = "row"

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	must(t, json.Unmarshal([]byte(readFile(t, "examples/grafana/dashboard.json")), &d))
	return d
}

// An import asks for the data source, and everything on the dashboard uses it.
func TestDashboardAsksForItsDataSource(t *testing.T) {
	d := readDashboard(t)
	if len(d.Inputs) != 1 || d.Inputs[0].Type != "datasource" || d.Inputs[0].PluginID != "prometheus" {
		t.Fatalf("inputs: got %+v", d.Inputs)
	}
	var variables []string
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
		if v.Type == "datasource" && v.Current.Value != "${"+d.Inputs[0].Name+"}" {
			t.Errorf("the variable %s is %v, not what the import asks for", v.Name, v.Current.Value)
		}
	}
	if want := []string{"datasource", "instance", "stream"}; !slices.Equal(variables, want) {
		t.Errorf("variables: got %q, want %q", variables, want)
	}
	required := make(map[string]bool)
	for _, r := range d.Requires {
		required[r.Type+" "+r.ID] = true
	}
	used := map[string]bool{"grafana grafana": true}
	for _, p := range d.Panels {
		if p.Type == rowType {
			continue
		}
		used["panel "+p.Type], used["datasource "+p.Datasource.Type] = true, true
		if p.Datasource.UID != "${datasource}" {
			t.Errorf("%s: its data source is %s", p.Title, p.Datasource.UID)
		}
	}
	if !maps.Equal(required, used) {
		t.Errorf("requires %v, uses %v", required, used)
	}
}

func TestDashboardPanels(t *testing.T) {
	d := readDashboard(t)
	var stats int
	taken := make(map[[2]int]string) // by place
	ids := make(map[int]bool)
	for _, p := range d.Panels {
		if p.Type == "stat" && p.GridPos.Y == 0 {
			stats++
		}
		if ids[p.ID] {
			t.Errorf("%s: the id %d is that of another", p.Title, p.ID)
		}
		ids[p.ID] = true
		if p.Description == "" || len(p.Targets) == 0 && p.Type != rowType {
			t.Errorf("%s: it has no description, or shows nothing", p.Title)
		}
		if g := p.GridPos; g.X+g.W > 24 {
			t.Errorf("%s: it ends beyond the edge", p.Title)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, ok := taken[[2]int{x, y}]; ok {
					t.Fatalf("%s lies over %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		for _, target := range p.Targets {
			metrics := strings.Count(target.Expr, "caddy_sse_fanin_")
			if n := strings.Count(target.Expr, `{instance=~"$instance", stream=~"$stream"`); n != metrics {
				t.Errorf("%s: %d of %d metrics are of the instances and streams chosen: %s", p.Title, n, metrics, target.Expr)
			}
		}
	}
	if stats < 6 {
		t.Errorf("the first row has %d single figures", stats)
	}
}

// alertRules are what the tests look at in alerts.yml, alertCases in
// alerts_test.yml.
type alertRules struct {
	Groups []struct {
		Rules []struct {
			Alert       string
			Annotations map[string]string
		}
	}
}

type alertCases struct {
	Tests []struct {
		Cases []struct {
			Alert string `yaml:"alertname"`
			Fires []any  `yaml:"exp_alerts"`
		} `yaml:"alert_rule_test"`
	}
}

func readAlerts(t *testing.T) (rules alertRules, names []string) {
	t.Helper()
	must(t, yaml.Unmarshal([]byte(readFile(t, "examples/grafana/alerts.yml")), &rules))
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			names = append(names, rule.Alert)
		}
	}
	if len(names) == 0 {
		t.Fatal("there are no alerts")
	}
	return rules, names
}

// promtool runs Prometheus's tool. It is part of Debian's package prometheus;
// .ci/run sees to it that there is one.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("promtool"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	if out, err := exec.Command("promtool", args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestAlertsFireWhenTheyShould(t *testing.T) {
	t.Parallel() // with the others that need no Caddy, which is one for all
	promtool(t, "test", "rules", "examples/grafana/alerts_test.yml")
}

// No alert is without a case where it fires, and one where it does not.
func TestAlertsHaveCases(t *testing.T) {
	_, names := readAlerts(t)
	var cases alertCases
	must(t, yaml.Unmarshal([]byte(readFile(t, "examples/grafana/alerts_test.yml")), &cases))
	firing, quiet := make(map[string]bool), make(map[string]bool)
	for _, test := range cases.Tests {
		for _, c := range test.Cases {
			if !slices.Contains(names, c.Alert) {
				t.Errorf("there is no alert %q", c.Alert) // promtool takes it for quiet
			}
			if len(c.Fires) > 0 {
				firing[c.Alert] = true
			} else {
				quiet[c.Alert] = true
			}
		}
	}
	for _, name := range names {
		if !firing[name] || !quiet[name] {
			t.Errorf("%s: firing: %t, quiet: %t", name, firing[name], quiet[name])
		}
	}
}

// Whoever is woken by an alert finds it explained.
func TestAlertsLeadToTheirRunbook(t *testing.T) {
	rules, _ := readAlerts(t)
	const runbook = "docs/operating.md"
	explained := make(map[string]string) // by anchor
	for _, h := range page(t, runbook).Headings {
		explained[h.Anchor] = h.Title
	}
	leads := make(map[string]bool)
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			anchor, ok := strings.CutPrefix(rule.Annotations["runbook_url"], onGitHub+runbook+"#")
			if !ok || explained[anchor] != rule.Alert {
				t.Errorf("%s: its runbook is %q", rule.Alert, rule.Annotations["runbook_url"])
			}
			leads[anchor] = true
		}
	}
	for anchor, title := range explained {
		if strings.HasPrefix(title, "SSEFanin") && !leads[anchor] {
			t.Errorf("%s explains %s, which is no alert", runbook, title)
		}
	}
}

// Prometheus understands every query of the dashboard.
func TestDashboardQueries(t *testing.T) {
	type rule struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	var rules []rule
	filled := strings.NewReplacer("$__rate_interval", "1m", "$__range", "1h", "$instance", ".*", "$stream", ".*")
	for _, p := range readDashboard(t).Panels {
		for i, target := range p.Targets {
			rules = append(rules, rule{fmt.Sprintf("panel:%d:%d", p.ID, i), filled.Replace(target.Expr)})
		}
	}
	raw, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	must(t, err)
	file := filepath.Join(t.TempDir(), "rules.yml")
	must(t, os.WriteFile(file, raw, 0o600))
	promtool(t, "check", "rules", file)
}
