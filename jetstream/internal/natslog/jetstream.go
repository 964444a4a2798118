package natslog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

const (
	// requestTimeout bounds a question to JetStream. What it would have been
	// answered with later is of no use: the question is asked again.
	requestTimeout = 2 * time.Second

	// askEvery is how often a question that changes nothing is asked until then. What
	// is asked while there is no leader is answered by nobody, even if there is one a
	// moment later.
	askEvery = requestTimeout / 4

	// changeTimeout bounds the making and changing of a stream, which a cluster
	// takes some time for.
	changeTimeout = 5 * time.Second

	// leastAge is the shortest time for which JetStream retains records.
	leastAge = 100 * time.Millisecond

	// recordHeaders is what the header of a published record takes, in bytes, and
	// some more.
	recordHeaders = 256
)

// The errors of the JetStream API that are told apart, by their code.
const (
	codeNoPeers        = 10005
	codeNoRecord       = 10037
	codeNotForAccount  = 10039
	codeNameInUse      = 10058
	codeNoStream       = 10059
	codeWrongLast      = 10071
	codeNoReplicas     = 10074
	codeNotEnabled     = 10076
	codeWrongLastConst = 10164
)

// Headers of records that are appended as one.
const (
	headerBatch         = "Nats-Batch-Id"
	headerBatchSequence = "Nats-Batch-Sequence"
	headerBatchCommit   = "Nats-Batch-Commit"
)

// Metadata of the JetStream stream.
const (
	metaStream      = "sse_fanin_stream"
	metaIncarnation = "sse_fanin_incarnation"
	metaOrigin      = "sse_fanin_origin"
)

// jetStream is an engine of NATS.
type jetStream struct {
	names
	conn     *connection
	nc       *nats.Conn
	title    string // name of the SSE stream
	replicas int

	acks *acks

	mu     sync.Mutex // protects the fields below
	subs   []*nats.Subscription
	bounds logstore.Bounds
	closed bool
	// of the followers: told when the connection has changed
	followers map[*consumer]struct{}
}

// openJetStream connects, and makes what is missing.
func openJetStream(ctx context.Context, o *Options) (*jetStream, error) {
	conn, err := connect(ctx, o)
	if err != nil {
		return nil, err
	}
	j := &jetStream{
		names: namesOf(o.Prefix, o.Stream), conn: conn, nc: conn.nc, title: o.Stream, replicas: o.Replicas, bounds: o.Bounds,
		followers: make(map[*consumer]struct{}),
	}
	if j.acks, err = newAcks(j.nc); err == nil {
		_, err = j.makeBucket(ctx)
	}
	if err != nil {
		j.close()
		return nil, err
	}
	j.warnOfReplicas(ctx, o.Logger)
	conn.watch(j, j.reconnect)
	return j, nil
}

// api asks JetStream something.
func (j *jetStream) api(ctx context.Context, subject string, question, answer any) error {
	timeout := requestTimeout
	if _, change := question.(*jetstream.StreamConfig); change {
		timeout = changeTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var p []byte
	if question != nil {
		var err error
		if p, err = json.Marshal(question); err != nil {
			return err
		}
	}
	ask := j.nc.RequestWithContext
	if strings.HasPrefix(subject, "STREAM.INFO.") || strings.HasPrefix(subject, "STREAM.MSG.GET.") {
		ask = j.askAgain
	}
	msg, err := ask(ctx, "$JS.API."+subject, p)
	if err != nil {
		return j.explain("$JS.API."+subject, err)
	}
	var failed struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(msg.Data, &failed); err != nil {
		return fmt.Errorf("reading the answer of %s: %w", subject, err)
	}
	if failed.Error != nil {
		return j.apiError(subject, failed.Error)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(msg.Data, answer)
}

// askAgain asks a question that changes nothing, again and again until one is
// answered.
func (j *jetStream) askAgain(ctx context.Context, subject string, question []byte) (*nats.Msg, error) {
	inbox := j.nc.NewInbox()
	sub, err := j.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	for {
		if err := j.nc.PublishRequest(subject, inbox, question); err != nil {
			return nil, err
		}
		waiting, cancel := context.WithTimeout(ctx, askEvery)
		msg, err := sub.NextMsgWithContext(waiting)
		cancel()
		switch {
		case err == nil && len(msg.Data) == 0 && msg.Header.Get("Status") == "503":
			return nil, nats.ErrNoResponders
		case err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
			return msg, err
		}
	}
}

// explain says what a question that was not answered most likely means.
func (j *jetStream) explain(subject string, err error) error {
	if denied := j.conn.violation(subject); denied != nil {
		return denied
	}
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("nothing answers %s: JetStream is not enabled on the NATS servers, or not for this account", subject)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("NATS does not answer %s in time", subject)
	}
	return fmt.Errorf("asking NATS for %s: %w", subject, err)
}

func (j *jetStream) apiError(subject string, e *jetstream.APIError) error {
	switch e.ErrorCode {
	case codeNoStream:
		return errNoStream
	case codeNoRecord:
		return errNoRecord
	case codeWrongLast, codeWrongLastConst:
		return errRefused
	case codeNotEnabled, codeNotForAccount:
		return fmt.Errorf("JetStream is not enabled for this account of NATS: %s", e.Description)
	case codeNoReplicas, codeNoPeers:
		return fmt.Errorf("%d replicas are asked for, and there are not as many NATS servers that can keep one: %s", j.replicas, e.Description)
	default:
		return fmt.Errorf("%s: %w", subject, e)
	}
}

// config returns what the stream is made with.
func (j *jetStream) config(incarnation string, first uint64) *jetstream.StreamConfig {
	j.mu.Lock()
	defer j.mu.Unlock()
	c := &jetstream.StreamConfig{
		Name: j.stream, Subjects: []string{j.records}, Description: "a stream of Server-Sent Events",
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld, Storage: jetstream.FileStorage,
		Replicas: j.replicas, FirstSeq: first, AllowDirect: true, AllowAtomicPublish: true, MaxConsumers: -1, MaxMsgsPerSubject: -1, MaxMsgSize: -1,
		Metadata: map[string]string{
			metaStream: j.title, metaIncarnation: incarnation, metaOrigin: strconv.FormatUint(first, 10),
		},
	}
	applyBounds(c, j.bounds)
	return c
}

func applyBounds(c *jetstream.StreamConfig, b logstore.Bounds) {
	c.MaxMsgs, c.MaxBytes, c.MaxAge = -1, -1, 0
	if b.Events > 0 {
		c.MaxMsgs = int64(b.Events) + 2*fenceLength // so that a takeover costs no event
	}
	if b.Bytes > 0 {
		c.MaxBytes = b.Bytes
	}
	if b.Age > 0 {
		c.MaxAge = max(b.Age, leastAge)
	}
	c.Duplicates = leastAge // nothing is looked for there
}

// info implements engine.
func (j *jetStream) info(ctx context.Context) (streamInfo, error) {
	var in jetstream.StreamInfo
	if err := j.api(ctx, "STREAM.INFO."+j.stream, nil, &in); err != nil {
		return streamInfo{}, err
	}
	meta := in.Config.Metadata
	origin, err := strconv.ParseUint(meta[metaOrigin], 10, 64)
	if meta[metaStream] != j.title || meta[metaIncarnation] == "" || err != nil {
		return streamInfo{}, fmt.Errorf("the JetStream stream %s is none that keeps the log of the stream '%s'; give the log another prefix", j.stream, j.title)
	}
	return streamInfo{meta[metaIncarnation], origin, max(in.State.FirstSeq, 1), in.State.LastSeq, int64(in.State.Bytes)}, nil
}

// create implements engine. It is for the bucket as well, which may be gone, too.
func (j *jetStream) create(ctx context.Context, incarnation string, first uint64) error {
	if _, err := j.makeBucket(ctx); err != nil {
		return err
	}
	err := j.api(ctx, "STREAM.CREATE."+j.stream, j.config(incarnation, first), nil)
	if e, ok := errors.AsType[*jetstream.APIError](err); ok && e.ErrorCode == codeNameInUse {
		return nil
	}
	return err
}

// warnOfReplicas says so where fewer servers keep the leases than the records.
// Logs with other options share the bucket, so it is not changed.
func (j *jetStream) warnOfReplicas(ctx context.Context, logger *zap.Logger) {
	var in jetstream.StreamInfo
	if err := j.api(ctx, "STREAM.INFO."+j.kv, nil, &in); err == nil && in.Config.Replicas < j.replicas {
		logger.Warn("fewer servers keep the bucket that says who writes than the log; change it with nats stream edit --replicas",
			zap.String("stream", j.kv), zap.Int("replicas", in.Config.Replicas), zap.Int("log", j.replicas))
	}
}

// makeBucket implements engine. The bucket's values are to be read from the leader,
// so it has no direct access.
func (j *jetStream) makeBucket(ctx context.Context) (made bool, err error) {
	err = j.api(ctx, "STREAM.INFO."+j.kv, nil, nil)
	if !errors.Is(err, errNoStream) {
		return false, err
	}
	err = j.api(ctx, "STREAM.CREATE."+j.kv, &jetstream.StreamConfig{
		Name: j.kv, Subjects: []string{"$KV." + j.bucket + ".>"}, Description: "who writes streams of Server-Sent Events",
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardNew, Storage: jetstream.FileStorage,
		Replicas: j.replicas, MaxMsgsPerSubject: 1, MaxMsgs: -1, MaxBytes: -1, MaxMsgSize: -1, MaxConsumers: -1,
		AllowRollup: true, DenyDelete: true, Duplicates: leastAge,
	}, nil)
	if e, ok := errors.AsType[*jetstream.APIError](err); ok && e.ErrorCode == codeNameInUse {
		return false, nil
	}
	return err == nil, err
}

// setBounds implements engine.
func (j *jetStream) setBounds(ctx context.Context, b logstore.Bounds) error {
	j.mu.Lock()
	j.bounds = b
	j.mu.Unlock()
	var in jetstream.StreamInfo
	if err := j.api(ctx, "STREAM.INFO."+j.stream, nil, &in); err != nil {
		return err
	}
	c := in.Config
	c.Metadata = maps.Clone(c.Metadata)
	maps.DeleteFunc(c.Metadata, func(key, _ string) bool { return key[0] == '_' }) // the server's own
	applyBounds(&c, b)
	c.Replicas = j.replicas
	if c.MaxMsgs == in.Config.MaxMsgs && c.MaxBytes == in.Config.MaxBytes && c.MaxAge == in.Config.MaxAge && c.Replicas == in.Config.Replicas {
		return nil
	}
	return j.api(ctx, "STREAM.UPDATE."+j.stream, &c, nil)
}

// storedMessage is what a leader answers that is asked for one message.
type storedMessage struct {
	Message struct {
		Seq  uint64 `json:"seq"`
		Data []byte `json:"data"`
	} `json:"message"`
}

// record implements engine. A direct get would be answered by any replica, also
// by one that is cut off.
func (j *jetStream) record(ctx context.Context, seq uint64) (message, error) {
	var m storedMessage
	err := j.api(ctx, "STREAM.MSG.GET."+j.stream, map[string]uint64{"seq": seq}, &m)
	return message{m.Message.Seq, m.Message.Data}, err
}

// load implements engine.
func (j *jetStream) load(ctx context.Context, key string) ([]byte, uint64, error) {
	var m storedMessage
	err := j.api(ctx, "STREAM.MSG.GET."+j.kv, map[string]string{"last_by_subj": j.keys + key}, &m)
	if errors.Is(err, errNoRecord) {
		return nil, 0, nil
	}
	return m.Message.Data, m.Message.Seq, err
}

// save implements engine.
func (j *jetStream) save(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	msg := &nats.Msg{Subject: j.keys + key, Data: value, Header: nats.Header{
		jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(rev, 10)},
	}}
	answer, err := j.nc.RequestMsgWithContext(ctx, msg)
	if errors.Is(err, nats.ErrNoResponders) {
		return 0, errNoStream
	}
	if err != nil {
		return 0, j.explain(msg.Subject, err)
	}
	ack, err := readAck(answer.Data)
	if err != nil {
		return 0, j.ackError(msg.Subject, err)
	}
	return ack, nil
}

// ackError replaces an error of the API by what it means.
func (j *jetStream) ackError(subject string, err error) error {
	if e, ok := errors.AsType[*jetstream.APIError](err); ok {
		return j.apiError(subject, e)
	}
	return err
}

// publish implements engine. Several records are a batch, which JetStream appends
// as one.
func (j *jetStream) publish(expected uint64, records [][]byte, done func(error)) {
	last := expected + uint64(len(records))
	reply := j.acks.expect(func(seq uint64, err error) {
		switch {
		case err != nil:
			err = j.ackError(j.records, err)
		case seq != last:
			err = fmt.Errorf("records were appended up to %d instead of %d", seq, last)
		}
		done(err)
	})
	batch := randomID()
	for i, data := range records {
		msg := &nats.Msg{Subject: j.records, Data: data, Header: make(nats.Header, 3)}
		if i == 0 {
			msg.Header[jetstream.ExpectedLastSeqHeader] = []string{strconv.FormatUint(expected, 10)}
		}
		if len(records) > 1 {
			msg.Header[headerBatch] = []string{batch}
			msg.Header[headerBatchSequence] = []string{strconv.Itoa(i + 1)}
		}
		if i == len(records)-1 {
			msg.Reply = reply
			if i > 0 {
				msg.Header[headerBatchCommit] = []string{"1"}
			}
		}
		if err := j.nc.PublishMsg(msg); err != nil {
			j.acks.fail(reply, err)
			return
		}
	}
}

// denied implements engine. The server answers what is published without a
// permission with an error that belongs to the connection.
func (j *jetStream) denied() error { return j.conn.violation(j.records) }

// maxRecord implements engine.
func (j *jetStream) maxRecord() int {
	most := int(j.conn.payload.Load()) - recordHeaders
	j.mu.Lock()
	defer j.mu.Unlock()
	if b := j.bounds.Bytes; b > 0 && int64(most) > b-recordHeaders {
		most = int(b - recordHeaders)
	}
	return most
}

// state implements engine.
func (j *jetStream) state() error { return j.conn.state() }

// reconnect has the followers look whether they have missed something.
func (j *jetStream) reconnect() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for c := range j.followers {
		c.interrupt()
	}
}

// close implements engine.
func (j *jetStream) close() {
	j.conn.forget(j)
	j.mu.Lock()
	subs := j.subs
	j.subs, j.closed = nil, true
	j.mu.Unlock()
	for _, sub := range subs {
		drain(sub)
	}
	if j.acks != nil {
		j.acks.close()
	}
	j.conn.release()
}

// Interface guards
var _ engine = (*jetStream)(nil)
