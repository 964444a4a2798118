// Package e2e tests what people look at in a real browser: headless Chromium
// against Caddy as it is built from cmd/caddy, over HTTP/1.1 and HTTP/2. It is
// a module of its own, so that nobody else depends on a browser's remote
// control.
//
// Without a chromium in the PATH the tests are skipped, or fail where CI is
// true. Screenshots go to artifacts.
package e2e
