package jetstream

import (
	"strings"

	"github.com/sse-fanin/caddy-sse-fanin/internal/urltext"
	"github.com/sse-fanin/caddy-sse-fanin/jetstream/internal/natslog"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// Advise implements logstore.Adviser. The commands are those of NATS's own tool,
// and leave the login out.
func (l *Log) Advise(stream string) logstore.Advice {
	servers := make([]string, len(l.Servers))
	for i, server := range l.Servers {
		servers[i] = urltext.Redact(server)
	}
	nats := []string{"nats", "--server", strings.Join(servers, ",")}
	return logstore.Advice{
		Text: "Look whether the NATS servers run, can be reached from here, and have a majority of the replicas.",
		Commands: [][]string{
			append(nats[:3:3], "server", "check", "connection"),
			append(nats[:3:3], "stream", "info", natslog.StreamName(l.Prefix, stream)),
		},
	}
}
