package main

import (
	"os"
)

func main() {
	if runRole(os.Args[1:]) {
		return
	}
	os.Exit(run(os.Args[1:]))
}
