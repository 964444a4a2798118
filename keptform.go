package ssefanin

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/sse-fanin/caddy-sse-fanin/internal/lastvalue"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// This file is about the form in which last values are stored where a log is kept.

// keptLog is what the stored values are of.
type keptLog struct {
	upTo  uint64 // they are those of the events up to here
	epoch string // of that event
	ids   string
	text  string // which values were kept, see lastValueDef.text
}

// keptValue is a value as it is stored.
type keptValue struct {
	offset     uint64
	source     string
	key, event []byte
}

// foundValues are the last values that are stored, as far as they are those of the log.
type foundValues struct {
	all      []keptValue
	known    bool   // something is stored; otherwise there is nothing, or it is of another log
	upTo     uint64 // they are those of the events up to here
	doubtful bool   // some of them are of events after that, or others are wanted
	rekeyed  bool   // they may have other keys than are wanted
}

// goodUpTo returns up to which offset the values are those of a log with these epochs and
// this end, which may have lost events since. False: it is another log.
func (k *keptLog) goodUpTo(epochs []logstore.Epoch, last uint64) (upTo uint64, ok bool) {
	for i, e := range epochs {
		if e.ID != k.epoch {
			continue
		}
		upTo = min(k.upTo, last)
		if i+1 < len(epochs) {
			upTo = min(upTo, epochs[i+1].First-1)
		}
		return upTo, true
	}
	return 0, false
}

// keptVersion is the first byte of what is stored.
const keptVersion = 1

var errKept = errors.New("they are not in the form that this program stores them in")

// appendHead appends what the values are of:
//
//	version  1 byte
//	upTo     uvarint
//	epoch, ids, text: each a uvarint with its length, then its bytes
//
// The values follow, in the order of their offsets: uvarint offset, then source, key and
// event like the texts.
func (k *keptLog) appendHead(dst []byte) []byte {
	dst = binary.AppendUvarint(append(dst, keptVersion), k.upTo)
	for _, text := range []string{k.epoch, k.ids, k.text} {
		dst = appendText(dst, text)
	}
	return dst
}

func appendKept(dst []byte, source string, value *lastvalue.Value) []byte {
	dst = binary.AppendUvarint(dst, value.Offset)
	return appendText(appendText(appendText(dst, source), value.Key), value.Event)
}

func appendText[T string | []byte](dst []byte, text T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(text))), text...)
}

// parseKept reads what appendHead and appendKept have written. The values are parts of it.
func parseKept(body []byte) (k keptLog, all []keptValue, err error) {
	if len(body) == 0 || body[0] != keptVersion {
		return k, nil, fmt.Errorf("%w: their version is another one", errKept)
	}
	rest, whole := body[1:], true
	number := func() uint64 {
		n, size := binary.Uvarint(rest)
		if size <= 0 {
			rest, whole = nil, false
			return 0
		}
		rest = rest[size:]
		return n
	}
	text := func() []byte {
		n := number()
		if n > uint64(len(rest)) {
			rest, whole = nil, false
			return nil
		}
		text := rest[:n:n]
		rest = rest[n:]
		return text
	}
	k = keptLog{number(), string(text()), string(text()), string(text())}
	last := uint64(0)
	for len(rest) > 0 {
		value := keptValue{offset: number(), source: string(text()), key: text(), event: text()}
		if whole = whole && value.offset > last && value.offset <= k.upTo; !whole {
			break
		}
		last = value.offset
		all = append(all, value)
	}
	if !whole {
		return k, nil, fmt.Errorf("%w: they do not end as they should", errKept)
	}
	return k, all, nil
}
