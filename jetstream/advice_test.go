package jetstream

import (
	"reflect"
	"testing"
)

// What to do about NATS names what to look at, and nothing that is secret.
func TestAdvice(t *testing.T) {
	l := &Log{Servers: []string{"nats://me:secret@a.example.com:4222", "tls://b.example.com"}, Prefix: "sse"}
	got := l.Advise("my prices")
	want := [][]string{
		{"nats", "--server", "nats://a.example.com:4222,tls://b.example.com", "server", "check", "connection"},
		{"nats", "--server", "nats://a.example.com:4222,tls://b.example.com", "stream", "info", "sse_my_20prices"},
	}
	if !reflect.DeepEqual(got.Commands, want) || got.Text == "" {
		t.Errorf("got %q, want %q", got, want)
	}
}
