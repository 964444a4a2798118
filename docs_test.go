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
)

// Whoever opens a long page sees what is on it, and the index has every page.
func TestPagesHaveContents(t *testing.T) {
	pages := markdownPages(t)
	for file, p := range pages {
		if path.Dir(file) != "docs" {
			continue
		}
		if len(p.headings) == 0 || p.headings[0].level != 1 || strings.HasPrefix(strings.TrimSpace(strings.TrimPrefix(p.text, "# "+p.headings[0].title)), "#") {
			t.Errorf("%s does not begin with its title and what it answers", file)
		}
		if index := page(t, "docs/README.md"); p != index && !slices.ContainsFunc(index.links, func(l link) bool { return l.target == path.Base(file) }) {
			t.Errorf("%s does not lead to %s", index.file, file)
		}
		if len(p.text) < 4000 {
			continue
		}
		for _, h := range p.headings {
			if h.level == 2 && !slices.ContainsFunc(p.links, func(l link) bool { return l.target == "#"+h.anchor }) {
				t.Errorf("the contents of %s lack %q", file, h.title)
			}
		}
	}
}

// The README is short, names the versions of go.mod, and its pictures are small.
func TestReadmeIsShort(t *testing.T) {
	readme := page(t, "README.md")
	if len(readme.text) > 15<<10 {
		t.Errorf("it has %d bytes", len(readme.text))
	}
	mod := readFile(t, "go.mod")
	for name, pattern := range map[string]string{"Caddy": `caddy/v2 (v\d+\.\d+)\.`, "Go": `(?m)^go (\d+\.\d+)`} {
		m := regexp.MustCompile(pattern).FindStringSubmatch(mod)
		if m == nil || !strings.Contains(readme.text, name+" "+m[1]+" ") {
			t.Errorf("it does not say %s %q", name, m)
		}
	}
	pictures := 0
	for _, l := range readme.links {
		if path.Ext(l.target) != ".png" {
			continue
		}
		pictures++
		info, err := os.Stat(l.target)
		must(t, err)
		if info.Size() > 150<<10 {
			t.Errorf("%s has %d bytes", l.target, info.Size())
		}
	}
	if pictures < 2 {
		t.Errorf("%d pictures", pictures)
	}
}

func TestDocumentedCaddyfilesAreValid(t *testing.T) {
	n := make(map[string]int)
	for file, p := range markdownPages(t) {
		for _, block := range p.blocks {
			if block.language == "caddyfile" {
				n[file]++
				checkExample(t, file, block.line, block.text)
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
		for _, block := range p.blocks {
			var value any
			var err error
			switch block.language {
			case "json":
				err = json.Unmarshal([]byte(block.text), &value)
				if object, ok := value.(map[string]any); ok && object["apps"] != nil {
					configs++
					err = validateJSON(block.text)
				}
			case "yaml":
				err = yaml.Unmarshal([]byte(block.text), &value)
			}
			if err != nil {
				t.Errorf("%s:%d: %v", file, block.line, err)
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
		for _, block := range p.blocks {
			if !strings.HasPrefix(block.text, "sse_fanin [<matcher>]") {
				continue
			}
			found[file]++
			if block.text != syntax {
				t.Errorf("%s:%d has\n%s\nbut the comment of UnmarshalCaddyfile has\n%s", file, block.line, block.text, syntax)
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
		for _, row := range p.table(t, title) {
			if m := setting.FindStringSubmatch(row[0]); m != nil {
				documented[m[1]] = true
			}
		}
	}
	want := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^\t{1,2}([a-z_]+)\b`).FindAllStringSubmatch(syntaxComment(t), -1) {
		want[m[1]] = true
	}
	for _, word := range []string{"upstream", "events", "size", "age"} { // with their own sections; those of retain
		if word != "events" { // an option of upstreams, too
			delete(want, word)
		}
	}
	if got, want := slices.Sorted(maps.Keys(documented)), slices.Sorted(maps.Keys(want)); !slices.Equal(got, want) {
		t.Errorf("%s explains\n%v\nthe syntax has\n%v", p.file, got, want)
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
	for _, row := range p.table(t, "Metrics") {
		got[strings.Trim(row[0], "`")] = strings.ReplaceAll(row[2], "`", "")
	}
	if !maps.Equal(got, want) {
		t.Errorf("%s has\n%v\nthe code has\n%v", p.file, got, want)
	}
}

// Every reason is explained, and no other is.
func TestReasonsAreDocumented(t *testing.T) {
	p := page(t, "docs/operating.md")
	got := p.rows(t, "Reasons")
	slices.Sort(got)
	if want := slices.Sorted(slices.Values(reasons)); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s has\n%v\nthe code has\n%v", p.file, got, want)
	}
}

// Every line of the log is explained, and no other is.
func TestLogLinesAreDocumented(t *testing.T) {
	p := page(t, "docs/operating.md")
	documented := p.rows(t, "Log lines")
	logged := make(map[string]bool) // whether it is documented
	message := regexp.MustCompile(`\.(?:Debug|Info|Warn|Error|Check)\((?:\w+\.?\w*, )?"([^"]+)"`)
	must(t, filepath.WalkDir(".", func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains([]string{".git", "bench", "chaos", "e2e", "examples", "demo", "ssetest", "storetest"}, entry.Name()):
			return fs.SkipDir
		case filepath.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go"):
			return nil
		}
		for _, m := range message.FindAllStringSubmatch(readFile(t, file), -1) {
			logged[m[1]] = false
		}
		return nil
	}))
	for _, line := range documented {
		found := false
		for text := range logged {
			begin, cut := strings.CutSuffix(line, " …")
			if text == line || cut && strings.HasPrefix(text, begin+" ") {
				logged[text], found = true, true
			}
		}
		if !found {
			t.Errorf("%s explains %q, which is never logged", p.file, line)
		}
	}
	for text, ok := range logged {
		if !ok {
			t.Errorf("%s does not explain %q", p.file, text)
		}
	}
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
		for _, m := range name.FindAllStringSubmatch(page(t, file).text, -1) {
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
