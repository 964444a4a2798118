// Package e2e tests what people look at in a real browser: headless Chromium
// against Caddy as it is built from cmd/caddy, over HTTP/1.1 and HTTP/2, and
// against examples/cluster. It is a module of its own, so that nobody else
// depends on a browser's remote control. axe-core looks at the pages, in both
// colours and on a small screen, and they may not keep a processor busy.
//
// The client library is tested in Firefox as well.
//
// It also runs what the pages in docs have for clients and proxies: each example of
// docs/clients.md in the browser or as a program, and Caddy behind each of the
// proxies of docs/deploying.md. Those whose program is missing are skipped.
//
// Without a chromium in the PATH the tests are skipped, or fail where CI is
// true; without a firefox-esr, its test is skipped. Screenshots go to artifacts. With -pictures a test makes those of the
// README.
package e2e
