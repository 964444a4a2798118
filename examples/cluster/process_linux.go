package main

import "syscall"

// attributes has a process end when this one is killed. Ctrl-C is not for the
// process: this one ends them in order.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
