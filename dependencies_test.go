package ssefanin

import (
	"os/exec"
	"strings"
	"testing"
)

// A Caddy without log jetstream has nothing of NATS in it: that module is one of
// its own. The workspace would hide a dependency that came in by mistake.
func TestModuleDoesNotDependOnNATS(t *testing.T) {
	cmd := exec.Command("go", "list", "-m", "all")
	cmd.Env = append(cmd.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly")
	modules, err := cmd.Output()
	if err != nil {
		t.Fatalf("listing the modules: %v", err)
	}
	found := false
	for module := range strings.Lines(string(modules)) {
		found = found || strings.HasPrefix(module, "github.com/caddyserver/caddy/v2 ")
		if strings.HasPrefix(module, "github.com/nats-io/") {
			t.Errorf("it depends on %s", module)
		}
	}
	if !found {
		t.Error("Caddy is not among the modules")
	}
}
