package jetstream

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
	"github.com/sse-fanin/caddy-sse-fanin/jetstream/internal/natslog"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// Without any of the permissions in the documentation, something is denied.
func TestNoPermissionIsToSpare(t *testing.T) {
	allowed := documented(t).Users[0].Permissions
	lacking := make(map[string]*server.Permissions)
	for i, subject := range allowed.Publish.Allow {
		lacking["publish "+subject] = &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: slices.Delete(slices.Clone(allowed.Publish.Allow), i, i+1)},
			Subscribe: allowed.Subscribe,
		}
	}
	for i, subject := range allowed.Subscribe.Allow {
		lacking["subscribe "+subject] = &server.Permissions{
			Publish:   allowed.Publish,
			Subscribe: &server.SubjectPermission{Allow: slices.Delete(slices.Clone(allowed.Subscribe.Allow), i, i+1)},
		}
	}
	for what, permissions := range lacking {
		t.Run(what, func(t *testing.T) {
			_, subject, _ := strings.Cut(what, " ")
			nats := startNATS(t, &server.Options{Users: []*server.User{{Username: "caddy", Password: password, Permissions: permissions}}})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var using sync.WaitGroup
			defer using.Wait()
			defer cancel()
			using.Go(func() { useLog(ctx, nats.url("nats")) })
			must(t, ssetest.Await(patience, "it is denied", func() bool { return len(nats.denied()) > 0 }))
			for _, line := range nats.denied() {
				if begin, _, _ := strings.Cut(subject, "*"); !strings.Contains(line, strings.TrimSuffix(begin, ">")) {
					t.Errorf("something else is denied: %s", line)
				}
			}
		})
	}
}

// A node that may not append says so, with the subject, in Caddy's log and in its
// status.
func TestWhoMayNotAppendIsTold(t *testing.T) {
	permissions := documented(t).Users[0].Permissions
	permissions.Publish.Allow = slices.DeleteFunc(permissions.Publish.Allow, func(subject string) bool { return subject == "sse_fanin.live.>" })
	nats := startNATS(t, &server.Options{Users: []*server.User{{Username: "caddy", Password: password, Permissions: permissions}}})
	core, lines := observer.New(zap.ErrorLevel)
	store, err := natslog.Open(t.Context(), natslog.Options{
		Stream: "live", Servers: []string{nats.url("nats")}, User: "caddy", Password: password,
		Lease: time.Second, Logger: zap.New(core),
	})
	must(t, err)
	defer store.Close()
	go store.Campaign(t.Context()) //nolint:errcheck // Close ends it
	const denied = `permissions violation for publish to "sse_fanin.live.log"`
	must(t, ssetest.Await(patience, "the status says what is denied", func() bool {
		err := store.Status().Err
		return err != nil && strings.Contains(strings.ToLower(err.Error()), denied)
	}))
	err = ssetest.Await(patience, "a line about what is denied", func() bool {
		return slices.ContainsFunc(lines.All(), func(line observer.LoggedEntry) bool {
			err, _ := line.ContextMap()["error"].(string)
			return line.Message == "NATS does not permit what the log takes" && strings.Contains(strings.ToLower(err), denied)
		})
	})
	if err != nil {
		t.Errorf("%v; got %v", err, lines.All())
	}
}

// useLog does on one log all that two nodes may do, until ctx ends.
func useLog(ctx context.Context, url string) {
	options := natslog.Options{
		Stream: "live", Servers: []string{url}, User: "caddy", Password: password,
		Lease: time.Second, Bounds: logstore.Bounds{Bytes: 64 << 20}, Logger: zap.NewNop(),
	}
	open := func() *natslog.Store {
		for ctx.Err() == nil {
			if store, err := natslog.Open(ctx, options); err == nil {
				return store
			}
		}
		return nil
	}
	first := open()
	if first == nil {
		return
	}
	defer first.Close()
	second := open()
	if second == nil {
		return
	}
	defer second.Close()
	second.Answer(func(question []byte) []byte { return question })
	go second.Follow(ctx, 1, func([]logstore.Record) {}) //nolint:errcheck // Close ends it
	go first.Follow(ctx, 1, func([]logstore.Record) {})  //nolint:errcheck // Close ends it
	first.Tell([]byte("something"))
	first.SetBounds(logstore.Bounds{Bytes: 32 << 20})
	term, err := first.Campaign(ctx)
	if err != nil {
		return
	}
	for ctx.Err() == nil {
		err := term.Append(&logstore.Record{Time: time.Now().UnixMilli(), Source: "a", Body: make([]byte, 4<<10)})
		if errors.Is(err, logstore.ErrNoRoom) {
			err = term.Wait(ctx)
		}
		if err != nil {
			return
		}
		_, _ = first.Read(ctx, max(first.Status().Last, 1), 1)
		_, _ = first.Ask(ctx, second.Node(), []byte("question"))
	}
}
