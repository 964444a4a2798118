package e2e

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// An example is a fenced block of code in one of the pages that the tests here
// run as it is written, but for addresses.
type example struct {
	section  string // the heading that it stands under
	language string
	text     string
}

// examples returns the blocks of a page in docs.
func examples(t *testing.T, page string) []example {
	t.Helper()
	content, err := os.ReadFile("../docs/" + page)
	if err != nil {
		t.Fatal(err)
	}
	var found []example
	var open *example
	var indent, section string
	for line := range strings.Lines(string(content)) {
		trimmed := strings.TrimLeft(line, " ")
		fence, isFence := strings.CutPrefix(trimmed, "```")
		switch {
		case isFence && open == nil:
			indent = line[:len(line)-len(trimmed)]
			open = &example{section: section, language: strings.TrimSpace(fence)}
		case isFence:
			found = append(found, *open)
			open = nil
		case open != nil:
			open.text += strings.TrimPrefix(line, indent)
		case strings.HasPrefix(line, "#"):
			section = strings.TrimSpace(strings.TrimLeft(line, "#"))
		}
	}
	if open != nil {
		t.Fatalf("%s: a block under %q is not closed", page, section)
	}
	return found
}

// takeExample returns the n-th block, from 0, in a language under a heading.
func takeExample(t *testing.T, page, section, language string, n int) string {
	t.Helper()
	for _, e := range examples(t, page) {
		if e.section != section || e.language != language {
			continue
		}
		if n == 0 {
			return e.text
		}
		n--
	}
	t.Fatalf("%s has no such block in %s under %q", page, language, section)
	return ""
}

// replaceAll replaces each old text by a new one. Every one has to be there, so
// that an example does not lose what its test changes.
func replaceAll(t *testing.T, text string, oldnew ...string) string {
	t.Helper()
	for pair := range slices.Chunk(oldnew, 2) {
		if !strings.Contains(text, pair[0]) {
			t.Fatalf("there is no %q in the example\n%s", pair[0], text)
		}
		text = strings.ReplaceAll(text, pair[0], pair[1])
	}
	return text
}
