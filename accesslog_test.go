package ssefanin

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The line of a client goes where its server writes it, whether the client is detached
// or not, and whatever configurations have come since.
func TestLogThatAnAccessLineGoesTo(t *testing.T) {
	const (
		own    = "log {\noutput @own\n}\n"
		others = "log {\noutput @others\n}\n"
		named  = "log named {\noutput @named\nno_hostname\n}\n"
		stream = "sse_fanin /events live {\ndetach MODE\n}\n"
		access = "log access {\noutput @access\ninclude http.log.access\n}\n"
	)
	// The client asks PORT for the host a.test.
	all, a, b, elsewhere := "http://:PORT", "http://a.test:PORT", "http://b.test:PORT", "http://:OTHER"
	site := func(address, text string) string { return address + " {\n" + text + "}\n" }
	for name, test := range map[string]struct {
		global        string
		before, after string // sites; the one after may be refused
		want          string // none if empty
	}{
		"nothing is changed":           {before: site(all, own+stream), after: site(all, own+stream), want: "own"},
		"the log is removed":           {before: site(all, own+stream), after: site(all, stream), want: "own"},
		"the log is another one":       {before: site(all, own+stream), after: site(all, others+stream), want: "own"},
		"the log is the default log":   {before: site(all, "log\n"+stream), after: site(all, own+stream), want: "default"},
		"all sites are removed":        {before: site(all, own+stream), want: "own"},
		"the handler is removed":       {before: site(all, own+stream), after: site(all, own), want: "own"},
		"the line is not to be logged": {before: site(all, own+"log_skip /events\n"+stream), after: site(all, own+stream)},
		"it has no log yet":            {before: site(all, stream), after: site(all, own+stream)},
		"only another site has a log":  {before: site(all, stream) + site(elsewhere, others), after: site(all, own+stream)},
		"the site is removed": {
			before: site(all, own+stream) + site(elsewhere, others+stream), after: site(elsewhere, others+stream), want: "own",
		},
		"a site with a log is put before it": {
			before: site(all, own+stream), after: site(elsewhere, others+stream) + site(all, own+stream), want: "own",
		},
		"another host with a log is put before it": {
			before: site(a, own+stream), after: site(b, others+stream) + site(a, own+stream), want: "own",
		},
		"the host is removed": {
			before: site(a, own+stream) + site(b, others+stream), after: site(b, others+stream), want: "own",
		},
		"log_name": {
			before: site(all, named+own+"log_name named\n"+stream), after: site(all, others+"log_name named\n"+stream), want: "named",
		},
		"log_name without a log of that name": {
			before: site(all, own+"log_name named\n"+stream), after: site(all, own+stream), want: "default",
		},
		"another handler changes the host, and it has no log": {
			before: site(all, "route {\nrequest_header Host b.test\n"+stream+"}\n") + site(b, others), after: site(all, stream),
		},
		"another handler changes the host, and both have a log": {
			before: site(a, own+"route {\nrequest_header Host b.test\n"+stream+"}\n") + site(b, others), want: "others",
		},
		"another handler changes the host, and only the first has a log": {
			before: site(a, own+"route {\nrequest_header Host c.test\n"+stream+"}\n"), want: "default",
		},
		"a log of all access logs": {global: access, before: site(all, "log\n"+stream), after: site(all, own+stream), want: "access"},
		"the configuration fails to start": {
			before: site(all, own+stream), after: site(all, others+stream) + site("http://192.0.2.1:PORT", "bind 192.0.2.1\n"), want: "own",
		},
	} {
		for _, mode := range takenModes {
			t.Run(name+", "+mode, func(t *testing.T) {
				origin, dir := plain(t), t.TempDir()
				in := &instance{t: t, scheme: "http", addr: freeAddr(t)}
				t.Cleanup(in.stop)
				text := func(sites string) string {
					text := "{\nlog {\noutput @default\n}\n" + test.global + "sse_fanin {\nstream live " + origin.URL() + "\n}\n}\n" + sites
					text = regexp.MustCompile(`@(\w+)`).ReplaceAllString(text, "file "+dir+"/$1 {\nroll_disabled\n}")
					return strings.NewReplacer("PORT", port(in.addr), "OTHER", port(freeAddr(t)), "detach MODE", mode).Replace(text)
				}
				must(t, load(t, text(test.before)))
				q := in.send("GET http://a.test/events HTTP/1.1", "\r\n")
				q.until(": sse_fanin")
				eventually(t, 10*time.Second, "it is taken over", func() bool { return takenClients.Load() == 1 })
				if err := load(t, text(test.after)); (err != nil) != (name == "the configuration fails to start") {
					t.Fatal(err)
				}
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
					lines := strings.Count(string(text), "handled request")
					whole := len(regexp.MustCompile(`"host":"a\.test".*"sse_end":"client"`).FindAll(text, -1))
					if lines != want || whole != want {
						t.Errorf("the log %q has %d lines, %d of them whole, want %d:\n%s", file.Name(), lines, whole, want, text)
					}
				}
				if _, err := os.Stat(filepath.Join(dir, test.want)); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
