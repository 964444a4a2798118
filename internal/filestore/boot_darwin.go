package filestore

import "syscall"

// bootID returns an id of the machine's present boot; empty where there is
// none, which is regarded as another boot each time.
func bootID() string {
	id, err := syscall.Sysctl("kern.bootsessionuuid")
	if err != nil {
		return ""
	}
	return id
}
