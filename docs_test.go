package ssefanin

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"gopkg.in/yaml.v3"
)

// fencedBlock is a block of code in a Markdown file.
type fencedBlock struct {
	language string
	line     int // of its first line of text
	text     string
}

// heading is a title in a Markdown file.
type heading struct {
	level  int
	title  string
	anchor string // as GitHub makes it
}

// link is a link or a picture in a Markdown file.
type link struct {
	line   int
	target string
}

// markdownPage is a Markdown file of the repository. Links are those outside
// of code.
type markdownPage struct {
	file     string // relative to the root, with slashes
	text     string
	blocks   []fencedBlock
	headings []heading
	links    []link
}

func (p *markdownPage) hasAnchor(anchor string) bool {
	return slices.ContainsFunc(p.headings, func(h heading) bool { return h.anchor == anchor })
}

var (
	markdownLink   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	markdownCode   = regexp.MustCompile("`[^`]*`")
	notInAnAnchor  = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
	markdownAnchor = func(title string) string {
		return strings.ReplaceAll(notInAnAnchor.ReplaceAllString(strings.ToLower(title), ""), " ", "-")
	}
)

// parseMarkdown reads what the tests of the documentation look at.
func parseMarkdown(file, text string) (*markdownPage, error) {
	p := &markdownPage{file: file, text: text}
	var open *fencedBlock
	var indent string
	number := 0
	for line := range strings.Lines(text) {
		number++
		trimmed := strings.TrimLeft(line, " ")
		fence, isFence := strings.CutPrefix(trimmed, "```")
		switch {
		case isFence && open == nil:
			indent = line[:len(line)-len(trimmed)]
			open = &fencedBlock{language: strings.TrimSpace(fence), line: number + 1}
			continue
		case isFence:
			p.blocks = append(p.blocks, *open)
			open = nil
			continue
		case open != nil:
			open.text += strings.TrimPrefix(line, indent)
			continue
		}
		for _, m := range markdownLink.FindAllStringSubmatch(markdownCode.ReplaceAllString(line, ""), -1) {
			p.links = append(p.links, link{number, m[1]})
		}
		hashes, title, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || hashes == "" || strings.Trim(hashes, "#") != "" {
			continue
		}
		anchor := markdownAnchor(title)
		for n := 1; p.hasAnchor(anchor); n++ {
			anchor = fmt.Sprintf("%s-%d", markdownAnchor(title), n)
		}
		p.headings = append(p.headings, heading{len(hashes), title, anchor})
	}
	if open != nil {
		return nil, fmt.Errorf("%s:%d: the block is not closed", file, open.line)
	}
	return p, nil
}

// readMarkdown reads all Markdown files of the repository, but for those that
// belong to test data of others.
var readMarkdown = sync.OnceValues(func() (map[string]*markdownPage, error) {
	pages := make(map[string]*markdownPage)
	err := filepath.WalkDir(".", func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains([]string{".git", "testdata", "dist", "artifacts"}, entry.Name()):
			return fs.SkipDir
		case entry.IsDir() || filepath.Ext(file) != ".md":
			return nil
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		file = filepath.ToSlash(file)
		pages[file], err = parseMarkdown(file, string(text))
		return err
	})
	return pages, err
})

// markdownPages returns all Markdown files of the repository, by path.
func markdownPages(t *testing.T) map[string]*markdownPage {
	t.Helper()
	pages, err := readMarkdown()
	must(t, err)
	return pages
}

// page returns one of the Markdown files.
func page(t *testing.T, file string) *markdownPage {
	t.Helper()
	p := markdownPages(t)[file]
	if p == nil {
		t.Fatalf("there is no %s", file)
	}
	return p
}

// table returns the cells of a table under a heading, from its second row on.
func (p *markdownPage) table(t *testing.T, title string) (rows [][]string) {
	t.Helper()
	_, after, ok := strings.Cut(p.text, "# "+title+"\n")
	if !ok {
		t.Fatalf("%s has no heading %q", p.file, title)
	}
	for line := range strings.Lines(after) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "|"):
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			rows = append(rows, cells)
		case len(rows) > 0 || strings.HasPrefix(line, "#"):
			if len(rows) < 3 {
				t.Fatalf("%s has no table under %q", p.file, title)
			}
			return rows[2:]
		}
	}
	t.Fatalf("%s ends in the table under %q", p.file, title)
	return nil
}

// onGitHub is where the repository's files are on the web.
const onGitHub = "https://github.com/sse-fanin/caddy-sse-fanin/blob/main/"

// leads reports what is wrong with a link that stands in a file, if anything.
// Links to other places are not looked at.
func leads(pages map[string]*markdownPage, from, target string) error {
	u, err := url.Parse(target)
	if err != nil {
		return err
	}
	file := path.Join(path.Dir(from), u.Path)
	switch rest, ours := strings.CutPrefix(target, onGitHub); {
	case ours:
		file, _, _ = strings.Cut(rest, "#")
	case u.Scheme != "" || u.Host != "":
		return nil
	case u.Path == "":
		file = from
	}
	to := pages[file]
	if _, err := os.Stat(filepath.FromSlash(file)); to == nil && err != nil {
		return err
	}
	if u.Fragment != "" && (to == nil || !to.hasAnchor(u.Fragment)) {
		return fmt.Errorf("%s has no heading #%s", file, u.Fragment)
	}
	return nil
}

func TestLinksLeadSomewhere(t *testing.T) {
	pages := markdownPages(t)
	n := make(map[string]int) // by folder
	for file, p := range pages {
		for _, l := range p.links {
			n[path.Dir(file)]++
			if err := leads(pages, file, l.target); err != nil {
				t.Errorf("%s:%d: %s: %v", file, l.line, l.target, err)
			}
		}
	}
	for _, folder := range []string{".", "docs", "examples/docker"} {
		if n[folder] == 0 {
			t.Errorf("no links were found in %s", folder)
		}
	}
}

// The check of the links sees what it is there for.
func TestWrongLinksAreFound(t *testing.T) {
	p, err := parseMarkdown("docs/x.md", "# A `b`, c\n\n## Twice\n\n## Twice\n\n`[no](link)` [one](#twice-1)\n\n```text\n# no title\n[no](link)\n```\n")
	must(t, err)
	if len(p.links) != 1 || p.links[0] != (link{7, "#twice-1"}) {
		t.Errorf("links %v", p.links)
	}
	pages := map[string]*markdownPage{p.file: p}
	for target, right := range map[string]bool{
		"#a-b-c": true, "#twice": true, "#twice-1": true, "x.md#twice": true, "../go.mod": true, onGitHub + "docs/x.md#twice": true, "https://example.com/#nowhere": true,
		"#twice-2": false, "#no-title": false, "go.mod": false, "../go.mod#x": false, "y.md": false, onGitHub + "docs/x.md#no": false, onGitHub + "x.md": false,
	} {
		if err := leads(pages, p.file, target); (err == nil) != right {
			t.Errorf("%s: %v", target, err)
		}
	}
	if _, err := parseMarkdown("x.md", "```text\n"); err == nil {
		t.Error("a block that is not closed is no error")
	}
}

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
	for _, file := range []string{"README.md", "docs/clients.md", "docs/configuration.md", "docs/sources.md", "docs/operating.md"} {
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

// rows returns the first cells of a table, without their backquotes.
func (p *markdownPage) rows(t *testing.T, title string) (names []string) {
	t.Helper()
	for _, row := range p.table(t, title) {
		names = append(names, strings.Trim(row[0], "`"))
	}
	return names
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
		case entry.IsDir() && slices.Contains([]string{".git", "bench", "chaos", "e2e", "examples", "demo", "ssetest"}, entry.Name()):
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
