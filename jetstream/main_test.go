package jetstream

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/sse-fanin/caddy-sse-fanin"
	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

func TestMain(m *testing.M) {
	ssetest.Main(m, ssetest.Suite{})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// write makes a file in a folder of the test's own, and returns its path.
func write(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(path, content, 0o600))
	return path
}

// newKey returns an nkey, its public part and its seed.
func newKey(t *testing.T, create func() (nkeys.KeyPair, error)) (pair nkeys.KeyPair, public string, seed []byte) {
	t.Helper()
	pair, err := create()
	must(t, err)
	public, err = pair.PublicKey()
	must(t, err)
	seed, err = pair.Seed()
	must(t, err)
	return pair, public, seed
}

// userCredentials returns the content of a .creds file of a user whose account
// has the key.
func userCredentials(t *testing.T, account nkeys.KeyPair, change func(*jwt.UserClaims)) []byte {
	t.Helper()
	_, public, seed := newKey(t, nkeys.CreateUser)
	claims := jwt.NewUserClaims(public)
	change(claims)
	signed, err := claims.Encode(account)
	must(t, err)
	content, err := jwt.FormatUserConfig(signed, seed)
	must(t, err)
	return content
}

// anyCredentials are those of a user of no account in particular.
func anyCredentials(t *testing.T) []byte {
	t.Helper()
	account, _, _ := newKey(t, nkeys.CreateAccount)
	return userCredentials(t, account, func(*jwt.UserClaims) {})
}
