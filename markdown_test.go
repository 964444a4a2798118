package ssefanin

import (
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
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

// rows returns the first cells of a table, without their backquotes.
func (p *markdownPage) rows(t *testing.T, title string) (names []string) {
	t.Helper()
	for _, row := range p.table(t, title) {
		names = append(names, strings.Trim(row[0], "`"))
	}
	return names
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
