//go:build unix && !linux

package main

import "syscall"

// attributes keeps Ctrl-C from a process: this one ends them in order. If this one
// is killed, they go on.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
