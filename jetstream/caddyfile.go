package jetstream

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddytls"

	"github.com/sse-fanin/caddy-sse-fanin/internal/option"
	"github.com/sse-fanin/caddy-sse-fanin/internal/urltext"
)

// The words of each block, for errors.
var (
	logWords = []string{"buffer", "credentials", "hold", "lease", "memory", "nkey", "prefix", "replicas", "servers", "standby", "tls", "token", "user"}
	tlsWords = []string{"client_auth", "server_name", "trust_pool"}
)

// UnmarshalCaddyfile sets up the log from Caddyfile tokens:
//
//	jetstream {
//		servers     <url>...
//		credentials <file>
//		nkey        <file>
//		user        <name> <password>
//		token       <token>
//		tls {
//			trust_pool  <module> [<args>...]
//			client_auth <certificate> <key>
//			server_name <name>
//		}
//		replicas    1|3|5
//		prefix      <text>
//		lease       <duration>
//		buffer      <size>
//		hold        <duration>
//		standby     on|off
//		memory      <size>
//	}
func (l *Log) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if d.NextArg() {
		return d.Errf("log: unexpected '%s', the options stand in a block: log jetstream { servers <url>... }", urltext.Redact(d.Val()))
	}
	_, err := option.Block(d, func() error { return l.unmarshalOption(d) })
	return err
}

func (l *Log) unmarshalOption(d *caddyfile.Dispenser) (err error) {
	switch d.Val() {
	case "servers":
		return l.unmarshalServers(d)
	case "credentials":
		l.Credentials, err = option.Argument(d, "<file>")
	case "nkey":
		l.NKey, err = option.Argument(d, "<file>")
	case "user":
		l.User = new(User)
		err = secrets(d, "<name> <password>", &l.User.Name, &l.User.Password)
	case "token":
		err = secrets(d, "<token>", &l.Token)
	case "tls":
		l.TLS = new(TLS)
		return l.TLS.unmarshal(d)
	case "replicas":
		if l.Replicas, err = option.Number(d, 1, "1|3|5"); err == nil {
			err = option.Wrap(d, checkReplicas(l.Replicas))
		}
	case "prefix":
		if l.Prefix, err = option.Argument(d, "<text>"); err == nil {
			err = option.Wrap(d, checkPrefix(l.Prefix))
		}
	case "lease":
		if err = duration(d, &l.Lease); err == nil {
			err = option.Wrap(d, checkBetween("lease", l.Lease, leastLease, mostLease))
		}
	case "buffer":
		if err = option.Size(d, &l.Buffer); err == nil {
			err = option.Wrap(d, checkBuffer(l.Buffer))
		}
	case "hold":
		if err = duration(d, &l.HoldFor); err == nil {
			err = option.Wrap(d, checkBetween("hold", l.HoldFor, leastHold, mostHold))
		}
	case "standby":
		err = option.Choice(d, (*string)(&l.OnStandby), option.On, option.Off)
	case "memory":
		if err = option.Size(d, &l.MaxMemory); err == nil {
			err = option.Wrap(d, option.CheckLogMemory(l.MaxMemory))
		}
	default:
		return d.Errf("unrecognized subdirective '%s' of log jetstream, expected one of %s", urltext.Redact(d.Val()), strings.Join(logWords, ", "))
	}
	return err
}

// unmarshalServers parses: servers <url>...
// URLs with placeholders are validated when these are filled in.
func (l *Log) unmarshalServers(d *caddyfile.Dispenser) (err error) {
	const most = 100 // more than any cluster has
	if l.Servers, err = option.Arguments(d, most, "<url>..."); err != nil {
		return err
	}
	if slices.ContainsFunc(l.Servers, func(server string) bool { return strings.Contains(server, "{") }) {
		return nil
	}
	_, err = evaluateServers(l.Servers)
	return option.Wrap(d, err)
}

// unmarshal parses: tls { trust_pool <module> client_auth <certificate> <key> server_name <name> }
func (t *TLS) unmarshal(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("tls: unexpected '%s', the options stand in a block: tls { trust_pool <module> }", d.Val())
	}
	_, err := option.Block(d, func() (err error) {
		switch d.Val() {
		case "trust_pool":
			err = t.unmarshalTrustPool(d)
		case "client_auth":
			var files []string
			if files, err = option.Arguments(d, 2, "<certificate> <key>"); err == nil {
				if len(files) < 2 {
					return d.Errf("client_auth: missing the file of the key, expected client_auth <certificate> <key>")
				}
				t.ClientAuth = &ClientAuth{Certificate: files[0], Key: files[1]}
			}
		case "server_name":
			t.ServerName, err = option.Argument(d, "<name>")
		default:
			err = d.Errf("unrecognized subdirective '%s' of tls, expected one of %s", d.Val(), strings.Join(tlsWords, ", "))
		}
		return err
	})
	return err
}

// unmarshalTrustPool parses: trust_pool <module> [<args>...] { ... }
func (t *TLS) unmarshalTrustPool(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.Errf("trust_pool: missing argument, expected trust_pool file <pem_file>..., or another module of tls.ca_pool.source")
	}
	provider := d.Val()
	mod, err := caddyfile.UnmarshalModule(d, "tls.ca_pool.source."+provider)
	if err != nil {
		return err
	}
	ca, ok := mod.(caddytls.CA)
	if !ok {
		return d.Errf("trust_pool: module %T has no certificates", mod)
	}
	t.TrustPoolRaw = caddyconfig.JSONModuleObject(ca, "provider", provider, nil)
	return nil
}

// secrets parses arguments that no error may quote, one for each of to.
func secrets(d *caddyfile.Dispenser, expected string, to ...*string) error {
	setting := d.Val()
	expected = "expected " + setting + " " + expected
	args := d.RemainingArgs()
	switch {
	case len(args) < len(to):
		return d.Errf("%s: missing argument, %s", setting, expected)
	case len(args) > len(to):
		return d.Errf("%s: too many arguments, %s", setting, expected)
	case slices.Contains(args, ""):
		return d.Errf("%s: the argument is empty, %s", setting, expected)
	}
	for i := range to {
		*to[i] = args[i]
	}
	return option.NoBlock(d, expected)
}

// duration parses a duration.
func duration(d *caddyfile.Dispenser, to *caddy.Duration) error {
	var given *caddy.Duration
	err := option.Duration(d, false, &given)
	if err == nil {
		*to = *given
	}
	return err
}
