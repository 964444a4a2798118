package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
)

// host is where and with what was measured.
type host struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
	Caddy  string `json:"caddy"`
	GoSSE  string `json:"go_sse"`
	Nginx  string `json:"nginx"`
	Nchan  string `json:"nchan"`
	Commit string `json:"commit"`
	Load   string `json:"load"` // load averages of 1, 5 and 15 minutes when the measurement began
}

// describeHost asks around. What it cannot find out is "unknown".
func describeHost(ctx context.Context) host {
	h := host{
		CPU:    orUnknown(procLine("/proc/cpuinfo", "model name")),
		Cores:  runtime.NumCPU(),
		Kernel: orUnknown(procLine("/proc/version", "")),
		Go:     runtime.Version(),
		Caddy:  moduleVersion("github.com/caddyserver/caddy/v2"),
		GoSSE:  moduleVersion("github.com/tmaxmax/go-sse"),
		Nginx:  "not installed",
		Nchan:  "not installed",
		Load:   orUnknown(loadAverages()),
		Commit: orUnknown(output(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12")),
	}
	if program, err := findNginx(); err == nil {
		_, version, _ := strings.Cut(output(ctx, program, "-v"), "/")
		h.Nginx = orUnknown(version)
		h.Nchan = orUnknown(output(ctx, "dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan"))
	}
	return h
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// procLine returns the value of the first line that begins with a name; for
// the kernel's version, which has no name, its third word.
func procLine(file, name string) string {
	text, err := os.ReadFile(file) //nolint:gosec // in /proc
	if err != nil {
		return ""
	}
	if name == "" {
		if words := strings.Fields(string(text)); len(words) > 2 {
			return words[2]
		}
		return ""
	}
	for line := range bytes.Lines(text) {
		if key, value, ok := strings.Cut(string(line), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// loadAverages are those of the system, which say what else it does.
func loadAverages() string {
	text, err := os.ReadFile("/proc/loadavg")
	words := strings.Fields(string(text))
	if err != nil || len(words) < 3 {
		return ""
	}
	return strings.Join(words[:3], ", ")
}

func moduleVersion(path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == path {
				return dep.Version
			}
		}
	}
	return "unknown"
}

// output runs a program and returns what it says, in one line.
func output(ctx context.Context, program string, args ...string) string {
	text, err := exec.CommandContext(ctx, program, args...).CombinedOutput() //nolint:gosec // ours
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

func (h host) markdown(b *strings.Builder) {
	markdownTable(b, []string{"", ""})
	markdownRow(b, []string{"CPU", fmt.Sprintf("%s, %d cores", h.CPU, h.Cores)})
	for _, line := range [][2]string{
		{"kernel", h.Kernel},
		{"Go", h.Go},
		{"Caddy", h.Caddy},
		{"nginx", h.Nginx},
		{"nchan", h.Nchan},
		{"go-sse", h.GoSSE},
		{"commit", h.Commit},
		{"load average before", h.Load},
	} {
		markdownRow(b, line[:])
	}
}
