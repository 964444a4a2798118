package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"

	gosse "github.com/tmaxmax/go-sse"
)

// gosseRole is the server of a library, as its documentation shows it. Command:
// start, which returns the address.
func gosseRole(c *commands) error {
	handle(c, "start", func(cfg goServerConfig) (string, error) {
		server := &gosse.Server{OnSession: func(w http.ResponseWriter, _ *http.Request) ([]string, bool) {
			startEventStream(w) // it sends the head with the first event only
			return nil, true
		}}
		err := followAll(cfg.Origins, func(events [][]byte) {
			for _, event := range events {
				id, data := originFields(event)
				msg := &gosse.Message{ID: gosse.ID(string(id))}
				msg.AppendData(string(data))
				if err := server.Publish(msg); err != nil {
					fmt.Fprintln(os.Stderr, "publishing:", err)
				}
			}
		})
		if err != nil {
			return "", err
		}
		return serveGo(server, cfg)
	})
	return c.serve()
}

// originFields returns the id and the data of an event as the origin writes
// it.
func originFields(event []byte) (id, data []byte) {
	first, rest, _ := bytes.Cut(event, []byte{'\n'})
	second, _, _ := bytes.Cut(rest, []byte{'\n'})
	return bytes.TrimPrefix(first, fieldID), bytes.TrimPrefix(second, fieldData)
}
