package natslog

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
)

// DefaultPrefix begins the names of what the logs have in NATS.
const DefaultPrefix = "sse_fanin"

// maxToken bounds a name that is made readable, in bytes. JetStream takes 255.
const maxToken = 100

var goodPrefix = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// token makes any text a part of a name in NATS: different ones of different
// texts. Letters, digits and hyphens stay as they are, each other byte becomes
// an underscore and two hexadecimal digits. What is too long then becomes its
// beginning, "_h" and a hash.
func token(text string) string {
	var b strings.Builder
	for i := range len(text) {
		switch c := text[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "_%02X", c)
		}
	}
	switch {
	case b.Len() == 0:
		return "_"
	case b.Len() <= maxToken:
		return b.String()
	}
	sum := sha256.Sum256([]byte(text))
	return b.String()[:maxToken/2] + "_h" + hex.EncodeToString(sum[:16])
}

// names are those of one log in NATS.
type names struct {
	stream  string // of the JetStream stream
	bucket  string // of the KV bucket, which all logs of a prefix share
	kv      string // of the JetStream stream behind the bucket
	records string // the subject of the records
	say     string // the subject on which nodes say something to all others
	ask     string // what the subjects begin with on which nodes are asked
	keys    string // what the subjects of the keys begin with
}

// StreamName returns the name of the JetStream stream that has the log of a stream.
func StreamName(prefix, stream string) string { return namesOf(prefix, stream).stream }

func namesOf(prefix, stream string) names {
	t := token(stream)
	return names{
		stream:  prefix + "_" + t,
		bucket:  prefix,
		kv:      "KV_" + prefix,
		records: prefix + "." + t + ".log",
		say:     prefix + "." + t + ".say",
		ask:     prefix + "." + t + ".ask.",
		keys:    "$KV." + prefix + "." + t + ".",
	}
}

// inboxes is what the subjects begin with on which a connection is answered.
func inboxes(prefix string) string { return prefix + "._inbox" }

// randomID returns a name that nothing else has.
func randomID() string { return strings.ToLower(rand.Text()[:12]) }
