package doccheck

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Adapt is `caddy adapt --pretty`.
func Adapt(text string) (string, error) {
	raw, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return "", err
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, raw, "", "\t"); err != nil {
		return "", err
	}
	return pretty.String(), nil
}

// ValidateJSON is `caddy validate`, without logs.
func ValidateJSON(raw string) error {
	var cfg caddy.Config
	if err := caddy.StrictUnmarshalJSON([]byte(raw), &cfg); err != nil {
		return err
	}
	cfg.Admin = &caddy.AdminConfig{Disabled: true}
	cfg.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{
		"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output":"discard"}`)}},
	}}
	return caddy.Validate(&cfg)
}

// ValidateCaddyfile is the same for a Caddyfile.
func ValidateCaddyfile(text string) error {
	raw, err := Adapt(text)
	if err != nil {
		return err
	}
	return ValidateJSON(raw)
}

// siteDirective matches what begins an excerpt of a site, rather than a whole
// Caddyfile.
var siteDirective = regexp.MustCompile(`^(@|(sse_fanin|reverse_proxy|handle|handle_path|route|basic_auth|forward_auth|encode|header|log)\b)`)

// CheckExample validates that a Caddyfile, or an excerpt of a site, is valid and
// formatted as `caddy fmt` does.
func CheckExample(t *testing.T, file string, line int, text string) {
	t.Helper()
	if formatted := string(caddyfile.Format([]byte(text))); formatted != text {
		t.Errorf("%s:%d: not formatted; caddy fmt gives\n%s", file, line, formatted)
	}
	for _, m := range regexp.MustCompile(`\{(?:\$|env\.)([A-Za-z0-9_]+)`).FindAllStringSubmatch(text, -1) {
		value := "value"
		if strings.Contains(m[1], "URL") {
			value = "https://example.com/events"
		}
		if os.Getenv(m[1]) == "" {
			t.Setenv(m[1], value)
		}
	}
	for first := range strings.Lines(text) {
		first = strings.TrimSpace(first)
		if first == "" || strings.HasPrefix(first, "#") {
			continue
		}
		if siteDirective.MatchString(first) {
			text = ":8080 {\n" + text + "}\n"
		}
		break
	}
	if err := ValidateCaddyfile(text); err != nil {
		t.Errorf("%s:%d: %v", file, line, err)
	}
}
