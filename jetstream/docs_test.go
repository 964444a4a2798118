package jetstream

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/internal/doccheck"
	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// readme returns the page of the module.
func readme(t *testing.T) *doccheck.Page {
	t.Helper()
	text, err := os.ReadFile("README.md")
	must(t, err)
	p, err := doccheck.Parse("README.md", string(text))
	must(t, err)
	return p
}

// blocks returns the blocks of a language.
func blocks(t *testing.T, p *doccheck.Page, language string) []doccheck.Block {
	t.Helper()
	found := slices.DeleteFunc(slices.Clone(p.Blocks), func(b doccheck.Block) bool { return b.Language != language })
	if len(found) == 0 {
		t.Fatalf("%s has no block of %s", p.File, language)
	}
	return found
}

// withFiles has a text name files that exist instead of those below /etc/caddy.
func withFiles(t *testing.T) func(text string) string {
	t.Helper()
	dir := t.TempDir()
	certificate, key, err := ssetest.WriteCertificate(dir)
	must(t, err)
	return strings.NewReplacer(
		"/etc/caddy/nats.creds", write(t, "nats.creds", anyCredentials(t)),
		"/etc/caddy/nats-ca.pem", certificate,
		"/etc/caddy/nats.pem", certificate,
		"/etc/caddy/nats.key", key,
	).Replace
}

func TestDocumentedConfigurationsAreValid(t *testing.T) {
	t.Setenv("NATS_URL", "nats://a.example.com,nats://b.example.com")
	t.Setenv("NATS_PASSWORD", "password")
	p, files := readme(t), withFiles(t)
	for _, block := range blocks(t, p, "caddyfile") {
		doccheck.CheckExample(t, p.File, block.Line, files(block.Text))
	}
	for _, block := range blocks(t, p, "json") {
		text := `{"apps":{"sse_fanin":{"streams":{"s":{"upstreams":[{"urls":["https://a.example.com/events"]}],"log":` + files(block.Text) + `}}}}}`
		if err := doccheck.ValidateJSON(text); err != nil {
			t.Errorf("%s:%d: %v", p.File, block.Line, err)
		}
	}
}

// The syntax is the comment of UnmarshalCaddyfile, each of its words is
// explained, and the configuration of NATS is that of the file.
func TestDocumentationIsThatOfTheCode(t *testing.T) {
	p := readme(t)
	texts := blocks(t, p, "text")
	has := func(text string) bool {
		return slices.ContainsFunc(texts, func(b doccheck.Block) bool { return b.Text == text })
	}
	code, err := os.ReadFile("caddyfile.go")
	must(t, err)
	_, comment, _ := strings.Cut(string(code), "//\tjetstream {\n")
	comment, _, _ = strings.Cut(comment, "//\t}\n")
	comment = regexp.MustCompile(`(?m)^//\t`).ReplaceAllString(comment, "")
	if syntax := "log jetstream {\n" + comment + "}\n"; !has(syntax) {
		t.Errorf("%s has no block with\n%s", p.File, syntax)
	}
	conf, err := os.ReadFile("nats.conf")
	must(t, err)
	if !has(string(conf)) {
		t.Errorf("%s does not have the text of nats.conf", p.File)
	}
	explained := p.Rows(t, "Options")
	slices.Sort(explained)
	if words := slices.Sorted(slices.Values(slices.Concat(logWords, tlsWords))); !slices.Equal(explained, words) {
		t.Errorf("%s explains\n%v\nthe options are\n%v", p.File, explained, words)
	}
}

func TestLogLinesAreDocumented(t *testing.T) {
	doccheck.CheckLogLines(t, readme(t), ".")
}
