package main

import (
	"bytes"
	"net"
	"net/http"
)

// rawRole is the floor: one loop that does one write for each client and
// event, or for the events that came together, and nothing else. Command: start, which returns the address.
func rawRole(c *commands) error {
	handle(c, "start", func(cfg goServerConfig) (string, error) {
		out := newFanout(false)
		err := followAll(cfg.Origins, func(events [][]byte) {
			out.publish(bytes.Join(events, nil)) // what came together goes together
		})
		if err != nil {
			return "", err
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		go serveFanout(l, func(*http.Request) *fanout { return out })
		return l.Addr().String(), nil
	})
	return c.serve()
}
