package jetstream

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/option"
	"github.com/sse-fanin/caddy-sse-fanin/internal/urltext"
)

const (
	// leastLease leaves time for five renewals over a network, and an election in
	// the NATS cluster is no reason to take over.
	leastLease = time.Second

	// mostLease bounds how long nobody connects the upstreams when the writer
	// dies.
	mostLease = time.Minute

	leastHold = time.Second
	mostHold  = time.Hour

	// leastBuffer is a second of a busy stream, and room for the largest event
	// that a NATS server takes by default.
	leastBuffer = 1 << 20

	// mostBuffer is more than JetStream takes in any time that a buffer is for.
	mostBuffer = 4 << 30
)

// validPrefix matches what may begin the name of a stream, a bucket and a
// subject.
var validPrefix = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// checkValues validates the options that need neither placeholders nor files.
func (l *Log) checkValues() error {
	return errors.Join(
		checkReplicas(l.Replicas),
		checkPrefix(l.Prefix),
		checkBetween("lease", l.Lease, leastLease, mostLease),
		checkBuffer(l.Buffer),
		checkBetween("hold", l.HoldFor, leastHold, mostHold),
		option.CheckWord("standby", string(l.OnStandby), option.On, option.Off),
		option.CheckLogMemory(l.MaxMemory),
	)
}

func checkReplicas(n int) error {
	if !slices.Contains([]int{1, 3, 5}, n) {
		return fmt.Errorf("replicas: %d is none of 1, 3 and 5: an even number outlives no more failures than the odd one below it, and JetStream keeps 5 at most", n)
	}
	return nil
}

func checkPrefix(prefix string) error {
	if !validPrefix.MatchString(prefix) {
		return fmt.Errorf("prefix: '%s' is not 1 to 64 letters, digits, _ and -", prefix)
	}
	return nil
}

func checkBetween(setting string, d caddy.Duration, least, most time.Duration) error {
	switch dur := time.Duration(d); {
	case dur < least:
		return fmt.Errorf("%s: %s is too short, it must be at least %s", setting, dur, least)
	case dur > most:
		return fmt.Errorf("%s: %s is too long, it must be at most %s", setting, dur, most)
	}
	return nil
}

func checkBuffer(n int64) error {
	if n < leastBuffer && n >= 0 {
		return fmt.Errorf("buffer: %d bytes is too little, it must be at least %s", n, humanize.IBytes(leastBuffer))
	}
	return option.CheckSize("buffer", n, mostBuffer)
}

// evaluate fills in the placeholders of a text. The error names those that are
// unknown or empty, and nothing else of the text.
func evaluate(setting, text string) (string, error) {
	text, err := caddy.NewReplacer().ReplaceOrErr(text, true, true)
	if err != nil {
		return "", fmt.Errorf("%s: %w", setting, err)
	}
	return text, nil
}

// evaluateServers fills in the placeholders of servers and validates their URLs.
// A value may be a list with commas, as NATS has them in one variable.
func evaluateServers(configured []string) ([]string, error) {
	var servers []string
	for _, text := range configured {
		text, err := evaluate("servers", text)
		if err != nil {
			return nil, err
		}
		for server := range strings.SplitSeq(text, ",") {
			servers = append(servers, strings.TrimSpace(server))
		}
	}
	return servers, checkServers(servers)
}

// checkServers validates URLs without placeholders.
func checkServers(servers []string) error {
	for i, server := range servers {
		if err := checkServer(server); err != nil {
			return fmt.Errorf("servers: '%s': %w", urltext.Redact(server), err)
		}
		if slices.Contains(servers[:i], server) {
			return fmt.Errorf("servers: '%s' is given twice", server)
		}
		if isWebSocket(server) != isWebSocket(servers[0]) {
			return fmt.Errorf("servers: '%s' and '%s': either all are reached by WebSocket or none is", servers[0], server)
		}
	}
	return nil
}

func isWebSocket(server string) bool { return strings.HasPrefix(server, "ws") }

func checkServer(server string) error {
	scheme, _, ok := urltext.CutScheme(server)
	if !ok {
		return errors.New("missing nats:// or tls://")
	}
	if !slices.Contains([]string{"nats", "tls", "ws", "wss"}, scheme) {
		return fmt.Errorf("the scheme '%s' is not supported, use nats, tls, ws or wss", scheme)
	}
	u, err := url.Parse(server)
	switch {
	case err != nil: // which may quote a password
		return errors.New("it cannot be parsed")
	case u.User != nil:
		return errors.New("a name or password in it would be shown with it; write user <name> <password>")
	case u.Hostname() == "":
		return errors.New("the host is missing")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return errors.New("nothing may follow host and port")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return fmt.Errorf("'%s' is not a port from 1 to 65535", port)
		}
	}
	return nil
}

// errPlain is the error about a server that is reached without TLS, beside `tls`.
func errPlain(server string) error {
	return fmt.Errorf("tls: '%s' is without TLS, begin it with wss://", server)
}
