package ssefanin

import (
	"errors"
	"flag"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/sse-fanin/caddy-sse-fanin/internal/doccheck"
)

// update rewrites what the golden files expect; look at the difference.
var update = flag.Bool("update", false, "rewrite the expectations in testdata/adapt")

// The files are in the format of Caddy's own adapt tests: a Caddyfile, a line
// of dashes, and the JSON or the error it gives.
func TestAdaptGolden(t *testing.T) {
	setFeedEnv(t)
	const dashes = "\n----------\n"
	files, err := filepath.Glob("testdata/adapt/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			text, want, ok := strings.Cut(string(content), dashes)
			if !ok {
				t.Fatal("no line of dashes")
			}
			text += "\n"
			got, err := doccheck.Adapt(text)
			if err != nil {
				got = err.Error()
			} else {
				if formatted := string(caddyfile.Format([]byte(text))); formatted != text {
					t.Errorf("not formatted; caddy fmt gives\n%s", formatted)
				}
				if err := doccheck.ValidateJSON(got); err != nil {
					t.Errorf("validating: %v", err)
				}
			}
			if *update {
				if err := os.WriteFile(file, []byte(strings.TrimSuffix(text, "\n")+dashes+got+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != strings.TrimSuffix(want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// setFeedEnv sets the variables that the configurations of the tests use.
func setFeedEnv(t *testing.T) {
	t.Helper()
	for name, value := range map[string]string{
		"FEED_URL":   "https://url.example.com/events",
		"FEED_HOST":  "host.example.com",
		"FEED_TOKEN": "s3cret",
		"FEED_NAME":  "name.example.com",
		"FEED_DIR":   "/var/lib/caddy/feed",

		"FEED_HOST_URL":  "https://host.example.com",
		"FEED_KEYED_URL": "https://host.example.com/{http.request.uri.query.s3cret}",
		"FEED_SOCKET":    "unix//run/feed.sock",
	} {
		t.Setenv(name, value)
	}
}

// Every subdirective of the syntax comment stands in the golden file that has
// them all, and the other way round.
func TestGoldenHasEverySubdirective(t *testing.T) {
	words := func(text string) map[string]bool {
		found := make(map[string]bool)
		for line := range strings.Lines(text) {
			fields := strings.Fields(line)
			if len(fields) > 0 && regexp.MustCompile(`^[a-z_]+$`).MatchString(fields[0]) {
				found[fields[0]] = true
			}
		}
		return found
	}
	golden, err := os.ReadFile("testdata/adapt/every_subdirective.caddyfiletest")
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(string(golden), "\n----------\n")
	told, used := words(syntaxComment(t)), words(text)
	for word := range told {
		if !used[word] {
			t.Errorf("%s is in the syntax comment, but not in the golden file", word)
		}
	}
	for word := range used {
		switch {
		case told[word], word == "sse_fanin", word == "dial_timeout", slices.Contains(logWords, word):
		default:
			t.Errorf("%s is in the golden file, but not in the syntax comment", word)
		}
	}
}

func TestExamplesAreValid(t *testing.T) {
	n := 0
	err := filepath.WalkDir("examples", func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasPrefix(entry.Name(), "Caddyfile") {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		n++
		doccheck.CheckExample(t, path, 1, string(content))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		t.Error("examples has no Caddyfile")
	}
}

// A Caddyfile with a word too few, too many or in the wrong place is valid or
// an error.
func TestCaddyfileNeverPanics(t *testing.T) {
	setFeedEnv(t)
	word := regexp.MustCompile(`\S+`)
	for _, name := range []string{"every_subdirective", "global_streams", "log_file"} {
		content, err := os.ReadFile("testdata/adapt/" + name + ".caddyfiletest")
		if err != nil {
			t.Fatal(err)
		}
		text, _, _ := strings.Cut(string(content), "\n----------\n")
		for _, at := range word.FindAllStringIndex(text, -1) {
			before, this, after := text[:at[0]], text[at[0]:at[1]], text[at[1]:]
			for _, changed := range []string{"", this + " " + this, `""`, "{", "}", "{ }"} {
				func() {
					defer func() {
						if p := recover(); p != nil {
							t.Errorf("%s\n%v", before+changed+after, p)
						}
					}()
					_, _ = doccheck.Adapt(before + changed + after)
				}()
			}
		}
	}
}

func TestValidateOpensNoConnection(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := doccheck.ValidateCaddyfile(":8080 {\n\tsse_fanin http://" + ln.Addr().String() + "\n}\n"); err != nil {
		t.Fatal(err)
	}
	// a connection would be waiting, or on its way
	if err := ln.(*net.TCPListener).SetDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := ln.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("accepting: %v", err)
	}
}
