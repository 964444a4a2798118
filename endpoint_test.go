package ssefanin

import (
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/internal/urltext"
)

func TestArgumentsThatAreURLs(t *testing.T) {
	for arg, want := range map[string]bool{
		"https://a.example.com":   true,
		"ftp://a.example.com":     true,
		"{env.FEED_URL}":          true,
		"unix//run/a.sock":        true,
		"unix/{env.SOCKET}":       true,
		"prices":                  false,
		"unix":                    false,
		"a.example.com":           false,
		"localhost:8080":          false,
		"/events":                 false,
		"prices-{env.FEED_HOST}":  false,
		"mailto:me@a.example.com": false,
	} {
		if got := isURLArgument(arg); got != want {
			t.Errorf("%q: %v", arg, got)
		}
	}
}

func TestCanonicalURL(t *testing.T) {
	for text, want := range map[string]string{
		"https://a.example.com":                      "https://a.example.com/",
		"HTTPS://A.example.com:443/Events?B=c#d":     "https://a.example.com/Events?B=c",
		"http://a.example.com:80":                    "http://a.example.com/",
		"http://a.example.com:443":                   "http://a.example.com:443/",
		"https://Me:Secret@a.example.com":            "https://Me:Secret@a.example.com/",
		"http://[2001:DB8::1]:80/":                   "http://[2001:db8::1]/",
		"https://a.example.com/a%2Fb":                "https://a.example.com/a%2Fb",
		"unix//run/a.sock":                           "unix//run/a.sock|/",
		"unix//run/A.sock|/e?f#g":                    "unix//run/A.sock|/e?f",
		"HTTPS://{env.FEED_HOST}:443":                "HTTPS://{env.FEED_HOST}:443",
		"https://a.example.com/{env.FEED_TOKEN}#top": "https://a.example.com/{env.FEED_TOKEN}#top",
	} {
		got := canonicalURL(text)
		if got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
		if again := canonicalURL(got); again != got {
			t.Errorf("%s: canonical once is %s, twice %s", text, got, again)
		}
	}
}

func TestHostport(t *testing.T) {
	for text, want := range map[string]string{
		"https://a.example.com":       "a.example.com:443",
		"http://a.example.com":        "a.example.com:80",
		"https://a.example.com:8443/": "a.example.com:8443",
		"http://[::1]/":               "[::1]:80",
		"unix//run/a.sock|/events":    "unix//run/a.sock",
	} {
		ep, err := parseEndpoint(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, got := ep.hostport(); got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}

func TestOrigin(t *testing.T) {
	for _, test := range []struct {
		a, b string
		same bool
	}{
		{"https://a.example.com/x", "https://A.EXAMPLE.com:443/y?z", true},
		{"https://a.example.com", "https://a.example.com:8443", false},
		{"https://a.example.com", "http://a.example.com", false},
		{"https://a.example.com:80", "http://a.example.com:80", false},
		{"https://a.example.com", "https://b.a.example.com", false},
	} {
		a, err := parseEndpoint(test.a)
		if err != nil {
			t.Fatal(err)
		}
		b, err := parseEndpoint(test.b)
		if err != nil {
			t.Fatal(err)
		}
		if same := origin(a.url) == origin(b.url); same != test.same {
			t.Errorf("%s and %s: %v", test.a, test.b, same)
		}
	}
}

func TestRedactText(t *testing.T) {
	for text, want := range map[string]string{
		"https://a.example.com/events":                    "https://a.example.com/events",
		"https://a.example.com/events?token=s3cret":       "https://a.example.com/events",
		"https://a.example.com?token=s3cret":              "https://a.example.com",
		"https://a.example.com/events#s3cret":             "https://a.example.com/events",
		"https://me:s3cret@a.example.com/events":          "https://a.example.com/events",
		"https://s3cret@a.example.com":                    "https://a.example.com",
		"https://me:s3@cret@a.example.com/events":         "https://a.example.com/events",
		"https://me:s3/cret@a.example.com/events":         "https://a.example.com/events",
		"https://me:s3?cret@a.example.com/events":         "https://a.example.com/events",
		"https://me:s3#cret@a.example.com/events":         "https://a.example.com/events",
		"https://me:{env.TOKEN}s3cret@a.example.com":      "https://a.example.com",
		"https://me:{file./s3cret}@a.example.com/e":       "https://a.example.com/e",
		"https://a.example.com/?mail=me@b.example.com":    "https://a.example.com/",
		"https://a.example.com:8443/users/@me":            "https://a.example.com:8443/users/@me",
		"https://{env.HOST}:{env.PORT}/users/@me":         "https://{env.HOST}:{env.PORT}/users/@me",
		"https://[2001:db8::1]:8443/?mail=me@example.com": "https://[2001:db8::1]:8443/",
		"{env.FEED_URL}?token=s3cret":                     "{env.FEED_URL}",
		"{env.FEED_URL}?token=s3cret&next=http://a":       "{env.FEED_URL}",
		"{file./run/feed}://me:s3cret@a.example.com/e":    "{file./run/feed}://a.example.com/e",
		"me:s3cret@a.example.com?next=http://a":           "a.example.com",
		"me:s3cret@a.example.com/events?token=s3cret":     "a.example.com/events",
		"unix//run/a.sock|/events?token=s3cret":           "unix//run/a.sock|/events",
		"":                                                "",
		"://":                                             "://",
		"https://":                                        "https://",
	} {
		if got := urltext.Redact(text); got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}

func TestErrorsAboutURLsTellNoSecrets(t *testing.T) {
	t.Setenv("FEED_TOKEN", "s3cret")
	t.Setenv("FEED_URL", "https://me:s3cret/@a.example.com")
	t.Setenv("FEED_QUERY", "a.example.com?s3cret")
	for _, text := range []string{
		"ftp://me:s3cret@a.example.com?s3cret",
		"https://me:s3cret@?s3cret",
		"https://me:s3cret@a.example.com:0?s3cret#s3cret",
		"https://me:s3cret@a.example.com:70000",
		"https://me:s3cret%zz@a.example.com",
		"https://me:s3cret/@a.example.com",
		"https://me:s3cret?@a.example.com",
		"https://me:s3cret#@a.example.com",
		"https://me:s3cret @a.example.com",
		"https://me:s3cret\x01@a.example.com",
		"https://me:s3cret[@a.example.com",
		"me:s3cret@a.example.com",
		"unix//|/?s3cret",
		"unix//run/a.sock|events?s3cret",
		"unix//run/a.sock|/%zz?s3cret",
		"https://a.example.com:{env.FEED_TOKEN}/",
		"https://{env.FEED_TOKEN} /",
		"{env.FEED_URL}",
		"{env.FEED_QUERY}",
		"https://me:s3cret@{env.NOT_SET}/?s3cret",
		"https://me:s3cret@{http.request.host}/?s3cret",
		"https://me:s3cret@a.example.com/e?s3cret#{http.request.uri}",
		"{http.request.host}?s3cret&next=https://a.example.com",
		"unix//run/{http.request.host}.sock|/?s3cret",
	} {
		err := checkURL(text)
		if err == nil {
			_, _, err = evaluateURL(text)
		}
		switch {
		case err == nil:
			t.Errorf("%q: no error", text)
		case strings.Contains(err.Error(), "s3cret"):
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestEndpointIsShownWithoutSecrets(t *testing.T) {
	for text, want := range map[string]string{
		"https://me:s3cret@a.example.com:8443/events?token=s3cret": "https://a.example.com:8443/events",
		"unix//run/a.sock|/events?token=s3cret":                    "unix//run/a.sock|/events",
	} {
		ep, err := parseEndpoint(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := ep.String(); got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}

// Placeholders of the configuration are filled in, those of the request stay,
// and those of the upstream mean nothing here.
func TestEvaluateURL(t *testing.T) {
	setFeedEnv(t)
	t.Setenv("FEED_BRACES", "{b}")
	for text, want := range map[string]struct{ template, shown string }{
		"https://a.example.com/events":                                  {"https://a.example.com/events", "https://a.example.com/events"},
		"https://{env.FEED_HOST}/e":                                     {"https://host.example.com/e", "https://host.example.com/e"},
		"https://a.example.com/{http.request.uri.path.1}":               {"https://a.example.com/{http.request.uri.path.1}", "https://a.example.com/x"},
		"https://{env.FEED_HOST}/{http.a}/{env.FEED_TOKEN}?b={http.b}":  {"https://host.example.com/{http.a}/s3cret?b={http.b}", "https://host.example.com/x/s3cret"},
		"{env.FEED_URL}/{http.a}":                                       {"https://url.example.com/events/{http.a}", "https://url.example.com/events/x"},
		"{env.FEED_URL}?a={http.a}&b={http.a}":                          {"https://url.example.com/events?a={http.a}&b={http.a}", "https://url.example.com/events"},
		"{env.FEED_URL}?next=https://b.example.com/{http.a}":            {"https://url.example.com/events?next=https://b.example.com/{http.a}", "https://url.example.com/events"},
		"{env.FEED_SOCKET}|/{http.a}":                                   {"unix//run/feed.sock|/{http.a}", "unix//run/feed.sock|/x"},
		"unix/{env.FEED_NAME}|/{http.a}?b={http.b}":                     {"unix/name.example.com|/{http.a}?b={http.b}", "unix/name.example.com|/x"},
		"https://a.example.com/{http.a}/{env.FEED_BRACES}":              {"https://a.example.com/{http.a}/{b}", "https://a.example.com/x/%7Bb%7D"},
		"https://a.example.com?a={http.a}":                              {"https://a.example.com?a={http.a}", "https://a.example.com/"},
		"https://a.example.com/{http.request.uri.query.a?b}?b={http.b}": {"https://a.example.com/{http.request.uri.query.a?b}?b={http.b}", "https://a.example.com/x"},
	} {
		if err := checkURL(text); err != nil {
			t.Error(err)
		}
		template, ep, err := evaluateURL(text)
		if err != nil {
			t.Error(err)
			continue
		}
		if template != want.template || ep.String() != want.shown {
			t.Errorf("%s: got %s and %s, want %s and %s", text, template, ep, want.template, want.shown)
		}
	}
}

// A value is escaped, so a placeholder that stands for more would ask for
// something that nobody means.
func TestPlaceholdersForMoreThanAValue(t *testing.T) {
	t.Setenv("FEED_BASE", "https://a.example.com")
	t.Setenv("FEED_PATH", "https://a.example.com/events?fixed=1")
	const query, uri, room = "{http.request.uri.query}", "{http.request.uri}", "{http.request.uri.query.room}"
	for _, text := range []string{
		"https://a.example.com/events?" + query,
		"https://a.example.com/events?" + room,
		"https://a.example.com/events?" + room + "=1",
		"https://a.example.com/events?fixed=1&" + query,
		"https://a.example.com/events?fixed=1&x" + query,
		"https://a.example.com?" + query + "#top",
		"https://a.example.com/events?fixed={env.FEED_BASE}&" + query,
		"unix//run/a.sock|/events?" + query,
		"{env.FEED_BASE}/events?" + query,
		"{env.FEED_PATH}&" + query,
		"https://a.example.com/" + uri,
		"https://a.example.com/events" + uri,
		"https://a.example.com/events{http.request.uri.prefixed_query}",
		"https://a.example.com/events/{http.request.uri.path}",
		"https://a.example.com/events/{http.request.orig_uri.path}",
		"https://a.example.com/events/{http.request.uri.path.dir}",
		"unix//run/a.sock|/events" + uri,
		"{env.FEED_BASE}/events" + uri,
	} {
		if _, _, err := evaluateURL(text); err == nil || !strings.Contains(err.Error(), "?room={query.room}") {
			t.Errorf("%s: got %v, want what to write instead", text, err)
		}
		if strings.HasPrefix(text, "{env.FEED_PATH") || strings.HasPrefix(text, "{env.") && !strings.Contains(text, "?") {
			continue // where the value goes is not known yet
		}
		if err := checkURL(text); err == nil {
			t.Errorf("%s: it is refused only when it is evaluated", text)
		}
	}
	for _, text := range []string{
		"https://a.example.com/events?room=" + room,
		"https://a.example.com/events?room=" + room + "&page=" + uri,
		"https://a.example.com/events?rooms=a," + room + "," + query,
		"https://a.example.com/events?filter=room=" + room,
		"https://a.example.com/{http.request.uri.path.1}/{http.request.uri.path.file}",
		"unix//run/a.sock|/events?room=" + room,
		"{env.FEED_BASE}/events?room=" + room,
		"{env.FEED_PATH}&room=" + room,
	} {
		if err := checkURL(text); err != nil {
			t.Error(err)
		}
		if _, _, err := evaluateURL(text); err != nil {
			t.Error(err)
		}
	}
}

// Wherever a value of the environment ends, one of a request stands behind the
// host.
func TestEvaluateURLKeepsTheRequestFromTheHost(t *testing.T) {
	for _, base := range []string{
		"https://", "https://a.example.com", "https://a.example.com:", "https://a.example.com:80", "https://me@",
		"https://me:", "https", "unix/", "unix//run/", "", "https://{http.a}.example.com/", "https://a.example.com/{http.a}",
		"https://a.example.com/#",
	} {
		t.Setenv("FEED_BASE", base)
		for _, text := range []string{"{env.FEED_BASE}{http.request.uri.query.a}", "{env.FEED_BASE}{http.request.uri.query.a}/events"} {
			if template, _, err := evaluateURL(text); err == nil {
				t.Errorf("%s with %s: got %s", text, base, template)
			}
		}
	}
}

// hostile are values that a client may try, to get at something else than its
// own.
var hostile = []string{
	"a", "a b", "a/b", "../", "/..", "../../admin", "%2f", "%2e%2e", "..%2f", "a?b", "?", "a#b", "#", "a&b=c", "a=b", "a;b", "a+b", "a%", "%zz",
	"a|b", "a:b", "a@b", "//b.example.com", "https://b.example.com/", "\\\\", "..\\", "ä", "日本", "\u2028", "\u202e", "\xff", "\"", "'", "<", "...",
	"{env.FEED_TOKEN}", "{http.request.uri.query.other}", "{http.request.uri.path.1}", "{", "}", "{{", "$1", "\\{", "*", "~", "[", "a,b",
}

// Nothing that is put into a path leads to another place of it, however often
// it is decoded. (The templates are the path behind the host.)
func TestValuesThatLeaveTheirSegment(t *testing.T) {
	const a, b = "http.request.uri.query.a", "http.request.uri.query.b"
	const one, two = "/users/{" + a + "}/stream", "/users/{" + a + "}{" + b + "}/stream"
	for _, test := range []struct {
		template, a, b string
		refused        bool
	}{
		{one, "ann", "", false},
		{one, "a/b", "", false},
		{one, "ann.", "", false},
		{one, "..ann", "", false},
		{one, "...", "", false},
		{one, "a/.../b", "", false},
		{one, "v1.2/x.y", "", false},
		{one, "100%", "", false},
		{one, "%2e", "", true},
		{one, "%2", "", false},
		{one, "%zz..", "", false},
		{one, "..", "", true},
		{one, "../admin", "", true},
		{one, "x/../admin", "", true},
		{one, "x/..", "", true},
		{one, "./admin", "", true},
		{one, "/..", "", true},
		{one, "..\\admin", "", true},
		{one, "x\\..\\admin", "", true},
		{one, "x\\../admin", "", true},
		{one, "..%2fadmin", "", true},
		{one, "..%5Cadmin", "", true},
		{one, "%2e%2e", "", true},
		{one, "%2E.", "", true},
		{one, "%2e%2e%2fadmin", "", true},
		{one, "%252e%252e%252fadmin", "", true},
		{one, "..%252Fadmin", "", true},
		{one, "%" + strings.Repeat("25", 500) + "2e", "", true},
		{one, "%%32e./admin", "", true},
		{one, "..;/admin", "", true},
		{one, "..;v=1/admin", "", true},
		{one, "a;..", "", false},
		{one, "..?admin", "", true},
		{one, "..%3fadmin", "", true},
		{one, "x/..#admin", "", true},
		{one, "..%2523", "", true},
		{one, "../?x", "", true},
		{one, "a?..", "", false},
		{one, "a?b#c", "", false},
		{one, ".. ", "", true},
		{one, "..%20/admin", "", true},
		{one, "a .. b", "", false},
		{one, "\xc0\xae\xc0\xae/admin", "", true},
		{one, "..\xc0\xafadmin", "", true},
		{one, "..%c1%9cadmin", "", true},
		{one, "%c0%ae.", "", true},
		{one, "\xe0\x80\xae\xf0\x80\x80\xae", "", true},
		{one, "．．/admin", "", true},
		{one, "..／admin", "", true},
		{one, "..＼admin", "", true},
		{one, "‥", "", true},
		{one, "ann／bob．smith", "", false},
		{one, "\xff\xc0", "", false},
		{one, "ann%00", "", true},
		{one, "ann%250d%250a", "", true},
		{two, ".", ".", true},
		{two, "x/.", "./admin", true},
		{two, "%2", "e%2e/admin", true},
		{two, ".", "x", false},
		{"/users/..{" + a + "}", "/admin", "", true},
		{"/users/.{" + a + "}", "ann", "", false},
		{"/users/%2e{" + a + "}", "%2e", "", true},
		{"/users/../{" + a + "}", "ann", "", false}, // what the configuration has is its own matter
		{"/users/ann?file={" + a + "}", "../x", "", false},
		{"/{http.request.uri.query.a/?b}/{" + a + "}", "../x", "", true},
	} {
		values := map[string]string{a: test.a, b: test.b, "http.request.uri.query.a/?b": "x"}
		for _, before := range []string{"https://a.example.com", "unix//run/a.sock|"} {
			err := checkKeyPath(before+test.template, values)
			if refused := err != nil; refused != test.refused {
				t.Errorf("%s with %.50q and %q: %v", test.template, test.a, test.b, err)
			}
		}
	}
}

// A value is one segment of the path, or one value of the query.
func TestFillURLKeepsValuesInTheirPlace(t *testing.T) {
	t.Setenv("FEED_TOKEN", "s3cret")
	const path, query = "http.request.uri.path.1", "http.request.uri.query.user"
	for _, before := range []string{"https://a.example.com", "unix//run/a.sock|"} {
		template := before + "/users/{" + path + "}/events?fixed=1&user={" + query + "}&last=2"
		filled := make(map[string]string)
		for _, value := range hostile {
			if err := checkKeyValue(value); err != nil {
				t.Errorf("%q is refused: it %v", value, err)
			}
			text, err := fillURL(template, map[string]string{path: value, query: value})
			if err != nil {
				t.Errorf("%q: %v", value, err)
				continue
			}
			if other, ok := filled[text]; ok {
				t.Errorf("%q and %q both give %s", other, value, text)
			}
			filled[text] = value
			ep, err := parseEndpoint(text)
			if err != nil {
				t.Errorf("%q: %s: %v", value, text, err)
				continue
			}
			plain, err := parseEndpoint(before + "/")
			if err != nil {
				t.Fatal(err)
			}
			if ep.url.Host != plain.url.Host || ep.socket != plain.socket || ep.url.User != nil || ep.url.Scheme != plain.url.Scheme {
				t.Errorf("%q: it is asked at %s", value, text)
			}
			segments := strings.Split(ep.url.EscapedPath(), "/")
			if len(segments) != 4 || segments[1] != "users" || segments[3] != "events" {
				t.Errorf("%q: the path is %s", value, ep.url.EscapedPath())
			} else if got, err := url.PathUnescape(segments[2]); err != nil || got != value {
				t.Errorf("%q: the segment is %q: %v", value, got, err)
			}
			got, err := url.ParseQuery(ep.url.RawQuery)
			if want := (url.Values{"fixed": {"1"}, "user": {value}, "last": {"2"}}); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%q: the query is %s: %v", value, ep.url.RawQuery, err)
			}
			// what is sent is what was parsed
			if uri := ep.url.RequestURI(); !strings.HasSuffix(text, uri) {
				t.Errorf("%q: %s is asked for as %s", value, text, uri)
			}
		}
	}
}

func TestFillURL(t *testing.T) {
	values := map[string]string{"http.a": "1 /", "http.b": "2&", "http.q?": "3"}
	for template, want := range map[string]string{
		"https://a.example.com/e":                      "https://a.example.com/e",
		"https://a.example.com/{http.a}{http.b}":       "https://a.example.com/1%20%2F2&",
		"https://a.example.com/{http.a}?{http.b}":      "https://a.example.com/1%20%2F?2%26",
		"https://a.example.com?x={http.a}":             "https://a.example.com?x=1+%2F",
		"https://a.example.com/?x=a?y={http.a}":        "https://a.example.com/?x=a?y=1+%2F",
		"https://a.example.com/{http.q?}/?x={http.q?}": "https://a.example.com/3/?x=3",
	} {
		if got, err := fillURL(template, values); err != nil || got != want {
			t.Errorf("%s: got %s, %v; want %s", template, got, err, want)
		}
	}
	if got, err := fillURL("https://a.example.com/{http.a}/{http.c}", values); err == nil {
		t.Errorf("without a value: got %s", got)
	}
}

func TestValuesThatAreNoKeys(t *testing.T) {
	for _, value := range []string{
		"", ".", "..", "\x00", "a\x00", "a\nb", "a\r\nX-Admin: 1", "\t", "a\x1f", "\x7f", strings.Repeat("a", maxKeyValue+1),
	} {
		if checkKeyValue(value) == nil {
			t.Errorf("%.20q is a key", value)
		}
	}
	if err := checkKeyValue(strings.Repeat("a", maxKeyValue)); err != nil {
		t.Errorf("the longest is no key: it %v", err)
	}
}
