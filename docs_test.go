package ssefanin

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"gopkg.in/yaml.v3"

	"github.com/sse-fanin/caddy-sse-fanin/internal/doccheck"
)

// Whoever opens a long page sees what is on it, and the index has every page.
func TestPagesHaveContents(t *testing.T) {
	pages := markdownPages(t)
	for file, p := range pages {
		if path.Dir(file) != "docs" {
			continue
		}
		if len(p.Headings) == 0 || p.Headings[0].Level != 1 || strings.HasPrefix(strings.TrimSpace(strings.TrimPrefix(p.Text, "# "+p.Headings[0].Title)), "#") {
			t.Errorf("%s does not begin with its title and what it answers", file)
		}
		if index := page(t, "docs/README.md"); p != index && !slices.ContainsFunc(index.Links, func(l doccheck.Link) bool { return l.Target == path.Base(file) }) {
			t.Errorf("%s does not lead to %s", index.File, file)
		}
		if len(p.Text) < 4000 {
			continue
		}
		for _, h := range p.Headings {
			if h.Level == 2 && !slices.ContainsFunc(p.Links, func(l doccheck.Link) bool { return l.Target == "#"+h.Anchor }) {
				t.Errorf("the contents of %s lack %q", file, h.Title)
			}
		}
	}
}

// The README is short, names the versions of go.mod, and its pictures are small.
func TestReadmeIsShort(t *testing.T) {
	readme := page(t, "README.md")
	if len(readme.Text) > 15<<10 {
		t.Errorf("it has %d bytes", len(readme.Text))
	}
	mod := readFile(t, "go.mod")
	for name, pattern := range map[string]string{"Caddy": `caddy/v2 (v\d+\.\d+)\.`, "Go": `(?m)^go (\d+\.\d+)`} {
		m := regexp.MustCompile(pattern).FindStringSubmatch(mod)
		if m == nil || !strings.Contains(readme.Text, name+" "+m[1]+" ") {
			t.Errorf("it does not say %s %q", name, m)
		}
	}
	pictures := 0
	for _, l := range readme.Links {
		if path.Ext(l.Target) != ".png" {
			continue
		}
		pictures++
		info, err := os.Stat(l.Target)
		must(t, err)
		if info.Size() > 150<<10 {
			t.Errorf("%s has %d bytes", l.Target, info.Size())
		}
	}
	if pictures < 2 {
		t.Errorf("%d pictures", pictures)
	}
}

func TestDocumentedCaddyfilesAreValid(t *testing.T) {
	n := make(map[string]int)
	for file, p := range markdownPages(t) {
		if path.Dir(file) == "jetstream" { // which this module is built without
			continue
		}
		for _, block := range p.Blocks {
			if block.Language == "caddyfile" {
				n[file]++
				doccheck.CheckExample(t, file, block.Line, block.Text)
			}
		}
	}
	for _, file := range []string{"README.md", "docs/clients.md", "docs/configuration.md", "docs/sources.md", "docs/durability.md", "docs/operating.md"} {
		if n[file] == 0 {
			t.Errorf("%s has no Caddyfile", file)
		}
	}
}

// Configurations in JSON are valid, and JSON and YAML can be read.
func TestDocumentedJSONAndYAMLAreValid(t *testing.T) {
	configs := 0
	for file, p := range markdownPages(t) {
		for _, block := range p.Blocks {
			var value any
			var err error
			switch block.Language {
			case "json":
				err = json.Unmarshal([]byte(block.Text), &value)
				if object, ok := value.(map[string]any); ok && object["apps"] != nil {
					configs++
					err = doccheck.ValidateJSON(block.Text)
				}
			case "yaml":
				err = yaml.Unmarshal([]byte(block.Text), &value)
			}
			if err != nil {
				t.Errorf("%s:%d: %v", file, block.Line, err)
			}
		}
	}
	if configs == 0 {
		t.Error("there is no configuration in JSON")
	}
}

// syntaxComment returns the syntax in the comment of UnmarshalCaddyfile.
func syntaxComment(t *testing.T) string {
	t.Helper()
	_, after, _ := strings.Cut(readFile(t, "caddyfile.go"), "\n//\tsse_fanin [<matcher>]")
	comment, _, ok := strings.Cut("//\tsse_fanin [<matcher>]"+after, "\nfunc ")
	if !ok {
		t.Fatal("caddyfile.go has no syntax comment")
	}
	var syntax strings.Builder
	for line := range strings.Lines(comment + "\n") {
		syntax.WriteString(strings.TrimPrefix(strings.TrimPrefix(line, "//"), "\t"))
	}
	return syntax.String()
}

// The syntax stands in three places, which are the same text: the comment of
// UnmarshalCaddyfile, the README, and (tested elsewhere) a golden file.
func TestSyntaxIsToldTheSameEverywhere(t *testing.T) {
	syntax := syntaxComment(t)
	found := make(map[string]int)
	for file, p := range markdownPages(t) {
		for _, block := range p.Blocks {
			if !strings.HasPrefix(block.Text, "sse_fanin [<matcher>]") {
				continue
			}
			found[file]++
			if block.Text != syntax {
				t.Errorf("%s:%d has\n%s\nbut the comment of UnmarshalCaddyfile has\n%s", file, block.Line, block.Text, syntax)
			}
		}
	}
	if found["README.md"] != 1 {
		t.Errorf("README.md has %d blocks that begin with 'sse_fanin [<matcher>]'", found["README.md"])
	}
}

// Every setting of the syntax is explained, and nothing else is.
func TestSettingsAreDocumented(t *testing.T) {
	p := page(t, "docs/configuration.md")
	documented := make(map[string]bool)
	setting := regexp.MustCompile("^`([a-z_]+)`$")
	for _, title := range []string{"Upstream options", "Stream settings", "Client settings"} {
		for _, row := range p.Table(t, title) {
			if m := setting.FindStringSubmatch(row[0]); m != nil {
				documented[m[1]] = true
			}
		}
	}
	want := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^\t{1,2}([a-z_]+)\b`).FindAllStringSubmatch(syntaxComment(t), -1) {
		want[m[1]] = true
	}
	for _, word := range []string{"upstream", "events", "size", "age", "key", "max"} { // with their own sections; those of retain and last_value
		if word != "events" { // an option of upstreams, too
			delete(want, word)
		}
	}
	if got, want := slices.Sorted(maps.Keys(documented)), slices.Sorted(maps.Keys(want)); !slices.Equal(got, want) {
		t.Errorf("%s explains\n%v\nthe syntax has\n%v", p.File, got, want)
	}
}

// Every metric is in the table, with its labels, and no other is.
func TestMetricsAreDocumented(t *testing.T) {
	descs := make(chan *prometheus.Desc, 100)
	metrics.Describe(descs)
	close(descs)
	described := regexp.MustCompile(`fqName: "caddy_sse_fanin_(\w+)".*variableLabels: \{([^}]*)\}`)
	want := make(map[string]string)
	for d := range descs {
		m := described.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("unknown form: %s", d)
		}
		labels := strings.Split(m[2], ",")
		want[m[1]] = strings.Join(slices.DeleteFunc(labels, func(s string) bool { return s == "stream" }), ", ")
	}
	p := page(t, "docs/operating.md")
	got := make(map[string]string)
	for _, row := range p.Table(t, "Metrics") {
		got[strings.Trim(row[0], "`")] = strings.ReplaceAll(row[2], "`", "")
	}
	if !maps.Equal(got, want) {
		t.Errorf("%s has\n%v\nthe code has\n%v", p.File, got, want)
	}
}

// Every reason is explained, and no other is.
func TestReasonsAreDocumented(t *testing.T) {
	p := page(t, "docs/operating.md")
	got := p.Rows(t, "Reasons")
	slices.Sort(got)
	if want := slices.Sorted(slices.Values(reasons)); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s has\n%v\nthe code has\n%v", p.File, got, want)
	}
}

// Every line of the log is explained, and no other is.
func TestLogLinesAreDocumented(t *testing.T) {
	// jetstream has a page of its own
	doccheck.CheckLogLines(t, page(t, "docs/operating.md"), ".", "bench", "chaos", "e2e", "examples", "demo", "jetstream", "ssetest", "storetest")
}

// What the pages for developers name exists: files, types, fields, functions.
func TestDocumentedNamesExist(t *testing.T) {
	words, files := make(map[string]bool), make(map[string]bool)
	word := regexp.MustCompile(`\w+`)
	must(t, filepath.WalkDir(".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(file) != ".go" {
			return err
		}
		files[entry.Name()] = true
		for _, w := range word.FindAllString(readFile(t, file), -1) {
			words[w] = true
		}
		return nil
	}))
	// file.go, camelCase, and type.method
	name := regexp.MustCompile("`(\\w+\\.go|[a-z]+[A-Z]\\w*|[a-z]\\w*\\.\\w+)`")
	n := 0
	for _, file := range []string{"docs/ARCHITECTURE.md", "docs/performance.md", "docs/development.md", "CONTRIBUTING.md"} {
		for _, m := range name.FindAllStringSubmatch(page(t, file).Text, -1) {
			n++
			switch first, second, _ := strings.Cut(m[1], "."); second {
			case "go":
				if !files[m[1]] {
					t.Errorf("%s: there is no file %s", file, m[1])
				}
			case "work", "mod":
			default:
				if first != "caddy" && (!words[first] || second != "" && !words[second]) {
					t.Errorf("%s: nothing is called %s", file, m[1])
				}
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d names were found", n)
	}
}
