package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

// reload has a Caddy load the configuration again with which it was started.
func (r *running) reload(ctx context.Context) error {
	if r.admin == "" {
		return fmt.Errorf("%w: it has no endpoint for a new configuration", errUnavailable)
	}
	text, err := os.ReadFile(r.config)
	if err != nil {
		return fmt.Errorf("reloading: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/load", bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("reloading: %w", err)
	}
	req.Header.Set("Content-Type", "text/caddyfile")
	req.Header.Set("Cache-Control", "must-revalidate") // although nothing has changed
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", r.admin)
	}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return fmt.Errorf("reloading: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, maxOutput))
		return fmt.Errorf("reloading: %s: %s", resp.Status, bytes.TrimSpace(said))
	}
	return nil
}
