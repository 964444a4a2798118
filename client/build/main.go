// Command build makes sse-fanin-client.js, which is what the package ships, out
// of src: one ES module, minified by esbuild. It is a Go module of its own, so
// that nobody else depends on esbuild. Its test fails if the file is not what src
// makes, or too large.
package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/evanw/esbuild/pkg/api"
)

// From where the command and its test run.
const (
	entry = "../src/stream.js"
	made  = "../sse-fanin-client.js"
)

func main() {
	text, err := library()
	if err == nil {
		err = os.WriteFile(made, text, 0o644) //nolint:gosec // for everybody to read
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "making %s: %v\n", made, err)
		os.Exit(1)
	}
}

// library returns the text of the library.
func library() ([]byte, error) {
	result := api.Build(api.BuildOptions{
		EntryPoints:       []string{entry},
		Bundle:            true,
		Format:            api.FormatESModule,
		Target:            api.ES2021,
		MinifyWhitespace:  true,
		MinifyIdentifiers: true,
		MinifySyntax:      true,
		Banner:            map[string]string{"js": "// sse-fanin-client, Apache-2.0, made from src"},
	})
	problems := slices.Concat(result.Errors, result.Warnings)
	errs := make([]error, 0, len(problems))
	for _, e := range problems {
		where := entry
		if e.Location != nil {
			where = fmt.Sprintf("%s:%d", e.Location.File, e.Location.Line)
		}
		errs = append(errs, fmt.Errorf("%s: %s", where, e.Text))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return result.OutputFiles[0].Contents, nil
}
