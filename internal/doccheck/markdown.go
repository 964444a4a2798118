// Package doccheck has what the tests of the documentation are made of: Markdown
// files as GitHub shows them, and whether the Caddyfiles in them are right.
package doccheck

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Block is a block of code in a Markdown file.
type Block struct {
	Language string
	Line     int // of its first line of text
	Text     string
}

// Heading is a title in a Markdown file.
type Heading struct {
	Level  int
	Title  string
	Anchor string // as GitHub makes it
}

// Link is a link or a picture in a Markdown file.
type Link struct {
	Line   int
	Target string
}

// Page is a Markdown file of the repository. Links are those outside
// of code.
type Page struct {
	File     string // relative to the root, with slashes
	Text     string
	Blocks   []Block
	Headings []Heading
	Links    []Link
}

// HasAnchor reports whether a heading has the anchor.
func (p *Page) HasAnchor(anchor string) bool {
	return slices.ContainsFunc(p.Headings, func(h Heading) bool { return h.Anchor == anchor })
}

var (
	markdownLink   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	markdownCode   = regexp.MustCompile("`[^`]*`")
	notInAnAnchor  = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
	markdownAnchor = func(title string) string {
		return strings.ReplaceAll(notInAnAnchor.ReplaceAllString(strings.ToLower(title), ""), " ", "-")
	}
)

// Parse reads what the tests of the documentation look at.
func Parse(file, text string) (*Page, error) {
	p := &Page{File: file, Text: text}
	var open *Block
	var indent string
	number := 0
	for line := range strings.Lines(text) {
		number++
		trimmed := strings.TrimLeft(line, " ")
		fence, isFence := strings.CutPrefix(trimmed, "```")
		switch {
		case isFence && open == nil:
			indent = line[:len(line)-len(trimmed)]
			open = &Block{Language: strings.TrimSpace(fence), Line: number + 1}
			continue
		case isFence:
			p.Blocks = append(p.Blocks, *open)
			open = nil
			continue
		case open != nil:
			open.Text += strings.TrimPrefix(line, indent)
			continue
		}
		for _, m := range markdownLink.FindAllStringSubmatch(markdownCode.ReplaceAllString(line, ""), -1) {
			p.Links = append(p.Links, Link{number, m[1]})
		}
		hashes, title, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || hashes == "" || strings.Trim(hashes, "#") != "" {
			continue
		}
		anchor := markdownAnchor(title)
		for n := 1; p.HasAnchor(anchor); n++ {
			anchor = fmt.Sprintf("%s-%d", markdownAnchor(title), n)
		}
		p.Headings = append(p.Headings, Heading{len(hashes), title, anchor})
	}
	if open != nil {
		return nil, fmt.Errorf("%s:%d: the block is not closed", file, open.Line)
	}
	return p, nil
}

// Table returns the cells of a table under a heading, from its second row on.
func (p *Page) Table(t *testing.T, title string) (rows [][]string) {
	t.Helper()
	_, after, ok := strings.Cut(p.Text, "# "+title+"\n")
	if !ok {
		t.Fatalf("%s has no heading %q", p.File, title)
	}
	for line := range strings.Lines(after) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "|") {
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			rows = append(rows, cells)
			continue
		}
		if len(rows) > 0 || strings.HasPrefix(line, "#") {
			break
		}
	}
	if len(rows) < 3 {
		t.Fatalf("%s has no table under %q", p.File, title)
	}
	return rows[2:]
}

// Rows returns the first cells of a table, without their backquotes.
func (p *Page) Rows(t *testing.T, title string) (names []string) {
	t.Helper()
	for _, row := range p.Table(t, title) {
		names = append(names, strings.Trim(row[0], "`"))
	}
	return names
}
