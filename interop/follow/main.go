// Command follow follows a stream with one of Go's libraries for event streams,
// and prints every message:
//
//	follow <library> <url> <type>...
//
// The types are for programs in other languages: these libraries hand out all.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
)

// maxEvent is the largest event that libraries with a limit are to accept: more
// than a stream has with the default max_event_size of 1 MiB.
const maxEvent = 2 << 20

// libraries has a function for each of them, which returns only when it cannot
// go on.
var libraries = map[string]func(url string) error{
	"r3labs/sse":               followR3labs,
	"tmaxmax/go-sse":           followTmaxmax,
	"launchdarkly/eventsource": followLaunchDarkly,
	"donovanhide/eventsource":  followDonovanhide,
}

// message is one line of the output.
type message struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	Data string `json:"data"`
}

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: follow <library> <url> <type>...")
	}
	follow := libraries[os.Args[1]]
	if follow == nil {
		log.Fatalf("unknown library %q", os.Args[1]) //nolint:gosec // to whoever has called it so
	}
	log.Fatal(follow(os.Args[2]))
}

func show(typ, id, data string) {
	line, err := json.Marshal(message{typ, id, data})
	if err != nil {
		log.Fatal(err) // strings always can be written
	}
	fmt.Println(string(line))
}
