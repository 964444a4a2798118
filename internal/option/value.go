// Package option reads and validates the options of a configuration, for the
// plugin and for the modules of this repository that keep logs: in a Caddyfile
// with errors that name the place and what would be right, and the values alike
// for Caddyfile and JSON.
package option

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
)

// The values of a Switch.
const (
	On  = "on"
	Off = "off"
)

// CheckWord validates that a setting has one of its words, or none.
func CheckWord(setting, got string, want ...string) error {
	if got == "" || slices.Contains(want, got) {
		return nil
	}
	return fmt.Errorf("%s: unrecognized value '%s', expected %s", setting, got, strings.Join(want, " or "))
}

func CheckSize(setting string, n, most int64) error {
	switch {
	case n < 0:
		return fmt.Errorf("%s: %d is negative", setting, n)
	case n > most:
		return fmt.Errorf("%s: %d bytes is too much, it must be at most %s", setting, n, humanize.IBytes(uint64(most)))
	}
	return nil
}

// Switch is `on` or `off`. In JSON also true or false.
type Switch string

// UnmarshalJSON accepts a string or a boolean.
func (s *Switch) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "true":
		*s = On
	case "false":
		*s = Off
	default:
		return json.Unmarshal(b, (*string)(s))
	}
	return nil
}
