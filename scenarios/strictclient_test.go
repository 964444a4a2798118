package scenarios

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// strictClient is a client over HTTP/1.1 that reads its stream as it is framed. It
// takes the header at its word, as simple clients do: a connection that is not said
// to end is used again. Not safe for concurrent use.
type strictClient struct {
	dial func() (net.Conn, error)
	conn net.Conn
	r    *bufio.Reader

	head *http.Response // without its body
	body *bufio.Reader
	size int // of what was read of the body
}

// errNoAnswer is the error of a connection that ends before anything has come.
var errNoAnswer = errors.New("there is no answer")

// ask sends a request, with more fields and what follows, and reads the head of the
// answer.
func (c *strictClient) ask(line, host, rest string) error {
	if c.conn == nil {
		conn, err := c.dial()
		if err != nil {
			return fmt.Errorf("%w: %w", errNoAnswer, err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		c.conn, c.r = conn, bufio.NewReader(conn)
	}
	if _, err := fmt.Fprintf(c.conn, "%s\r\nHost: %s\r\n%s", line, host, rest); err != nil {
		return fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	if _, err := c.r.Peek(1); err != nil {
		return fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	head, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return fmt.Errorf("reading the head: %w", err)
	}
	c.head, c.size = head, 0
	switch {
	case head.TransferEncoding != nil:
		c.body = bufio.NewReader(&chunkReader{r: c.r})
	case head.ContentLength >= 0:
		c.body = bufio.NewReader(io.LimitReader(c.r, head.ContentLength))
	default:
		c.body = c.r
	}
	return nil
}

// line reads the next line of the body, without its end.
func (c *strictClient) line() (string, error) {
	line, err := c.body.ReadString('\n')
	c.size += len(line)
	return strings.TrimSuffix(line, "\n"), err
}

// until reads the body up to a line.
func (c *strictClient) until(want string) error {
	for {
		line, err := c.line()
		if err != nil {
			return fmt.Errorf("before %q: %w", want, err)
		}
		if line == want {
			return nil
		}
	}
}

// numbered reads the next numbered event, and returns its number.
func (c *strictClient) numbered() (uint64, error) {
	for {
		line, err := c.line()
		if err != nil {
			return 0, err
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			if _, n, ok := ssetest.FindNumbered([]byte(data)); ok {
				return n, nil
			}
		}
	}
}

// finish reads the rest of the body, and the end of a connection that is to end.
func (c *strictClient) finish() error {
	n, err := io.Copy(io.Discard, c.body)
	c.size += int(n)
	if err != nil {
		return fmt.Errorf("the end is not clean: %w", err)
	}
	if !c.head.Close {
		return nil
	}
	if b, err := c.r.ReadByte(); err != io.EOF { //nolint:errorlint // readers return it as it is
		return fmt.Errorf("the end is followed by %q, %w", b, err)
	}
	return nil
}

// again is what a client does for its next request.
func (c *strictClient) again() {
	if c.head.Close {
		c.close()
	}
}

func (c *strictClient) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// reset closes the connection so that the server gets a reset.
func (c *strictClient) reset() {
	if tcp, ok := c.conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.close()
}

// closeWrite ends the client's half of the connection.
func (c *strictClient) closeWrite() error {
	return c.conn.(interface{ CloseWrite() error }).CloseWrite()
}

// chunkReader reads what is in the chunks of a body, up to the last one.
type chunkReader struct {
	r     *bufio.Reader
	rest  string // of the chunk
	ended bool
}

func (c *chunkReader) Read(p []byte) (n int, err error) {
	if c.rest == "" && !c.ended {
		if c.rest, err = ssetest.ReadChunk(c.r); err != nil {
			return 0, err
		}
		c.ended = c.rest == ""
	}
	if c.ended {
		return 0, io.EOF
	}
	n = copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}
