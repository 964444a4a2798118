package ssefanin

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A reload may give logs other names, remove some, or move a site elsewhere. The line of
// a detached client goes where the same request would be logged then, and not to a log
// that is for more than the one that was to have it.
func TestAccessLinesOfDetachedClientsAfterAReload(t *testing.T) {
	const (
		own    = "log {\noutput @own\n}\n"
		others = "log {\noutput @others\n}\n"
		named  = "log named {\noutput @named\nno_hostname\n}\nlog {\noutput @own\n}\n"
		stream = "sse_fanin /events live {\ndetach on\n}\n"
		global = "log access {\noutput @access\ninclude http.log.access\n}\n"
	)
	// The client asks PORT for the host a.test.
	all, a, b, elsewhere := "http://:PORT", "http://a.test:PORT", "http://b.test:PORT", "http://:OTHER"
	type config struct{ global, sites string }
	site := func(address, text string) string { return address + " {\n" + text + "}\n" }
	for name, test := range map[string]struct {
		before, after config
		want          string // none if empty
	}{
		"nothing is changed": {
			config{sites: site(all, own+stream)}, config{sites: site(all, own+stream)}, "own",
		},
		"the log is removed": {
			config{sites: site(all, own+stream)}, config{sites: site(all, stream)}, "",
		},
		"the site is removed, and the other has no log": {
			config{sites: site(all, own+stream) + site(elsewhere, stream)}, config{sites: site(elsewhere, stream)}, "",
		},
		"the site is removed, and the other has a log": {
			config{sites: site(all, own+stream) + site(elsewhere, others+stream)}, config{sites: site(elsewhere, others+stream)}, "",
		},
		"all sites are removed": {
			config{sites: site(all, own+stream)}, config{}, "",
		},
		"a site with a log is put before it": {
			config{sites: site(all, own+stream)}, config{sites: site(elsewhere, others+stream) + site(all, own+stream)}, "own",
		},
		"another host with a log is put before it": {
			config{sites: site(a, own+stream)}, config{sites: site(b, others+stream) + site(a, own+stream)}, "own",
		},
		"the host is removed, and another one stays": {
			config{sites: site(a, own+stream) + site(b, others+stream)}, config{sites: site(b, others+stream)}, "",
		},
		"the log of the host is removed, and that of another stays": {
			config{sites: site(a, own+stream) + site(b, others+stream)}, config{sites: site(a, stream) + site(b, others+stream)}, "",
		},
		"the handler is removed": {
			config{sites: site(a, own+stream)}, config{sites: site(a, own)}, "own",
		},
		"the log is another one": {
			config{sites: site(a, own+stream)}, config{sites: site(a, others+stream)}, "others",
		},
		"the log becomes the default log": {
			config{sites: site(a, own+stream)}, config{sites: site(a, "log\n"+stream)}, "",
		},
		"the default log stays": {
			config{sites: site(a, "log\n"+stream)}, config{sites: site(b, others+stream) + site(a, "log\n"+stream)}, "default",
		},
		"the log was the default log": {
			config{sites: site(a, "log\n"+stream)}, config{sites: site(a, own+stream)}, "own",
		},
		"the site is bound to an address": {
			config{sites: site(all, own+stream)}, config{sites: site(all, "bind 127.0.0.1\n"+own+stream)}, "own",
		},
		"sites with the same port are bound to other addresses": {
			config{sites: site(all, "bind 127.0.0.1\n"+own+stream)},
			config{sites: site(all, "bind 127.0.0.2\n"+others+stream) + site(all, "bind 127.0.0.1\n"+own+stream)},
			"own",
		},
		"the address of the site is another one": {
			config{sites: site(all, "bind 127.0.0.1\n"+own+stream)}, config{sites: site(all, "bind 127.0.0.2\n"+own+stream)}, "",
		},
		"log_name": {
			config{sites: site(all, named+"log_name named\n"+stream)},
			config{sites: site(elsewhere, others) + site(all, named+"log_name named\n"+stream)},
			"named",
		},
		"log_name, and its log is removed": {
			config{sites: site(all, named+"log_name named\n"+stream)}, config{sites: site(all, own+"log_name named\n"+stream)}, "",
		},
		"log_name, and the site has no log any more": {
			config{sites: site(all, named+"log_name named\n"+stream)}, config{sites: site(all, stream)}, "",
		},
		"log_name without a log of its own": {
			config{sites: site(all, own+"log_name named\n"+stream)}, config{sites: site(all, own+stream)}, "default",
		},
		"a log of all access logs": {
			config{global, site(all, "log\n"+stream)}, config{global, site(all, "log\n"+stream)}, "access",
		},
		"a log of all access logs is removed": {
			config{global, site(all, "log\n"+stream)}, config{sites: site(all, "log\n"+stream)}, "",
		},
		"a log of all access logs is put in place of its own": {
			config{sites: site(all, own+stream)}, config{global, site(all, "log\n"+stream)}, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			origin, dir := plain(t), t.TempDir()
			in := &instance{t: t, scheme: "http", addr: freeAddr(t)}
			t.Cleanup(in.stop)
			text := func(c config) string {
				text := "{\nlog {\noutput @default\n}\n" + c.global + "sse_fanin {\nstream live " + origin.URL() + "\n}\n}\n" + c.sites
				text = regexp.MustCompile(`@(\w+)`).ReplaceAllString(text, "file "+dir+"/$1 {\nroll_disabled\n}")
				return strings.NewReplacer("PORT", port(in.addr), "OTHER", port(freeAddr(t))).Replace(text)
			}
			must(t, load(t, text(test.before)))
			q := in.send("GET http://a.test/events HTTP/1.1", "\r\n")
			q.until(": sse_fanin")
			eventually(t, 10*time.Second, "it is taken over", func() bool { return takenClients.Load() == 1 })
			must(t, load(t, text(test.after)))
			q.conn.Close()
			noneTaken(t)
			files, err := os.ReadDir(dir)
			must(t, err)
			for _, file := range files {
				text, err := os.ReadFile(filepath.Join(dir, file.Name()))
				must(t, err)
				want := 0
				if file.Name() == test.want {
					want = 1
				}
				if n := strings.Count(string(text), "handled request"); n != want {
					t.Errorf("the log %q has %d lines, want %d:\n%s", file.Name(), n, want, text)
				}
			}
			if _, err := os.Stat(filepath.Join(dir, test.want)); err != nil {
				t.Error(err)
			}
		})
	}
}

// The header is shown as the configuration in use shows it.
func TestCredentialsInTheAccessLineAfterAReload(t *testing.T) {
	a := plain(t)
	file := filepath.Join(t.TempDir(), "access.log")
	site := "log {\noutput file " + file + "\nformat json\n}\nsse_fanin /events {\nstream s\nupstream a " + a.URL() + "\ndetach on\n}\n"
	const shows, hides = "servers {\nlog_credentials\n}", ""
	in := serve(t, hides, site)
	for i, test := range []struct{ before, after, cookie, own string }{
		{shows, hides, hidden, hidden},
		{shows, shows, "a=b", "c"},
		{hides, shows, hidden, hidden}, // what is hidden at the request's end is gone
	} {
		in.reload(test.before, site)
		q := in.send("GET /events HTTP/1.1", "Cookie: a=b\r\nX-Own: c\r\n\r\n")
		q.until(": sse_fanin")
		eventually(t, 10*time.Second, "it is taken over", func() bool { return takenClients.Load() == 1 })
		in.reload(test.after, site)
		q.conn.Close()
		noneTaken(t)
		header := accessLines(t, file, i+1)[i]["request"].(map[string]any)["headers"].(map[string]any)
		if got, want := fmt.Sprint(header["Cookie"], header["X-Own"]), fmt.Sprintf("[%s] [%s]", test.cookie, test.own); got != want {
			t.Errorf("%d: the header has %s, want %s", i, got, want)
		}
	}
}

// The server that a request would come to has another name after a reload, and may have
// other addresses.
func TestServerThatARequestWouldComeTo(t *testing.T) {
	tcp := func(ip string, port int) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: port} }
	for name, test := range map[string]struct {
		before string
		local  net.Addr
		after  map[string]string // addresses of servers; that which is wanted is called "it"
	}{
		"the same":               {":80", tcp("10.0.0.1", 80), map[string]string{"a": ":81", "it": ":80"}},
		"the same, named":        {"localhost:80", tcp("127.0.0.1", 80), map[string]string{"a": "localhost:81", "it": "localhost:80"}},
		"one of two":             {":80 :81", tcp("10.0.0.1", 81), map[string]string{"a": ":80", "it": ":81"}},
		"one of two, as one":     {":80 :81", tcp("10.0.0.1", 81), map[string]string{"a": ":82", "it": ":80 :81"}},
		"bound":                  {":80", tcp("10.0.0.1", 80), map[string]string{"a": "10.0.0.2:80", "it": "10.0.0.1:80"}},
		"bound elsewhere":        {":80", tcp("10.0.0.1", 80), map[string]string{"a": "10.0.0.2:80"}},
		"not bound any more":     {"10.0.0.1:80", tcp("10.0.0.1", 80), map[string]string{"a": ":81", "it": "0.0.0.0:80"}},
		"a name for the address": {"10.0.0.1:80", tcp("10.0.0.1", 80), map[string]string{"a": "localhost:80"}},
		"within a range":         {":80", tcp("10.0.0.1", 80), map[string]string{"a": ":81-90", "it": ":70-80"}},
		"IPv6":                   {"[::1]:80", tcp("::1", 80), map[string]string{"a": "127.0.0.1:80", "it": "[::]:80"}},
		"behind a PROXY header":  {":80", tcp("192.0.2.1", 443), map[string]string{"a": ":443", "it": ":80"}},
		"a unix socket":          {"unix//run/a|0220", &net.UnixAddr{Name: "/run/a"}, map[string]string{"a": "unix//run/b", "it": "unix//run/a|0222"}},
		"none":                   {":80", tcp("10.0.0.1", 80), nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, test.local))
			d := destinationOf(r, &caddyhttp.Server{Listen: strings.Fields(test.before), Logs: new(caddyhttp.ServerLogConfig)})
			logs := &configuredLogs{servers: make(map[string]*caddyhttp.Server)}
			for name, listen := range test.after {
				logs.servers[name] = &caddyhttp.Server{Listen: strings.Fields(listen)}
			}
			if got, want := logs.serverOf(&d), logs.servers["it"]; got != want {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}
