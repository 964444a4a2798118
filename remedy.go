package ssefanin

import (
	"cmp"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// cause is how the last attempt or connection ended, in words, without what to
// look at.
func (u *upstreamStatus) cause() string {
	text := u.Error
	if u.hint != "" {
		text = strings.TrimSuffix(text, "; "+u.hint)
	}
	return cmp.Or(text, reasonWords[u.Reason], string(u.Reason))
}

// remedy is what to do about an upstream that is down.
func (u *upstreamStatus) remedy() string {
	const afterwards = " It is tried again by itself; when it is repaired, reconnect it to save the wait."
	switch {
	case u.hint != "":
		return sentence(u.hint) + afterwards
	case u.Reason == reasonStatus:
		return statusRemedy(u.status) + afterwards
	}
	switch u.Reason {
	case reasonType, reasonRedirect:
		return "Most likely the address, or what it is asked with, is wrong. Ask the server itself." + afterwards
	case reasonRequest:
		return "The configuration makes no valid request. Correct the address or the header fields."
	case reasonIdle:
		return "Ask the server whether it sends anything. If its pauses are long, raise idle_timeout or have it send comments."
	case reasonRefusedID:
		return "The server no longer knows the last event id. It is asked without it next time."
	default:
		return "Look whether the server runs and can be reached from here: ask it." + afterwards
	}
}

// statusRemedy is what to do about an answer that is no stream, by its status.
func statusRemedy(status int) string {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusProxyAuthRequired:
		return "The server does not let this request in. Check the credentials in header_up or the URL."
	case status == http.StatusTooManyRequests:
		return "The server limits how often it is asked, and the limit is reached. Look who else asks it, and have the limit raised there."
	case status == http.StatusServiceUnavailable:
		return "The server, or a proxy in front of it, is overloaded or just starting. If it stays so, look at the log there."
	case status >= 500:
		return "The server, or a proxy in front of it, fails. Look at the log there."
	default:
		return "Most likely the address, or what it is asked with, is wrong. Ask the server itself."
	}
}

// askCommand asks an upstream as the module does.
func askCommand(us *upstreamStatus) []string {
	if len(us.URLs) == 0 {
		return nil
	}
	return askURL(us, us.URLs[0])
}

// askURL asks one of an upstream's URLs, as it is shown. User, query and header
// fields may be secret; where there are some, the address says so.
func askURL(us *upstreamStatus, shown string) []string {
	address, at, found := strings.Cut(shown, " at ")
	command := "curl -N -H 'Accept: text/event-stream' "
	if path, ok := strings.CutPrefix(address, "unix/"); ok {
		return []string{command + "--unix-socket " + shellWord(path) + " http://localhost/"}
	}
	if found {
		command += "--connect-to " + shellWord("::"+at) + " "
	}
	if us.partly {
		address += "?…"
	}
	return []string{command + shellWord(address)}
}

// reconnectCommand has the admin API connect an upstream anew, if that is on.
func reconnectCommand(stream, upstream string) []string {
	if adminOn.Load() == 0 {
		return nil
	}
	return []string{adminCommand("/" + url.PathEscape(stream) + "/upstreams/" + url.PathEscape(upstream) + "/reconnect")}
}

// drainCommand has the admin API end a stream's clients, if that is on.
func drainCommand(stream string) []string {
	if adminOn.Load() == 0 {
		return nil
	}
	return []string{adminCommand("/" + url.PathEscape(stream) + "/drain")}
}

// adminCommand posts to a path below that of the streams. It is for Caddy's
// usual address: where a configuration has it is not known here.
func adminCommand(path string) string {
	command, address := "curl -X POST ", caddy.DefaultAdminListen
	if socket, ok := strings.CutPrefix(address, "unix/"); ok {
		socket, _, _ = strings.Cut(socket, "|") // the permissions
		command += "--unix-socket " + shellWord(socket) + " "
		address = "localhost"
	}
	return command + shellWord("http://"+address+adminStreams+path)
}
