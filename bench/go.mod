module github.com/sse-fanin/caddy-sse-fanin/bench

go 1.26.0

replace github.com/sse-fanin/caddy-sse-fanin => ../

require (
	github.com/launchdarkly/eventsource v1.11.0
	github.com/sse-fanin/caddy-sse-fanin v0.0.0-00010101000000-000000000000
	github.com/tmaxmax/go-sse v0.12.0
)

require github.com/stretchr/testify v1.12.1 // indirect
