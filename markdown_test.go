package ssefanin

import (
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/internal/doccheck"
)

// readMarkdown reads all Markdown files of the repository, but for those that
// belong to test data of others.
var readMarkdown = sync.OnceValues(func() (map[string]*doccheck.Page, error) {
	pages := make(map[string]*doccheck.Page)
	err := filepath.WalkDir(".", func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains([]string{".git", "testdata", "dist", "artifacts", "node_modules"}, entry.Name()):
			return fs.SkipDir
		case entry.IsDir() || filepath.Ext(file) != ".md":
			return nil
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		file = filepath.ToSlash(file)
		pages[file], err = doccheck.Parse(file, string(text))
		return err
	})
	return pages, err
})

// markdownPages returns all Markdown files of the repository, by path.
func markdownPages(t *testing.T) map[string]*doccheck.Page {
	t.Helper()
	pages, err := readMarkdown()
	must(t, err)
	return pages
}

// page returns one of the Markdown files.
func page(t *testing.T, file string) *doccheck.Page {
	t.Helper()
	p := markdownPages(t)[file]
	if p == nil {
		t.Fatalf("there is no %s", file)
	}
	return p
}

// onGitHub is where the repository's files are on the web.
const onGitHub = "https://github.com/sse-fanin/caddy-sse-fanin/blob/main/"

// leads reports what is wrong with a link that stands in a file, if anything.
// Links to other places are not looked at.
func leads(pages map[string]*doccheck.Page, from, target string) error {
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
	if u.Fragment != "" && (to == nil || !to.HasAnchor(u.Fragment)) {
		return fmt.Errorf("%s has no heading #%s", file, u.Fragment)
	}
	return nil
}

func TestLinksLeadSomewhere(t *testing.T) {
	pages := markdownPages(t)
	n := make(map[string]int) // by folder
	for file, p := range pages {
		for _, l := range p.Links {
			n[path.Dir(file)]++
			if err := leads(pages, file, l.Target); err != nil {
				t.Errorf("%s:%d: %s: %v", file, l.Line, l.Target, err)
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
	p, err := doccheck.Parse("docs/x.md", "# A `b`, c\n\n## Twice\n\n## Twice\n\n`[no](link)` [one](#twice-1)\n\n```text\n# no title\n[no](link)\n```\n")
	must(t, err)
	if len(p.Links) != 1 || p.Links[0] != (doccheck.Link{Line: 7, Target: "#twice-1"}) {
		t.Errorf("links %v", p.Links)
	}
	pages := map[string]*doccheck.Page{p.File: p}
	for target, right := range map[string]bool{
		"#a-b-c": true, "#twice": true, "#twice-1": true, "x.md#twice": true, "../go.mod": true, onGitHub + "docs/x.md#twice": true, "https://example.com/#nowhere": true,
		"#twice-2": false, "#no-title": false, "go.mod": false, "../go.mod#x": false, "y.md": false, onGitHub + "docs/x.md#no": false, onGitHub + "x.md": false,
	} {
		if err := leads(pages, p.File, target); (err == nil) != right {
			t.Errorf("%s: %v", target, err)
		}
	}
	if _, err := doccheck.Parse("x.md", "```text\n"); err == nil {
		t.Error("a block that is not closed is no error")
	}
}
