package jetstream

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/nats-io/nkeys"
)

// Login is how to log in to NATS: in one of these ways, or in none.
type Login struct {
	// A file with a user's JWT and seed, as `nsc` makes it. It is read at every
	// connection.
	Credentials string `json:"credentials,omitempty"`

	// A file with the seed of a user's nkey.
	NKey string `json:"nkey,omitempty"`

	User *User `json:"user,omitempty"`

	Token string `json:"token,omitempty"`
}

// User is a user of NATS with a password.
type User struct {
	Name     string `json:"name"`
	Password string `json:"password"`
}

// provisionLogin evaluates placeholders and validates the login.
func (l *Login) provisionLogin() error {
	var given []string
	for _, way := range []struct {
		name  string
		given bool
	}{{"credentials", l.Credentials != ""}, {"nkey", l.NKey != ""}, {"user", l.User != nil}, {"token", l.Token != ""}} {
		if way.given {
			given = append(given, way.name)
		}
	}
	if len(given) > 1 {
		return fmt.Errorf("%s: each is a way to log in, and one is to be given", strings.Join(given, " and "))
	}
	var err error
	switch {
	case l.Credentials != "":
		l.Credentials, err = evaluateFile("credentials", l.Credentials, judgeCredentials)
	case l.NKey != "":
		l.NKey, err = evaluateFile("nkey", l.NKey, judgeSeed)
	case l.User != nil:
		l.User, err = l.User.evaluate()
	case l.Token != "":
		l.Token, err = evaluate("token", l.Token)
	}
	return err
}

// evaluate returns the user with its placeholders filled in.
func (u *User) evaluate() (*User, error) {
	if u.Name == "" || u.Password == "" {
		return nil, errors.New("user: it needs a name and a password")
	}
	name, err := evaluate("user", u.Name)
	if err != nil {
		return nil, err
	}
	password, err := evaluate("user", u.Password)
	return &User{Name: name, Password: password}, err
}

func (l *Login) name() string {
	if l.User == nil {
		return ""
	}
	return l.User.Name
}

func (l *Login) password() string {
	if l.User == nil {
		return ""
	}
	return l.User.Password
}

// evaluateFile fills in the placeholders of a path, and has the content judged.
func evaluateFile(setting, path string, judge func(content []byte) error) (string, error) {
	path, err := evaluate(setting, path)
	if err != nil {
		return "", err
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", fmt.Errorf("%s: %w", setting, err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", setting, err)
	}
	defer clear(content)
	if err := judge(content); err != nil {
		return "", fmt.Errorf("%s: %s: %w", setting, path, err)
	}
	return path, nil
}

// judgeCredentials validates the content of a .creds file. Errors of nkeys quote
// nothing of it.
func judgeCredentials(content []byte) error {
	if _, err := nkeys.ParseDecoratedJWT(content); err != nil || !strings.Contains(string(content), "USER JWT") {
		return errors.New("it has no user's JWT; expected a .creds file, as nsc generate creds makes it")
	}
	return judgeSeed(content)
}

// judgeSeed validates the seed of a user in a file.
func judgeSeed(content []byte) error {
	pair, err := nkeys.ParseDecoratedNKey(content)
	if err != nil {
		return fmt.Errorf("it has no seed of an nkey: %w", err)
	}
	defer pair.Wipe()
	public, err := pair.PublicKey()
	if err != nil {
		return err
	}
	if !nkeys.IsValidPublicUserKey(public) {
		return errors.New("its nkey is not that of a user; the seed of a user begins with SU")
	}
	return nil
}

// printKey makes what connectionPrint returns worthless outside of the process.
var printKey = sync.OnceValue(func() []byte {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	return key
})

// connectionPrint identifies how to connect, besides the servers: equal ways
// have the same one within the process, and no secret can be found with it.
func (l *Log) connectionPrint() string {
	mac := hmac.New(sha256.New, printKey())
	var trusted [][]byte // a file of certificates may have changed
	if l.TLS != nil {
		trusted = l.TLS.certificates
	}
	// of fields that can always be encoded
	_ = json.NewEncoder(mac).Encode(struct {
		Login    Login
		TLS      *TLS
		Trusted  [][]byte
		Replicas int
	}{l.Login, l.TLS, trusted, l.Replicas})
	return hex.EncodeToString(mac.Sum(nil)[:4])
}
