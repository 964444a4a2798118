package natslog

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// say implements engine.
func (j *jetStream) say(p []byte) { _ = j.nc.Publish(j.names.say, p) }

// ask implements engine.
func (j *jetStream) ask(ctx context.Context, node string, question []byte) ([]byte, error) {
	msg, err := j.nc.RequestWithContext(ctx, j.names.ask+token(node), question)
	switch {
	case err == nil:
		return msg.Data, nil
	case errors.Is(err, nats.ErrNoResponders):
		return nil, logstore.ErrNoAnswer
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, fmt.Errorf("%w: %w", logstore.ErrNoAnswer, err)
}

// listen implements engine. Its own messages come back to a connection; said
// recognises them.
func (j *jetStream) listen(node string, said func([]byte), answer func([]byte) []byte) error {
	for subject, handle := range map[string]nats.MsgHandler{
		j.names.say: func(msg *nats.Msg) { said(msg.Data) },
		j.names.ask + token(node): func(msg *nats.Msg) {
			_ = msg.Respond(answer(msg.Data))
		},
	} {
		sub, err := j.nc.Subscribe(subject, handle)
		if err != nil {
			return fmt.Errorf("subscribing to %s: %w", subject, err)
		}
		j.mu.Lock()
		j.subs = append(j.subs, sub)
		j.mu.Unlock()
	}
	return nil
}
