package ssefanin

import (
	"cmp"
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
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

// heldBy finds the process that has a log in the error of another one.
var heldBy = regexp.MustCompile(`\bheld by process (\d+)`)

// remedy is what to do about a log that cannot be written, and commands that show
// more of what is wrong.
func (s *storeStatus) remedy() (text string, commands []string) {
	const afterwards = " It is tried again by itself."
	show := func(command string) []string {
		if s.Dir == "" {
			return nil
		}
		return []string{command + " " + shellWord(s.Dir)}
	}
	switch err := s.err; {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "Free space on the disk, or lower size in retain." + afterwards, append(show("df -h"), show("du -sh")...)
	case errors.Is(err, syscall.EROFS):
		return "The file system is read-only. Look why in the system's log, and mount it so that it can be written." + afterwards, show("findmnt -T")
	case errors.Is(err, fs.ErrPermission):
		return "Give Caddy the right to write the directory, and all that is in it." + afterwards, show("ls -la")
	case errors.Is(err, syscall.ENOTDIR):
		return "There is a file where the directory should be. Move it away, or set another dir." + afterwards, show("ls -ld")
	case errors.Is(err, logstore.ErrInUse):
		return s.inUse(afterwards)
	case s.Dir != "":
		return "Look at the disk, and at the system's log." + afterwards, append(show("df -h"), "caddy sse-fanin log "+shellWord(s.Dir)+" --check")
	default:
		return "Look at what keeps the log, and whether it can be reached from here." + afterwards, nil
	}
}

// inUse is the remedy for a log that another process has, or another stream of
// this one.
func (s *storeStatus) inUse(afterwards string) (text string, commands []string) {
	m := heldBy.FindStringSubmatch(s.Error)
	switch {
	case m == nil:
		return "One process has a directory at a time. Stop the other one, or give this one another dir." + afterwards, nil
	case m[1] == strconv.Itoa(os.Getpid()):
		return "That is the number of this Caddy. Either a stream that a reload has removed has the directory until its last client has left, or a process in another container has the same number: one process has a directory at a time." + afterwards, nil
	default:
		return "One process has a directory at a time. Stop process " + m[1] + ", or give this one another dir." + afterwards, []string{"ps -fp " + m[1]}
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
