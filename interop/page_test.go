package interop

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestPage checks that the table of docs/libraries.md says of each library what the
// tests expect of it, in the version that they use.
func TestPage(t *testing.T) {
	page := readFile(t, "../docs/libraries.md")
	pins := readFile(t, "go.mod") + readFile(t, "node/package.json") + readFile(t, "python/requirements.txt")
	for _, l := range libraries {
		over, cut, busy := "HTTP/1.1", "resumes", "comes back"
		if l.http2 {
			over += ", HTTP/2"
		}
		if l.losesCut {
			cut = "**loses that event**"
		}
		if l.handsOutCut {
			cut = "**hands out a part of that event**, and loses it"
		}
		if l.givesUp {
			busy = "gives up"
		}
		row := regexp.MustCompile(`(?m)^\| \[` + regexp.QuoteMeta(l.name) + `\]\(#\w+\) \| (\S+) \| (.*) \|$`).FindStringSubmatch(page)
		if row == nil {
			t.Errorf("the page has no row for %s", l.name)
			continue
		}
		if want := fmt.Sprintf("%s | %s | %s", over, cut, busy); row[2] != want {
			t.Errorf("the page says of %s %q, the tests expect %q", l.name, row[2], want)
		}
		version := strings.ReplaceAll(row[1], "-", "") // of a library without one, the date
		if pin := regexp.MustCompile(regexp.QuoteMeta(l.name) + `\W.*\bv?` + regexp.QuoteMeta(version)); l.pinned() && !pin.MatchString(pins) {
			t.Errorf("the page says version %s of %s, which is another one", row[1], l.name)
		}
	}
	if rows := strings.Count(page, "| HTTP/1.1"); rows != len(libraries) {
		t.Errorf("the page has %d rows for %d libraries", rows, len(libraries))
	}
}

// pinned reports whether the version of the library is chosen here, and not that of
// the system.
func (l library) pinned() bool { return l.name != "curl" && l.name != "Java's HttpClient" }

func readFile(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	return string(text)
}
