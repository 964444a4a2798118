package natslog

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// heartbeat is how often a follower hears of its consumer while there are no
	// records. Three missed, and another one is made: it may be on a server that
	// has stopped.
	heartbeat = time.Second

	// consumerGone is after how long without a follower its consumer is removed.
	consumerGone = 30 * time.Second

	// batchMost and batchBytes bound what is handed over at once.
	batchMost  = 1024
	batchBytes = 1 << 20
)

// errInterrupted ends a follower after the connection has changed: it may have
// missed something.
var errInterrupted = errors.New("the connection to NATS has changed")

// consumer is an ordered consumer of JetStream: records are pushed in order, and
// what is missing is noticed by its number. It is made anew then, by the caller:
// on a server that has stopped a pull consumer takes twice as long to be missed.
type consumer struct {
	j       *jetStream
	name    string
	sub     *nats.Subscription
	changed chan struct{} // has a token when the connection has changed
	number  uint64        // of the newest message from it
}

// interrupt has the follower end. It does not block.
func (c *consumer) interrupt() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// follow implements engine.
func (j *jetStream) follow(ctx context.Context, from uint64, handle func([]message) error) error {
	c := &consumer{j: j, name: randomID(), changed: make(chan struct{}, 1)}
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return errInterrupted
	}
	j.followers[c] = struct{}{}
	j.mu.Unlock()
	defer func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.followers, c)
	}()
	inbox := j.nc.NewInbox()
	var err error
	if c.sub, err = j.nc.SubscribeSync(inbox); err != nil {
		return fmt.Errorf("subscribing to %s: %w", inbox, err)
	}
	defer func() { _ = c.sub.Unsubscribe() }()
	_ = c.sub.SetPendingLimits(-1, -1) // the server's flow control bounds it, at 32 MiB
	err = j.api(ctx, "CONSUMER.CREATE."+j.stream+"."+c.name, map[string]any{
		"stream_name": j.stream,
		"action":      "create",
		"config": map[string]any{
			"name": c.name, "deliver_subject": inbox, "deliver_policy": "by_start_sequence", "opt_start_seq": from,
			"ack_policy": "none", "max_deliver": 1, "replay_policy": "instant", "flow_control": true,
			"idle_heartbeat": heartbeat.Nanoseconds(), "inactive_threshold": consumerGone.Nanoseconds(),
			"num_replicas": 1, "mem_storage": true,
		},
	}, nil)
	if err != nil {
		return fmt.Errorf("following the stream %s: %w", j.stream, err)
	}
	defer c.remove()
	return c.run(ctx, handle)
}

// remove removes the consumer from the server, which else does so later.
func (c *consumer) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout/4)
	defer cancel()
	_ = c.j.api(ctx, "CONSUMER.DELETE."+c.j.stream+"."+c.name, nil, nil)
}

// run hands over what comes until something is missing.
func (c *consumer) run(ctx context.Context, handle func([]message) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go c.watch(ctx, cancel)
	var batch []message
	for {
		waiting, stop := context.WithTimeout(ctx, 3*heartbeat)
		msg, err := c.sub.NextMsgWithContext(waiting)
		stop()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("the consumer of %s is not heard of any more", c.j.stream)
		case err != nil:
			return fmt.Errorf("following the stream %s: %w", c.j.stream, err)
		}
		batch = batch[:0:0]
		for size := 0; ; {
			m, ok, err := c.take(msg)
			if err != nil {
				return err
			}
			if ok {
				batch = append(batch, m)
				size += len(m.data)
			}
			if waiting, _, _ := c.sub.Pending(); waiting == 0 || size >= batchBytes || len(batch) >= batchMost {
				break
			}
			if msg, err = c.sub.NextMsg(heartbeat); err != nil {
				break // the next wait says why
			}
		}
		if len(batch) == 0 {
			continue
		}
		if err := handle(batch); err != nil {
			return err
		}
	}
}

// watch ends run when the connection has changed. run owns it; it ends with its
// context.
func (c *consumer) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	select {
	case <-c.changed:
		cancel(errInterrupted)
	case <-ctx.Done():
	}
}

// take reads a message from the consumer. False: it has no record.
func (c *consumer) take(msg *nats.Msg) (message, bool, error) {
	if len(msg.Data) == 0 && msg.Header != nil && msg.Header.Get("Status") != "" {
		if msg.Header.Get("Status") != "100" {
			return message{}, false, fmt.Errorf("the consumer of %s has ended: %s", c.j.stream, msg.Header.Get("Description"))
		}
		if msg.Reply != "" { // flow control
			return message{}, false, c.j.nc.Publish(msg.Reply, nil)
		}
		if stalled := msg.Header.Get("Nats-Consumer-Stalled"); stalled != "" {
			return message{}, false, c.j.nc.Publish(stalled, nil)
		}
		if last, err := strconv.ParseUint(msg.Header.Get("Nats-Last-Consumer"), 10, 64); err == nil && last > c.number {
			return message{}, false, c.missing(last)
		}
		return message{}, false, nil
	}
	meta := strings.Split(msg.Reply, ".")
	// $JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<number>.<time>.<pending>,
	// with <domain>.<account> after $JS.ACK in a longer form
	const sequence, number = -4, -3
	if len(meta) < 9 || meta[1] != "ACK" {
		return message{}, false, fmt.Errorf("a message of the consumer of %s cannot be read: its subject is %s", c.j.stream, msg.Reply)
	}
	end := len(meta)
	if end > 11 { // the long form has a random token at its end
		end--
	}
	seq, err1 := strconv.ParseUint(meta[end+sequence], 10, 64)
	n, err2 := strconv.ParseUint(meta[end+number], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return message{}, false, fmt.Errorf("a message of the consumer of %s cannot be read: %w", c.j.stream, err)
	}
	if n != c.number+1 {
		return message{}, false, c.missing(n)
	}
	c.number = n
	return message{seq, msg.Data}, true, nil
}

func (c *consumer) missing(n uint64) error {
	return fmt.Errorf("message %d of the consumer of %s came after %d", n, c.j.stream, c.number)
}

// read implements engine, by a direct get of a batch, which any replica answers.
func (j *jetStream) read(ctx context.Context, from uint64, count, size int) ([]message, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	subject := "$JS.API.DIRECT.GET." + j.stream
	inbox := j.nc.NewInbox()
	sub, err := j.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("subscribing to %s: %w", inbox, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	_ = sub.SetPendingLimits(-1, -1) // size bounds it
	question := fmt.Sprintf(`{"seq":%d,"batch":%d,"max_bytes":%d}`, from, count, size)
	if err := j.nc.PublishRequest(subject, inbox, []byte(question)); err != nil {
		return nil, j.explain(subject, err)
	}
	var records []message
	for {
		msg, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			if len(records) > 0 {
				return records, nil
			}
			return nil, j.explain(subject, err)
		}
		switch status := msg.Header.Get("Status"); status {
		case "":
		case "204", "404": // the end; nothing there
			return records, nil
		case "503":
			return nil, j.explain(subject, nats.ErrNoResponders)
		default:
			return nil, fmt.Errorf("reading from the stream %s: %s %s", j.stream, status, msg.Header.Get("Description"))
		}
		seq, err := strconv.ParseUint(msg.Header.Get(jetstream.SequenceHeader), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("reading from the stream %s: %w", j.stream, err)
		}
		records = append(records, message{seq, msg.Data})
	}
}
