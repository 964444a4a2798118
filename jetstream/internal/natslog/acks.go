package natslog

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// errUnacknowledged is for publications whose acknowledgement nobody waits for
// any more.
var errUnacknowledged = errors.New("it was not acknowledged")

// mostExpected bounds the acknowledgements that are waited for. A term waits for
// fewer; those that never come are forgotten, oldest first.
const mostExpected = 4 * mostInFlight

// acks are the acknowledgements that publications of one log wait for. The
// client library has the same, but publishes again by itself, which would break
// the chain.
type acks struct {
	sub   *nats.Subscription
	inbox string // the subject of an acknowledgement is this and a number

	mu      sync.Mutex // protects the fields below
	last    uint64
	oldest  uint64 // that may be waiting
	waiting map[uint64]func(uint64, error)
}

func newAcks(nc *nats.Conn) (*acks, error) {
	a := &acks{inbox: nc.NewInbox() + ".", waiting: make(map[uint64]func(uint64, error)), oldest: 1}
	var err error
	if a.sub, err = nc.Subscribe(a.inbox+"*", a.receive); err != nil {
		return nil, fmt.Errorf("subscribing to %s: %w", a.inbox+"*", err)
	}
	return a, nil
}

// expect returns the subject of the acknowledgement that done is to be called
// with: the sequence, or an error.
func (a *acks) expect(done func(uint64, error)) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last++
	a.waiting[a.last] = done
	for len(a.waiting) > mostExpected {
		delete(a.waiting, a.oldest)
		a.oldest++
	}
	return a.inbox + strconv.FormatUint(a.last, 10)
}

// take returns what waits for an acknowledgement, once.
func (a *acks) take(subject string) func(uint64, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(subject, a.inbox), 10, 64)
	if err != nil {
		return func(uint64, error) {}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	done := a.waiting[n]
	delete(a.waiting, n)
	if done == nil {
		return func(uint64, error) {}
	}
	return done
}

func (a *acks) receive(msg *nats.Msg) {
	done := a.take(msg.Subject)
	if len(msg.Data) == 0 && msg.Header.Get("Status") == "503" {
		done(0, nats.ErrNoResponders)
		return
	}
	done(readAck(msg.Data))
}

// fail says that a publication was not even sent.
func (a *acks) fail(subject string, err error) { a.take(subject)(0, err) }

// close forgets what is waited for.
func (a *acks) close() {
	drain(a.sub)
	a.mu.Lock()
	waiting := a.waiting
	a.waiting = make(map[uint64]func(uint64, error))
	a.mu.Unlock()
	for _, done := range waiting {
		done(0, errUnacknowledged)
	}
}

// readAck returns the sequence of an acknowledgement.
func readAck(p []byte) (uint64, error) {
	var ack struct {
		Seq   uint64              `json:"seq"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(p, &ack); err != nil {
		return 0, fmt.Errorf("reading an acknowledgement: %w", err)
	}
	if ack.Error != nil {
		return 0, ack.Error
	}
	return ack.Seq, nil
}

// drain ends a subscription and waits until its callback is not running. It is
// not to be called from there.
func drain(sub *nats.Subscription) {
	if sub == nil {
		return
	}
	ended := make(chan struct{})
	sub.SetClosedHandler(func(string) { close(ended) })
	if sub.Unsubscribe() == nil {
		<-ended
	}
}
