package doccheck

import (
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// logged matches where something is logged.
var logged = regexp.MustCompile(`\.(?:Debug|Info|Warn|Error|Check)\((?:\w+\.?\w*, )?"([^"]+)"`)

// CheckLogLines validates that the table under "Log lines" of a page has every
// line that the Go files in a folder log, and no other. skipped are the names of
// folders that are not looked into.
func CheckLogLines(t *testing.T, p *Page, root string, skipped ...string) {
	t.Helper()
	documented := make(map[string]bool) // by text
	files := os.DirFS(root)
	if err := fs.WalkDir(files, ".", func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == ".git" || slices.Contains(skipped, entry.Name())):
			return fs.SkipDir
		case path.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go"):
			return nil
		}
		code, err := fs.ReadFile(files, file)
		for _, m := range logged.FindAllSubmatch(code, -1) {
			documented[string(m[1])] = false
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, line := range p.Rows(t, "Log lines") {
		found := false
		for text := range documented {
			begin, cut := strings.CutSuffix(line, " …")
			if text == line || cut && strings.HasPrefix(text, begin+" ") {
				documented[text], found = true, true
			}
		}
		if !found {
			t.Errorf("%s explains %q, which is never logged", p.File, line)
		}
	}
	for text, ok := range documented {
		if !ok {
			t.Errorf("%s does not explain %q", p.File, text)
		}
	}
}
