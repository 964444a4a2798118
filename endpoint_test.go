package ssefanin

import (
	"strings"
	"testing"
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
		"me:s3cret@a.example.com/events?token=s3cret":     "a.example.com/events",
		"unix//run/a.sock|/events?token=s3cret":           "unix//run/a.sock|/events",
		"":                                                "",
		"://":                                             "://",
		"https://":                                        "https://",
	} {
		if got := redactText(text); got != want {
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
		"https://me:s3cret@a.example.com/{http.request.uri}?s3cret",
	} {
		err := checkURL(text)
		if err == nil {
			_, err = evaluateURL(text)
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
