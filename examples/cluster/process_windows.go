package main

import "syscall"

// attributes keeps Ctrl-C from a process: this one ends them. If this one is
// killed, they go on.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}
