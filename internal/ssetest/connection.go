package ssetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"time"
)

// EndKind is how a client's connection ended.
type EndKind int

const (
	// EndNone: it is open.
	EndNone EndKind = iota
	// EndClean: the server ended the response as HTTP requires: terminating
	// chunk, END_STREAM, or the length announced. Without a length and chunks,
	// the plain end of an HTTP/1.1 connection counts as clean too.
	EndClean
	// EndError: it broke.
	EndError
	// EndSelf: Disconnect, Close or the end of the context.
	EndSelf
	// EndStatus: a status other than 200, or another type than
	// text/event-stream.
	EndStatus
	// EndDial: there was no response.
	EndDial

	endKinds = iota
)

func (k EndKind) String() string {
	return [...]string{"open", "clean", "error", "self", "status", "dial"}[k]
}

// Connection is the account of one connection.
type Connection struct {
	Started     time.Time
	LastEventID string // as sent, "" for none

	// The head; Status is 0 until it is there.
	Status        int
	Proto         string
	Header        http.Header
	TimeToHeaders time.Duration

	Events   uint64
	Comments uint64
	Bytes    uint64 // of the body

	End     EndKind
	Ended   time.Time
	Err     error
	Partial bool // it ended within an event
}

var (
	errDisconnect  = errors.New("disconnected by the test")
	errClientEnded = errors.New("client has ended")
)

// connect makes one connection and reads it to its end.
func (c *Client) connect(ctx context.Context) Connection {
	ctx, hangUp := context.WithCancelCause(ctx)
	defer hangUp(nil)

	c.mon.Lock()
	if len(c.connections) == maxConnections {
		c.connections = slices.Delete(c.connections, 0, maxConnections/2)
	}
	c.connections = append(c.connections, Connection{Started: time.Now(), LastEventID: string(c.id)})
	c.total++
	c.hangUp = hangUp
	c.mon.signalLocked()
	c.mon.Unlock()
	c.parser.reset()

	kind, err := c.exchange(ctx)
	if ctx.Err() != nil {
		kind, err = EndSelf, context.Cause(ctx)
	}

	c.mon.Lock()
	defer c.mon.Unlock()
	conn := c.currentLocked()
	conn.End, conn.Err, conn.Ended = kind, err, time.Now()
	conn.Partial = c.parser.partial()
	c.ends[kind]++
	c.open, c.hangUp = false, nil
	c.mon.signalLocked()
	return *conn
}

// currentLocked is the connection being served.
func (c *Client) currentLocked() *Connection { return &c.connections[len(c.connections)-1] }

// exchange sends the request and reads the response.
func (c *Client) exchange(ctx context.Context) (EndKind, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.cfg.URL, nil)
	if err != nil {
		return EndDial, err
	}
	maps.Copy(req.Header, c.cfg.Header)
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Cache-Control", "no-cache")
	if id := c.LastEventID(); id != "" {
		req.Header.Set("Last-Event-ID", id)
	}
	started := time.Now()
	resp, err := c.http.Do(req)
	if err != nil {
		return EndDial, err
	}
	defer resp.Body.Close()

	c.mon.Lock()
	conn := c.currentLocked()
	conn.Status, conn.Proto, conn.Header = resp.StatusCode, resp.Proto, resp.Header
	conn.TimeToHeaders = time.Since(started)
	c.open = true
	c.answered++
	c.mon.signalLocked()
	c.mon.Unlock()

	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if resp.StatusCode != http.StatusOK || mediaType != "text/event-stream" {
		return EndStatus, fmt.Errorf("refused: status %d, type %q", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	if c.cfg.BytesPerSecond < 0 {
		<-ctx.Done()
		return EndSelf, nil
	}
	return c.read(ctx, resp.Body)
}

// read parses the body at the client's pace.
func (c *Client) read(ctx context.Context, body io.Reader) (EndKind, error) {
	buf := make([]byte, 8<<10)
	if c.cfg.BytesPerSecond > 0 {
		buf = buf[:max(min(len(buf), c.cfg.BytesPerSecond/20), 1)]
	}
	for {
		n, err := body.Read(buf)
		if ctx.Err() != nil {
			return EndSelf, nil
		}
		c.mon.Lock()
		c.currentLocked().Bytes += uint64(n)
		c.mon.Unlock()
		if ferr := c.parser.feed(buf[:n]); ferr != nil {
			return EndError, ferr
		}
		// An id may be committed without an event.
		c.mon.Lock()
		c.id = append(c.id[:0], c.parser.id...)
		c.mon.Unlock()
		switch {
		case err == io.EOF:
			return EndClean, nil
		case err != nil:
			return EndError, err
		}
		if c.cfg.BytesPerSecond > 0 {
			pause(ctx, time.Duration(n)*time.Second/time.Duration(c.cfg.BytesPerSecond))
		}
	}
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (c *Client) onEvent(typ, data, id []byte) {
	var e Event
	now := time.Now()
	if c.cfg.Record > 0 || c.cfg.OnEvent != nil {
		e = Event{Type: string(typ), Data: string(data), ID: string(id), Time: now}
	}
	c.mon.Lock()
	// With the lock: who has waited for one of the two finds the other as new.
	if c.cfg.Track != nil {
		c.cfg.Track.Observe(typ, id, data)
	}
	if c.count > 0 {
		c.silence = max(c.silence, now.Sub(c.newest))
	}
	c.newest = now
	c.count++
	c.currentLocked().Events++
	c.id = append(c.id[:0], id...)
	if c.cfg.Record > 0 {
		if len(c.events) >= 2*c.cfg.Record {
			c.events = slices.Delete(c.events, 0, c.cfg.Record)
		}
		c.events = append(c.events, e)
	}
	c.mon.signalLocked()
	c.mon.Unlock()
	if c.cfg.OnEvent != nil {
		c.cfg.OnEvent(e)
	}
}

func (c *Client) onComment([]byte) {
	c.mon.Lock()
	defer c.mon.Unlock()
	c.comments++
	c.currentLocked().Comments++
	c.mon.signalLocked()
}

func (c *Client) onRetry(d time.Duration) {
	c.mon.Lock()
	defer c.mon.Unlock()
	c.retry, c.hasRetry = d, true
	c.mon.signalLocked()
}
