// Package scenarios has the tests in which three Caddys, built from
// cmd/caddy-cluster, share a log on three nats-server, all of them processes that
// are killed, stopped and cut off, while clients check every event that they get.
//
// By default each scenario runs once and briefly, and only what it must not do to
// the events is judged. With -long, how long it takes is judged as well, over
// -rounds rounds; the scenarios then have the machine for themselves. .ci/run has
// fewer rounds than the default, which takes about 20 minutes:
//
//	go test ./scenarios -v -timeout 1h -args -long
package scenarios
