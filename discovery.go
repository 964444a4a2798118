package ssefanin

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

const (
	// lookupEvery is how often addresses are looked up where the module has no
	// interval of its own. Modules cache what they look up.
	lookupEvery = 5 * time.Second

	// lookupTimeout bounds one look-up.
	lookupTimeout = 10 * time.Second

	// leastLookup is the least time between two look-ups.
	leastLookup = 50 * time.Millisecond
)

// loadAddresses loads the module that gives the addresses.
func (e *environment) loadAddresses(ctx caddy.Context, spec *sourceSpec) error {
	// loading clears the raw text
	u := struct {
		DynamicRaw json.RawMessage `caddy:"namespace=http.reverse_proxy.upstreams inline_key=source"`
	}{slices.Clone(spec.dynamicRaw)}
	mod, err := ctx.LoadModule(&u, "DynamicRaw")
	if err != nil {
		return fmt.Errorf("dynamic: %w", err)
	}
	var ok bool
	if e.addresses, ok = mod.(reverseproxy.UpstreamSource); !ok {
		return fmt.Errorf("dynamic: module %T gives no addresses", mod)
	}
	if url := e.endpoints[0].url; url.Scheme == "https" {
		// addresses are dialled, but the certificate is for the name
		t := e.transport.Transport
		if t.TLSClientConfig == nil {
			t.TLSClientConfig = new(tls.Config)
		}
		if t.TLSClientConfig.ServerName == "" {
			t.TLSClientConfig.ServerName = url.Hostname()
		}
	}
	return nil
}

// lookup asks for the addresses, in the order the module gives them.
func (e *environment) lookup(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.endpoints[0].url.String(), nil)
	if err != nil {
		return nil, err
	}
	req = caddyhttp.PrepareRequest(req, caddy.NewReplacer(), nil, nil)
	upstreams, err := e.addresses.GetUpstreams(req)
	if err != nil {
		return nil, err
	}
	var addresses []string
	seen := make(map[string]bool, len(upstreams))
	for _, u := range upstreams {
		if u.Dial != "" && !seen[u.Dial] {
			seen[u.Dial] = true
			addresses = append(addresses, u.Dial)
		}
	}
	if len(addresses) == 0 {
		return nil, errors.New("the look-up gave no address")
	}
	return addresses, nil
}

// refresh is how often the addresses are looked up.
func (e *environment) refresh() time.Duration {
	every := lookupEvery
	switch m := e.addresses.(type) {
	case *reverseproxy.AUpstreams:
		every = time.Duration(m.Refresh)
	case *reverseproxy.SRVUpstreams:
		every = time.Duration(m.Refresh)
	}
	return max(every, leastLookup)
}

// watchAddresses looks addresses up again and again, while there is an
// environment to do so with and they are wanted, and calls changed with them
// when they are others than before. A look-up that fails keeps the addresses;
// the first failure in a row is logged. While they are not wanted it waits for
// look, which has a token after each change of what wanted returns. It returns
// when ctx ends.
func watchAddresses(ctx context.Context, wanted func() (*environment, bool), look <-chan struct{}, logger func() *zap.Logger, changed func([]string)) {
	var known []string
	failing := false
	for {
		env, ok := wanted()
		if !ok {
			select {
			case <-look:
				continue
			case <-ctx.Done():
				return
			}
		}
		addresses, err := env.lookup(ctx)
		every := env.refresh()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			every = min(every, lookupEvery)
			if !failing {
				logger().Warn("looking up addresses failed; keeping those there are",
					zap.Int("addresses", len(known)), zap.Error(err))
			}
		case !sameAddresses(known, addresses):
			known = addresses
			logger().Info("upstream addresses changed", zap.Strings("addresses", addresses))
			changed(addresses)
		}
		failing = err != nil
		timer := time.NewTimer(every)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// nudge puts a token into a channel that holds one, unless it is there.
func nudge(look chan<- struct{}) {
	select {
	case look <- struct{}{}:
	default:
	}
}

// sameAddresses compares without regard to order, which resolvers rotate. None
// comes twice in either.
func sameAddresses(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	known := make(map[string]bool, len(a))
	for _, address := range a {
		known[address] = true
	}
	return !slices.ContainsFunc(b, func(address string) bool { return !known[address] })
}
