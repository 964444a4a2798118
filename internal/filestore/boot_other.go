//go:build !darwin

package filestore

import (
	"os"
	"strings"
)

// bootID returns an id of the machine's present boot; empty where there is
// none, which is regarded as another boot each time.
func bootID() string {
	body, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(body))
}
