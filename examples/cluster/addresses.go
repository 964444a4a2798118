package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"

	"github.com/sse-fanin/caddy-sse-fanin/internal/demo"
)

// loopbackAddress returns listen with its port filled in, or an error if nothing
// can listen there, or others than this machine could connect.
func loopbackAddress(listen string) (string, error) {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("reading the address to listen on: %w", err)
	}
	if !isLoopback(host) {
		return "", fmt.Errorf("listening on %s: whoever opens the page can kill processes, so the host has to be of the loopback interface, such as 127.0.0.1", listen)
	}
	listen, err = demo.FreeAddress(listen)
	if err != nil {
		return "", fmt.Errorf("%w (choose another address with -listen, such as -listen 127.0.0.1:0)", err)
	}
	return listen, nil
}

// isLoopback reports whether a host is this machine, for this machine only.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

const (
	// Ports that no outgoing connection is given by Linux, macOS or Windows: that
	// of a process is still free when it is started again.
	firstPort = 18000
	lastPort  = 32000
)

// freeAddresses returns n addresses of the loopback interface that nobody listens
// on.
func freeAddresses(n int) ([]string, error) {
	free := make([]string, 0, n)
	offset := rand.IntN(lastPort - firstPort)
	for i := range lastPort - firstPort {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+(offset+i)%(lastPort-firstPort)))
		ln, err := net.Listen("tcp", address)
		if err != nil {
			continue // somebody else's
		}
		if err := ln.Close(); err != nil {
			return nil, err
		}
		if free = append(free, address); len(free) == n {
			return free, nil
		}
	}
	return nil, errors.New("finding free ports on 127.0.0.1: there are not enough")
}
