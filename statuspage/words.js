"use strict";
const HOUR = 3600;        // of the plots, in s
const STALE = 3500;       // without a snapshot for so long, the page is stale
const MAX_SOURCES = 10;   // nodes in a picture, unless all are asked for
const MAX_LINES = 9;      // lines out of a hub
const MAX_TYPES = 12;
const OPEN = 2;           // streams that are open to begin with

const $ = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const narrow = matchMedia("(max-width: 720px)");
const dark = matchMedia("(prefers-color-scheme: dark)");

/* ---- small things ---- */

function el(tag, cls, text) {
	const e = document.createElement(tag);
	if (cls) e.className = cls;
	if (text !== undefined) e.textContent = text;
	return e;
}
function svg(tag, cls, attrs) {
	const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
	if (cls) e.setAttribute("class", cls);
	for (const k in attrs) e.setAttribute(k, attrs[k]);
	return e;
}
function put(e, text) { if (e.textContent !== text) e.textContent = text; } // a node that stays is a selection that stays
function mark(e, key, value) { if (e.dataset[key] !== value) e.dataset[key] = value; }
// valued writes "12 <small>/s</small>".
function valued(e, value, unit) {
	if (!e.firstChild || !e.firstElementChild) e.replaceChildren("", el("small"));
	if (!(e.firstChild instanceof Text)) e.prepend("");
	if (e.firstChild.data !== value) e.firstChild.data = value;
	put(e.lastElementChild, unit);
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const count = (n) => whole.format(n || 0);
const plural = (n, word) => count(n) + " " + word + (n === 1 ? "" : "s");
function decimal(n) { return n === 0 ? "0" : n < 0.05 ? "<0.1" : n < 100 ? n.toFixed(1) : n < 1e5 ? count(n) : (n / 1e3).toFixed(0) + "k"; }
function bytes(n) {
	let unit = 0;
	while (n >= 1000 && unit < 5) { n /= 1024; unit++; }
	return [unit === 0 ? count(n) : n >= 100 ? n.toFixed(0) : n.toFixed(1), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit]];
}
const size = (n) => bytes(n).join(" ");
function span(ms) {
	const s = Math.max(0, Math.round(ms / 1000)), m = Math.floor(s / 60), h = Math.floor(m / 60), d = Math.floor(h / 24);
	if (s < 60) return s + " s";
	if (m < 10) return m + " min" + (s % 60 ? " " + s % 60 + " s" : "");
	if (h < 1) return m + " min";
	if (d < 2) return h + " h" + (m % 60 ? " " + m % 60 + " min" : "");
	return d + " days";
}
const ago = (ms) => ms < 1500 ? "just now" : span(ms) + " ago";
const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");

const minute = (ms) => new Date(ms).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
const inOrder = new Intl.Collator("en", { numeric: true }).compare; // shard-2 before shard-10

const said = [];
function say(text) { // all that one snapshot has to say is said at once
	said.push(text);
	if (said.length === 1) setTimeout(() => { $("say").textContent = said.splice(0).slice(0, 4).join(". "); }, 50);
}

/* ---- words ---- */

const WORDS = { up: "up", connecting: "connecting", down: "down", idle: "idle", finished: "finished" };
const TONES = { up: "good", connecting: "wait", down: "bad" };
const REASONS = { // the words of the server
	eof: "the upstream ended the stream", error: "the connection failed", certificate: "a certificate is not accepted", tls: "TLS on one side only", unknown_host: "there is no host of that name", head_timeout: "no answer in time", idle_timeout: "silent for too long",
	status: "answered with a status other than 200", content_type: "answered with something else than an event stream", finished: "answered that nothing more comes",
	redirect: "redirected to where it may not", request: "the request could not be made", refused_id: "refused the last event id", closed: "closed from here", removed: "removed from the configuration",
};

function cause(u) {
	return u.error || REASONS[u.reason] || String(u.reason || "").replaceAll("_", " ");
}
function explain(u, now, store) {
	const since = u.since ? span(now - u.since) : "";
	switch (u.state) {
	case "up":
		return [since && "for " + since, u.last_event ? "last event " + ago(now - u.last_event) : "no event yet"].filter(Boolean).join(", ");
	case "down":
		return [since && "for " + since, u.retry_at > now ? "next try in " + span(u.retry_at - now) : u.retry_at ? "trying now" : ""].filter(Boolean).join(", ");
	case "connecting":
		return [since && "for " + since, u.error || u.reason ? "before: " + cause(u) : ""].filter(Boolean).join(", ");
	case "idle":
		switch (store ? store.state : "writing") {
		case "writing":
			return "connected when a client comes";
		case "following":
			return "connected where the log is written";
		}
		return "connected when the log can be written";
	case "finished":
		return ["the upstream said that nothing more comes", since && since + " ago"].filter(Boolean).join(", ");
	}
	return since && "for " + since;
}
function place(u) {
	const urls = u.urls || [];
	if (!urls.length) return "";
	const used = u.connected && u.connected.length === 1 ? u.connected[0] : urls[0]; // which one it is, where there is one
	const first = String(used).replace(/^https?:\/\//, "");
	return first + (urls.length > 1 ? "  +" + (urls.length - 1) + (u.policy ? ", " + u.policy : "") : "");
}
// kept describes what is kept besides the events in memory.
function kept(log) {
	const v = log.last_values;
	return [stored(log), v && plural(v.values, "last value") + ", " + size(v.memory)].filter(Boolean).join("; ");
}
// stored describes a log that is kept besides memory.
function stored(log) {
	const s = log.store;
	if (!s) return "";
	const where = s.kind === "file" ? "in files" : "in " + s.kind, state = where + ": " + s.state;
	if (!s.first) return state;
	return state + ", " + short(log.events || 0) + (log.events === 1 ? " event, " : " events, ") + size(log.bytes || 0) +
		", newest " + size(log.memory || 0) + " in memory" + (s.buffered ? ", " + plural(s.buffered, "more event") + " to be written" : "");
}
const tally = (list) => list.reduce((n, u) => (n[u.state] = (n[u.state] || 0) + 1, n), {});
