/* ---- the nodes that share a stream's log, in its picture ---- */

const shared = (s) => (s.log && s.log.store && s.log.store.nodes) || [];
const writerOf = (s) => shared(s).find((n) => n.writes);
// follows: what the upstreams send is received, and counted, by another node.
const follows = (s) => shared(s).length > 0 && !s.log.store.writes;
const LATE = 3000; // ms that a node may be behind before it is said

class Nodes {
	constructor(picture) {
		this.picture = picture;
		this.writer = el("div", "card node writer");
		this.name = el("div", "name");
		this.what = el("div", "muted");
		this.writer.append(this.name, this.what);
		this.list = el("ul", "members");
		this.list.setAttribute("aria-label", "Nodes");
		this.rest = el("li", "card node rest");
		this.cards = new Map();
		this.on = false;
	}

	card(name) {
		let c = this.cards.get(name);
		if (c) return c;
		c = { root: el("li", "card node member"), writes: el("span", "badge", "writes"), self: el("span", "badge plain", "this one"), clients: el("b"), text: document.createTextNode(""), late: el("span", "late") };
		mark(c.writes, "tone", "good");
		const h = el("h3"), line = el("div");
		h.append(el("span", "", name), c.writes, c.self);
		line.append(c.clients, c.text, c.late);
		c.root.append(h, line);
		this.cards.set(name, c);
		return c;
	}

	update(s, now, rates) {
		const all = shared(s), root = this.picture.root, on = all.length > 0;
		if (on !== this.on) {
			this.on = on;
			root.classList.toggle("shared", on);
			if (on) {
				root.insertBefore(this.writer, this.picture.hub);
				root.append(this.list);
			} else {
				this.writer.remove();
				this.list.remove();
			}
			this.picture.clients.hidden = on;
			this.picture.dirty = true;
		}
		if (!on) return;
		const store = s.log.store, reached = store.state !== "stalled" && store.state !== "closed", writer = writerOf(s);
		const other = writer ? writer.name : reached && store.state === "following" ? store.writer : "";
		put(this.name, other || "nobody");
		this.writer.title = other;
		put(this.what, other ? "writes the log, and has the upstreams" : !reached ? "is known to write, from here" : s.on_demand && !s.clients.connected ? "writes, until a client comes" : "writes the log at present");
		this.state = !other ? (s.on_demand && !s.clients.connected ? "idle" : "connecting") : writer && writer.self && !reached ? "down" : "up";
		mark(this.writer, "state", this.state);
		this.flow = this.state === "up" ? rates[0] || 0 : 0;

		const versions = new Set(all.map((n) => n.version));
		// where there are too many, the writer, this one and the slowest are what matters
		const weight = (n) => (n.writes ? 4e12 : 0) + (n.self ? 2e12 : 0) + Math.min(1e12, n.behind + n.max_lag);
		const shown = new Set(all.length <= MAX_SOURCES ? all : [...all].sort((a, b) => weight(b) - weight(a)).slice(0, MAX_SOURCES - 1));
		const wanted = [];
		for (const n of all) {
			if (!shown.has(n)) continue;
			const c = this.card(n.name), late = n.behind >= LATE;
			wanted.push(c.root);
			c.writes.hidden = !n.writes;
			c.self.hidden = !n.self;
			put(c.clients, plural(n.clients, "client"));
			const text = [n.clients && (n.max_lag ? ", largest lag " + plural(n.max_lag, "event") : ", all caught up"), versions.size > 1 && ", " + (n.version || "version not known")].filter(Boolean).join("");
			if (c.text.data !== text) c.text.data = text;
			put(c.late, late ? span(n.behind) + " behind the log" : "");
			c.root.title = n.name;
			c.state = n.self && !reached ? "down" : late ? "connecting" : "client";
			mark(c.root, "state", c.state);
			c.flow = c.state === "client" ? rates[0] || 0 : 0;
		}
		const more = all.filter((n) => !shown.has(n));
		if (more.length) {
			put(this.rest, plural(more.length, "more node") + " with " + plural(more.reduce((k, n) => k + n.clients, 0), "client"));
			wanted.push(this.rest);
		}
		this.list.classList.toggle("dense", wanted.length > 4);
		if (wanted.length !== this.list.children.length || wanted.some((w, i) => this.list.children[i] !== w)) {
			this.list.replaceChildren(...wanted);
			for (const [name, c] of this.cards) if (!wanted.includes(c.root)) this.cards.delete(name);
			this.picture.dirty = true;
		}
		const p = this.picture, clients = all.reduce((k, n) => k + n.clients, 0), up = tally(s.upstreams).up || 0;
		put(p.ratio, store.kind);
		put(p.hubText, !reached ? store.state : store.last ? "event " + count(store.last) : store.state === "loading" ? "loading" : "no event yet");
		put(p.hubSaid, "the log, in " + store.kind + ", is " + store.state + "; " + (other ? "written by " + other : "nobody writes it") + "; " + up + " of " + plural(s.upstreams.length, "upstream") + " up; " + plural(all.length, "node") + ", " + plural(clients, "client"));
		mark(p.hub, "state", reached ? "" : "down");
	}

	// layout draws the lines from the writer to the log, and from there to the nodes.
	layout(rect, hub) {
		const p = this.picture, w = rect(this.writer);
		if (narrow.matches) p.line("write", `M${w.x} ${w.b}V${hub.t}`);
		else p.line("write", `M${w.r} ${w.y}C${(w.r + hub.l) / 2} ${w.y} ${(w.r + hub.l) / 2} ${hub.y} ${hub.l} ${hub.y}`);
		const items = [...this.list.children], names = new Map([...this.cards].map(([name, c]) => [c.root, name]));
		items.forEach((item, i) => {
			const r = rect(item), key = names.has(item) ? "node " + names.get(item) : "nodes", share = items.length > 1 ? i / (items.length - 1) - .5 : 0;
			if (narrow.matches) {
				const x = 16, c = 12;
				p.line(key, `M${hub.l} ${hub.y}H${x + c}Q${x} ${hub.y} ${x} ${hub.y + c}V${r.y - c}Q${x} ${r.y} ${x + c} ${r.y}H${r.l}`);
			} else {
				const y = hub.y + share * Math.min(44, hub.h - 30), x = (hub.r + r.l) / 2;
				p.line(key, `M${hub.r} ${y}C${x} ${y} ${x} ${r.y} ${r.l} ${r.y}`);
			}
		});
	}

	colour(set) {
		set("write", this.state || "none", this.flow || 0);
		for (const [name, c] of this.cards) set("node " + name, c.state || "client", c.flow || 0);
		set("nodes", "client", 0);
	}
}
