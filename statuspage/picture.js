/* ---- the picture of a stream: upstreams, what joins them, clients ---- */

class Picture {
	constructor(parent) {
		this.root = el("div", "picture");
		this.wires = svg("svg", "wires", { "aria-hidden": "true" });
		this.sources = el("ul", "sources");
		this.sources.setAttribute("aria-label", "Upstreams");
		this.hub = el("div", "card node hub");
		this.ratio = el("div", "ratio");
		this.ratio.setAttribute("aria-hidden", "true");
		this.hubText = el("div", "muted", "upstreams to clients");
		this.hubSaid = el("p", "visually-hidden");
		this.hubText.setAttribute("aria-hidden", "true");
		this.hub.append(this.ratio, this.hubText, this.hubSaid);
		this.clients = el("div", "card node clients");
		this.connected = el("div", "big");
		this.facts = el("ul");
		this.lag = el("li"); this.oldest = el("li"); this.total = el("li");
		this.facts.append(this.lag, this.oldest, this.total);
		this.clients.append(this.connected, this.facts);
		this.rest = el("li", "card node rest");
		this.restText = el("span");
		this.more = el("button");
		this.more.type = "button";
		this.more.onclick = () => { this.whole = !this.whole; this.again(); };
		this.rest.append(this.restText, this.more);
		this.root.append(this.wires, this.sources, this.hub, this.clients);
		parent.append(this.root);
		this.nodes = new Map();
		this.lines = new Map(); // by what they join
		this.out = 1;
		this.members = new Nodes(this);
		new ResizeObserver(() => this.layout()).observe(this.root);
	}

	node(u) {
		let n = this.nodes.get(u.name);
		if (n) return n;
		n = { root: el("li", "card node source"), badge: el("span", "badge"), rate: el("span", "rate"), why: el("div", "why"), at: el("div", "at mono"), history: [] };
		const h = el("h3");
		h.append(el("span", "", u.name), n.badge);
		n.cause = el("b");
		n.rest = document.createTextNode("");
		n.why.append(n.cause, n.rest);
		n.spark = new Spark("in");
		n.root.append(h, n.rate, n.why, n.at, n.spark.root);
		this.nodes.set(u.name, n);
		return n;
	}

	again() { if (this.last) this.update(...this.last); }

	update(s, now, rates, minutes) {
		this.last = [s, now, rates, minutes];
		const ups = [...s.upstreams].sort((a, b) => inOrder(a.name, b.name));
		const n = tally(ups), up = n.up || 0, all = s.upstreams.length;
		// where there are too many, those that are not up are what matters
		const shown = new Set(this.whole || all <= MAX_SOURCES ? ups : [...ups].sort((a, b) => (a.state === "up") - (b.state === "up")).slice(0, MAX_SOURCES - 1));
		this.root.classList.toggle("dense", shown.size > 4);
		const wanted = [];
		for (const u of ups) {
			if (!shown.has(u)) continue;
			const node = this.node(u);
			wanted.push(node.root);
			mark(node.root, "state", u.state);
			mark(node.badge, "tone", TONES[u.state] || "");
			put(node.badge, WORDS[u.state] || u.state);
			const newest = node.history[node.history.length - 1];
			if (!newest || now > newest.t) node.history.push({ t: now, events: u.events || 0 });
			while (node.history.length > 6) node.history.shift();
			const a = node.history[0], rate = node.history.length > 1 && now > a.t ? Math.max(0, 1000 * ((u.events || 0) - a.events) / (now - a.t)) : undefined;
			const away = follows(s); // then only the sum is known here
			node.flow = u.state === "up" ? (away ? (rates[0] || 0) / up : rate || 0) : 0;
			node.rate.hidden = u.state !== "up" || away;
			if (rate !== undefined) valued(node.rate, decimal(rate), "/s");
			const down = u.state === "down" ? cause(u) : "";
			put(node.cause, down);
			const text = explain(u, now, s.log && s.log.store), tail = (down && text ? ", " : "") + text;
			if (node.rest.data !== tail) node.rest.data = tail;
			const at = place(u);
			put(node.at, at);
			node.at.title = (u.urls || []).join("\n");
			node.spark.root.hidden = away;
			if (!away) node.spark.show(minutes && minutes[u.name], Math.ceil(extent / 60), "Events of " + u.name + " a minute");
		}
		if (shown.size < all) {
			const more = ups.filter((u) => !shown.has(u)), t = tally(more);
			put(this.more, plural(more.length, "more upstream"));
			put(this.restText, "");
			this.more.title = Object.keys(WORDS).filter((k) => t[k]).map((k) => count(t[k]) + " " + WORDS[k]).join(", ");
			this.more.setAttribute("aria-expanded", "false");
			wanted.push(this.rest);
		} else if (all > MAX_SOURCES) {
			put(this.more, "Fewer upstreams");
			put(this.restText, "");
			this.more.title = "";
			this.more.setAttribute("aria-expanded", "true");
			wanted.push(this.rest);
		}
		this.more.hidden = all <= MAX_SOURCES;
		if (!all) {
			put(this.restText, s.keyed ? plural(s.keys || 0, "key") + " live, each with upstreams of its own" : "no upstreams");
			wanted.push(this.rest);
		}
		if (wanted.length !== this.sources.children.length || wanted.some((w, i) => this.sources.children[i] !== w)) {
			this.sources.replaceChildren(...wanted);
			for (const [name, node] of this.nodes) if (!wanted.includes(node.root)) this.nodes.delete(name);
			this.dirty = true;
		}
		this.restState = !s.keyed && !all ? "none" : s.keyed && !all ? (s.keys ? "up" : "idle") : "up";
		this.restFlow = rates[0] || 0;

		const m = s.clients.connected || 0;
		put(this.ratio, count(s.keyed ? s.keys : up) + " → " + count(m));
		put(this.hubText, s.keyed ? "keys to clients" : "upstreams to clients");
		put(this.hubSaid, (s.keyed ? plural(s.keys || 0, "live key") : up + " of " + all + " upstreams up") + ", " + plural(m, "client"));
		valued(this.connected, count(m), m === 1 ? "client" : "clients");
		put(this.lag, m ? (s.clients.max_lag ? "largest lag " + plural(s.clients.max_lag, "event") : "all caught up") : "nobody listens");
		this.oldest.hidden = !m || !s.clients.oldest;
		put(this.oldest, "longest connected " + span(now - s.clients.oldest));
		put(this.total, count(s.clients.total) + " in all");
		const out = Math.max(1, Math.min(MAX_LINES, m));
		if (out !== this.out) { this.out = out; this.dirty = true; }
		this.outState = m ? "client" : "none";
		this.outFlow = m ? (rates[2] || 0) / m : 0;
		this.members.update(s, now, rates);
		if (this.dirty) this.layout();
		this.colour();
	}

	line(key, d, end) {
		let l = this.lines.get(key);
		if (!l) {
			l = { g: svg("g"), rail: svg("path", "rail"), flow: svg("path", "flow") };
			l.g.append(l.rail, l.flow);
			if (end) l.g.append(l.dot = svg("circle", "", { r: 4 }));
			l.at = 0;
			this.wires.append(l.g);
			this.lines.set(key, l);
		}
		l.used = true;
		l.rail.setAttribute("d", d);
		l.flow.setAttribute("d", d);
		if (l.dot) { l.dot.setAttribute("cx", end[0]); l.dot.setAttribute("cy", end[1]); }
	}

	layout() {
		this.dirty = false;
		const box = this.root.getBoundingClientRect();
		if (!box.width) return;
		const rect = (e) => {
			const r = e.getBoundingClientRect();
			return { l: r.left - box.left, r: r.right - box.left, t: r.top - box.top, b: r.bottom - box.top, x: (r.left + r.right) / 2 - box.left, y: (r.top + r.bottom) / 2 - box.top, w: r.width, h: r.height };
		};
		for (const l of this.lines.values()) l.used = false;
		const hub = rect(this.hub), clients = rect(this.clients), items = [...this.sources.children];
		const into = this.members.on ? rect(this.members.writer) : hub;
		const keys = new Map([...this.nodes].map(([name, n]) => [n.root, "in " + name]));
		items.forEach((item, i) => {
			const r = rect(item), key = keys.get(item) || "rest";
			const share = items.length > 1 ? i / (items.length - 1) - .5 : 0;
			if (narrow.matches) {
				const x = 16, c = 12;
				this.line(key, `M${r.l} ${r.y}H${x + c}Q${x} ${r.y} ${x} ${r.y + c}V${into.y - c}Q${x} ${into.y} ${x + c} ${into.y}H${into.l}`);
			} else {
				const y = into.y + share * Math.min(44, into.h - 30), x = (r.r + into.l) / 2;
				this.line(key, `M${r.r} ${r.y}C${x} ${r.y} ${x} ${y} ${into.l} ${y}`);
			}
		});
		if (this.members.on) this.members.layout(rect, hub);
		for (let i = 0; i < this.out && !this.members.on; i++) {
			const share = this.out > 1 ? i / (this.out - 1) - .5 : 0;
			if (narrow.matches) {
				const a = hub.x + share * Math.min(70, hub.w - 40), end = hub.x + share * Math.min(2 * (hub.x - clients.l - 14), 26 * (this.out - 1)), y = (hub.b + clients.t) / 2;
				this.line("out " + i, `M${a} ${hub.b}C${a} ${y} ${end} ${y} ${end} ${clients.t - 12}`, [end, clients.t - 8]);
			} else {
				const y = hub.y + share * Math.min(44, hub.h - 30), end = clients.y + share * Math.min(clients.h - 24, 22 * (this.out - 1)), x = (hub.r + clients.l) / 2;
				this.line("out " + i, `M${hub.r} ${y}C${x} ${y} ${x} ${end} ${clients.l - 12} ${end}`, [clients.l - 8, end]);
			}
		}
		for (const [key, l] of this.lines) {
			if (l.used) continue;
			l.g.remove();
			this.lines.delete(key);
		}
		this.colour();
	}

	colour() {
		const set = (key, state, flow) => {
			const l = this.lines.get(key);
			if (!l) return;
			mark(l.g, "state", state);
			const on = flow > 0.02 && !calm.matches;
			l.g.classList.toggle("on", on);
			// 20 px/s for a trickle, 60 px/s for a flood
			l.speed = on ? 20 * Math.min(3, 1 + Math.log10(1 + flow) / 2) : 0;
		};
		for (const [name, n] of this.nodes) set("in " + name, n.root.dataset.state, n.flow || 0);
		set("rest", this.restState || "none", this.restFlow || 0);
		for (let i = 0; i < this.out; i++) set("out " + i, this.outState || "none", this.outFlow || 0);
		this.members.colour(set);
		this.run();
	}

	// run has the dots move, or stop: nothing moves that is not seen.
	run() {
		moving[this.visible && !stale && [...this.lines.values()].some((l) => l.speed) ? "add" : "delete"](this);
		move();
	}

	step(seconds) {
		for (const l of this.lines.values()) {
			if (!l.speed) continue;
			l.at = (l.at - l.speed * seconds) % DOTS;
			l.flow.setAttribute("stroke-dashoffset", l.at.toFixed(1));
		}
	}
}

// The dots of all pictures move a few times a second: at the rate of the
// screen they took a quarter of a processor.
const FRAME = 200; // ms
const DOTS = 21.1; // px from dot to dot
const moving = new Set();
let motion = 0;
function move() {
	const wanted = moving.size > 0 && !document.hidden;
	if (wanted && !motion) {
		motion = setInterval(() => { for (const p of moving) p.step(FRAME / 1000); }, FRAME);
	} else if (!wanted && motion) {
		clearInterval(motion);
		motion = 0;
	}
}
document.addEventListener("visibilitychange", move);
