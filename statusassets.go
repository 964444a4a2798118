package ssefanin

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"strings"
)

// The status page is one document, so that its policy can name all of it by
// hash. It is put together of the files in statuspage/ when the process
// begins. uPlot, which draws the plots, is as its authors publish it.
//
//go:embed statuspage
var statusFiles embed.FS

// statusStyles and statusScripts are in the order in which they are used.
var (
	statusStyles  = []string{"uplot/uPlot.min.css", "page.css", "stream.css", "nodes.css"}
	statusScripts = []string{"uplot/uPlot.iife.min.js", "words.js", "plots.js", "nodes.js", "picture.js", "stream.js", "verdict.js", "main.js"}
)

// statusHTML is the page, and statusPolicy the Content-Security-Policy that
// lets its own style and script run, and nothing else. The last directive has
// the browser refuse markup that is made of strings.
var statusHTML, statusPolicy = assembleStatus()

func assembleStatus() (page []byte, policy string) {
	licence := "/* uPlot:\n" + statusFile("uplot/LICENSE") + "*/\n"
	style, script := licence+joinStatus(statusStyles), licence+joinStatus(statusScripts)
	html := statusFile("page.html")
	html = strings.Replace(html, "<style></style>", "<style>"+style+"</style>", 1)
	html = strings.Replace(html, "<script></script>", "<script>"+script+"</script>", 1)
	policy = "default-src 'none'; script-src " + hashSource(script) + "; style-src " + hashSource(style) +
		"; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
	return []byte(html), policy
}

func joinStatus(names []string) string {
	var all strings.Builder
	for _, name := range names {
		all.WriteString(statusFile(name))
		all.WriteByte('\n')
	}
	return all.String()
}

func statusFile(name string) string {
	text, err := statusFiles.ReadFile("statuspage/" + name)
	if err != nil {
		panic(err) // it was not built with the files that this file lists
	}
	return string(text)
}

// hashSource is the source expression of a policy for an element's text.
func hashSource(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}
