package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// nginxModule is where Debian's package puts nchan.
const nginxModule = "/usr/lib/nginx/modules/ngx_nchan_module.so"

// nginxConfig is what nginx runs with.
type nginxConfig struct {
	Dir    string // for its files
	Config string
}

// nginxRole runs nginx in the foreground until stdin ends. Command: start,
// which returns the id of its first process.
func nginxRole(c *commands) error {
	var nginx *exec.Cmd
	handle(c, "start", func(cfg nginxConfig) (int, error) {
		program, err := findNginx()
		if err != nil {
			return 0, err
		}
		file := filepath.Join(cfg.Dir, "nginx.conf")
		if err := os.WriteFile(file, []byte(cfg.Config), 0o600); err != nil {
			return 0, fmt.Errorf("writing the configuration: %w", err)
		}
		nginx = exec.Command(program, "-p", cfg.Dir, "-c", file, "-e", "stderr") //nolint:gosec // where it was found
		nginx.Stderr = os.Stderr
		if err := nginx.Start(); err != nil {
			return 0, fmt.Errorf("starting nginx: %w", err)
		}
		return nginx.Process.Pid, nil
	})
	err := c.serve()
	if nginx != nil && nginx.Process != nil {
		_ = nginx.Process.Signal(syscall.SIGTERM)
		_ = nginx.Wait()
	}
	return err
}

var errNoNchan = errors.New("not installed: apt-get install nginx libnginx-mod-nchan")

// findNginx returns the path of an nginx that has nchan.
func findNginx() (string, error) {
	program, err := exec.LookPath("nginx")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/nginx"); err != nil {
			return "", errNoNchan
		}
	}
	if _, err := os.Stat(nginxModule); err != nil {
		return "", errNoNchan
	}
	return program, nil
}
