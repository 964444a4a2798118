/* ---- one stream ---- */

const FACTS = ["Replay log", "Gaps", "Refused", "Replayed", "Left out", "Last event"];
const REFUSED = { full: "by max_clients", streams: "by max_streams", key: "for their key", exit: "during the exit" };
const COLUMNS = [
	["State", (u) => WORDS[u.state] || u.state],
	["Since", (u) => u.since ? clock(u.since) : "–"],
	["Connects", (u) => count(u.connects), "r"],
	["Disconnects", (u) => count(u.disconnects), "r"],
	["Events", (u) => count(u.events), "r"],
	["Bytes", (u) => size(u.bytes || 0), "r"],
	["Skipped", (u) => count(u.skipped), "r"],
	["Duplicates", (u) => count(u.duplicates), "r"],
	["Last event id", (u) => u.last_event_id || "–", "mono urls"],
	["Last failure", (u) => cause(u) || "–", "urls"],
	["Connected to", (u) => (u.connected || []).join(" ") || "–", "mono urls"],
	["Addresses", (u) => (u.urls || []).join(" ") + (u.policy ? " (" + u.policy + ")" : ""), "mono urls"],
];

// A removed stream, whose clients are leaving, may stand beside one of its name.
const keyOf = (s) => s.name + (s.removed ? " (removed)" : "");

// [label, unit, [series, tone, columns of the hour, as bars]...]; the first
// four of live() are of the snapshot.
const PLOTS = [
	["Events in", "rate", [["in", "in", ["in"]]]],
	["Events out", "rate", [["out", "out", ["out"]]]],
	["Delivery delay", "time", [["p99", "late", ["p99"]], ["p50", "out", ["p50"]]]],
	["Gaps and refusals", "count", [["gaps", "bad", ["gaps_expired", "gaps_unknown"], true], ["refused", "late", ["refused"], true]]],
	["Clients", "count", [["clients", "out", ["clients"]]]],
	["Lag of the slowest client, events", "count", [["lag", "late", ["lag"]]]],
	["Bytes in", "bytes", [["in", "in", ["in_bytes"]]]],
	["Bytes out", "bytes", [["out", "out", ["out_bytes"]]]],
];

// Rates are of counters, over the last few snapshots.
class Rates {
	constructor() { this.points = []; this.last = new Map(); this.sums = [0, 0, 0, 0]; }
	// The counters begin anew where a process or a stream does; that is no
	// negative rate.
	grow(i, key, value, seen) {
		const before = this.last.get(key);
		seen.set(key, value);
		if (before !== undefined && value > before) this.sums[i] += value - before;
	}
	add(t, s) {
		const seen = new Map(), p = this.points;
		if (follows(s)) this.grow(0, "log", s.log.head || 0, seen); // another node receives it
		else for (const u of s.upstreams) {
			this.grow(0, "e " + u.name, u.events || 0, seen);
			this.grow(1, "b " + u.name, u.bytes || 0, seen);
		}
		this.grow(2, "out", s.delivered.events || 0, seen);
		this.grow(3, "outbytes", s.delivered.bytes || 0, seen);
		this.last = seen;
		if (p.length && t <= p[p.length - 1].t) return; // the same snapshot again
		p.push({ t, v: this.sums.slice() });
		while (p.length > 2 && p[1].t <= t - 5000) p.shift();
	}
	// undefined while there is only one point
	rate(i) {
		const p = this.points, a = p[0], b = p[p.length - 1];
		return p.length > 1 ? 1000 * (b.v[i] - a.v[i]) / (b.t - a.t) : undefined;
	}
}

class Stream {
	constructor(name, key) {
		this.name = name;
		this.key = key;
		this.rated = new Rates();
		this.hour = new Hour();
		this.states = new Map();
		this.plots = [];
		const id = "stream-" + key.replaceAll(" ", "-");
		this.root = el("section", "card stream");
		this.root.id = id;
		this.root.tabIndex = -1;
		const head = el("div", "head"), h2 = el("h2");
		this.toggle = el("button", "toggle");
		this.toggle.type = "button";
		this.title = el("span", "name", name);
		this.title.id = id + "-title";
		this.root.setAttribute("aria-labelledby", this.title.id);
		this.badge = el("span", "badge");
		this.kind = el("span", "badge plain");
		this.worst = el("span", "badge");
		this.toggle.append(this.title, this.badge, this.worst, this.kind);
		this.toggle.onclick = () => this.open(!this.opened);
		h2.append(this.toggle);
		this.spark = new Spark("in");
		const figures = el("dl", "figures");
		this.figures = ["In", "Out", "Clients", "Lag"].map((label) => {
			const div = el("div"), dd = el("dd", "", "–");
			div.append(el("dt", "", label), dd);
			figures.append(div);
			return dd;
		});
		head.append(h2, this.spark.root, figures);
		this.body = el("div", "body");
		this.body.id = id + "-body";
		this.body.hidden = true;
		this.toggle.setAttribute("aria-expanded", "false");
		this.toggle.setAttribute("aria-controls", this.body.id);
		this.root.append(head, this.body);

		this.watch = new IntersectionObserver((entries) => {
			this.visible = entries[entries.length - 1].isIntersecting;
			this.seen();
		}, { rootMargin: "300px" });
		this.watch.observe(this.root);
	}

	// seen has drawn what has come into view.
	seen() {
		if (this.picture) {
			this.picture.visible = this.visible && this.opened;
			this.picture.run();
		}
		if (this.s) this.draw();
	}

	// draw shows the snapshot.
	draw() {
		this.line();
		this.detail();
		this.plot();
	}

	open(wanted) {
		if (wanted === this.opened) return;
		this.opened = wanted;
		if (wanted && !this.picture) this.fill();
		this.body.hidden = !wanted;
		this.root.classList.toggle("open", wanted);
		this.toggle.setAttribute("aria-expanded", String(wanted));
		this.seen();
	}

	// fill makes what is shown of an open stream.
	fill() {
		const name = this.name;
		this.epoch = el("div", "epoch mono");
		this.body.append(this.epoch);
		this.picture = new Picture(this.body);
		const plots = el("div", "plots");
		this.body.append(plots);
		this.plots = PLOTS.map(([label, unit, series]) => new Plot(plots, label, unit, series));

		const dl = el("dl", "facts");
		this.facts = {};
		for (const label of FACTS) {
			const div = el("div"), dd = el("dd"), b = el("b"), small = el("small");
			dd.append(b, small);
			div.append(el("dt", "", label), dd);
			dl.append(div);
			this.facts[label] = { div, dd, b, small };
		}
		this.bars = ["events", "stored", "memory", "age"].map((label) => {
			const row = el("div", "fill-row"), bar = el("span", "bar"), fill = el("i"), text = el("span", "num");
			bar.append(fill);
			row.append(el("span", "", label), bar, text);
			this.facts["Replay log"].dd.append(row);
			return { row, bar, fill, text };
		});
		this.body.append(dl);

		this.types = el("div", "types");
		this.typeList = el("ul");
		this.types.append(el("h3", "", "Event types"), this.typeList);
		this.recent = el("div", "recent");
		this.recentList = el("ol");
		this.recent.append(el("h3", "", "Newest events"), this.recentList);
		this.body.append(this.types, this.recent);

		this.details = el("details");
		const scroll = el("div", "scroll"), table = el("table"), tr = el("tr"), thead = el("thead");
		scroll.tabIndex = 0;
		scroll.setAttribute("role", "region");
		scroll.setAttribute("aria-label", "Upstreams of " + name + " in numbers");
		this.rows = el("tbody");
		const th = (text, cls) => { const e = el("th", cls, text); e.scope = "col"; return e; };
		tr.append(th("Upstream"), ...COLUMNS.map(([label, , cls]) => th(label, cls === "r" ? "r" : "")));
		thead.append(tr);
		table.append(thead, this.rows);
		scroll.append(table);
		this.details.append(el("summary", "", "Upstreams in numbers"), scroll);
		this.details.ontoggle = () => this.table();
		this.admin = el("details");
		this.adminList = el("div", "commands");
		this.admin.append(el("summary", "", "Commands for the admin API"), this.adminList);
		this.admin.ontoggle = () => this.commands();
		this.body.append(this.details, this.admin);
	}

	remove() {
		this.watch.disconnect();
		if (this.picture) { this.picture.visible = false; this.picture.run(); }
		this.root.remove();
	}

	take(history) {
		this.hour.take(history);
		this.fresh = true;
	}

	update(s, now, troubles, admin) {
		this.s = s;
		this.now = now;
		this.troubles = troubles;
		this.adminCommand = admin;
		this.rated.add(now, s);
		this.rates = [0, 1, 2, 3].map((i) => this.rated.rate(i));
		for (const u of s.upstreams) {
			const before = this.states.get(u.name);
			if (before && before !== u.state && (u.state === "up" || u.state === "down" || u.state === "finished")) {
				say(s.name + ": " + u.name + " is " + WORDS[u.state] + (u.state === "down" && cause(u) ? ", " + cause(u) : ""));
			}
			if (u.state !== "connecting" || !before) this.states.set(u.name, u.state);
		}
		const state = s.log && s.log.store && s.log.store.state;
		if (state && this.logState && state !== this.logState && (state === "stalled" || this.logState === "stalled")) {
			say(s.name + ": the log is " + state);
		}
		this.logState = state;
		// 0: all is well; the order of streams
		this.rank = s.removed ? .5 : troubles.reduce((r, t) => Math.max(r, t.kind === "down" || (t.kind === "log" || t.kind === "unwritten") && t.level === "bad" ? 3 : t.level === "bad" ? 2 : 1), 0);
		this.draw();
	}

	words() {
		const s = this.s, all = s.upstreams.length, n = tally(s.upstreams), up = n.up || 0;
		const parts = ["down", "connecting", "finished"].filter((k) => n[k]).map((k) => count(n[k]) + " " + WORDS[k]);
		const keys = count(s.keys || 0) + (s.max_keys ? " of " + count(s.max_keys) : "") + (s.keys === 1 && !s.max_keys ? " key" : " keys");
		put(this.badge, s.keyed ? keys : !all ? "no upstreams" : up === all ? (all === 1 ? "up" : "all " + all + " up") : n.idle === all ? "idle" : up + " of " + all + " up" + (parts.length ? ", " + parts.join(", ") : ""));
		mark(this.badge, "tone", n.down ? "bad" : n.connecting ? "wait" : up ? "good" : "");
		// what is down is said by the badge before
		const worst = this.troubles.find((t) => t.kind !== "down" && t.kind !== "connecting");
		this.worst.hidden = !worst;
		if (worst) {
			put(this.worst, KINDS[worst.kind] || worst.kind);
			mark(this.worst, "tone", worst.level === "bad" ? "bad" : "wait");
		}
		const nodes = shared(s).length, writer = writerOf(s);
		const kinds = [nodes && plural(nodes, "node") + (s.log.store.writes ? ", this one writes" : writer ? ", " + writer.name + " writes" : s.log.store.state === "stalled" ? " known" : ", nobody writes"), s.removed && "removed, clients leaving", s.keyed && "keyed", s.on_demand && !s.keyed && "on demand"].filter(Boolean);
		this.kind.hidden = !kinds.length;
		put(this.kind, kinds.join(" · "));
	}

	// line shows what is in the line of a stream.
	line() {
		const s = this.s;
		this.words();
		const most = Math.ceil(extent * 1000 / this.hour.step);
		this.spark.show(this.hour.columns.in, most, "Events in of " + this.name + " a second");
		[this.rateText(0), this.rateText(2), count(s.clients.connected) + (s.clients.max ? " / " + short(s.clients.max) : ""), count(s.clients.max_lag)].forEach((text, i) => put(this.figures[i], text));
	}

	// detail shows what is in an open stream.
	detail() {
		if (!this.opened) return;
		const s = this.s, now = this.now, log = s.log || {};
		put(this.epoch, log.epoch ? "epoch " + log.epoch + (log.ids ? " · ids " + log.ids : "") : "");
		this.epoch.hidden = !log.epoch;
		this.picture.update(s, now, this.rates, this.hour.upstreams);

		const f = this.facts;
		put(f["Replay log"].b, !log.events ? "empty" : log.oldest ? "reaches back " + span(now - log.oldest) : plural(log.events, "event"));
		const store = log.store;
		put(f["Replay log"].small, kept(log));
		f["Replay log"].small.hidden = !store && !log.last_values;
		mark(f["Replay log"].small, "tone", !store ? "" : store.state === "stalled" || store.state === "closed" ? "bad" : store.state === "loading" ? "wait" : "");
		this.bar(0, log.events || 0, log.max_events, count);
		this.bar(1, log.bytes || 0, store && log.max_bytes, size);
		this.bar(2, log.memory || 0, store ? log.max_memory : log.max_bytes, size);
		this.bar(3, log.oldest ? now - log.oldest : 0, log.max_age, span);
		put(f["Replayed"].b, count(s.delivered.replayed));
		put(f["Replayed"].small, "of " + plural(s.delivered.events || 0, "event") + " delivered");
		const gaps = (s.gaps.expired || 0) + (s.gaps.unknown || 0), recent = this.troubles.some((t) => t.kind === "gaps");
		put(f["Gaps"].b, count(gaps));
		put(f["Gaps"].small, gaps ? [s.gaps.expired && count(s.gaps.expired) + " expired", s.gaps.unknown && count(s.gaps.unknown) + " unknown"].filter(Boolean).join(", ") : "every resume was complete");
		mark(f["Gaps"].div, "tone", recent ? "wait" : "");
		const refused = Object.entries(s.clients.refused || {}).filter(([, n]) => n);
		put(f["Refused"].b, count(refused.reduce((n, [, k]) => n + k, 0)));
		put(f["Refused"].small, refused.length ? refused.map(([why, n]) => count(n) + " " + (REFUSED[why] || why)).join(", ") : s.clients.max ? "at most " + plural(s.clients.max, "client") : "no limit of clients");
		mark(f["Refused"].div, "tone", this.troubles.some((t) => t.kind === "refused") ? "wait" : "");
		const skipped = s.upstreams.reduce((n, u) => n + (u.skipped || 0), 0), dups = s.upstreams.reduce((n, u) => n + (u.duplicates || 0), 0);
		put(f["Left out"].b, count(skipped + dups));
		put(f["Left out"].small, skipped + dups ? count(dups) + " duplicate, " + count(skipped) + " skipped" : "no duplicates, none skipped");
		put(f["Last event"].b, log.newest ? ago(now - log.newest) : "none yet");
		put(f["Last event"].small, log.head ? "number " + count(log.head) + " of this log" : "");

		const types = Object.entries(s.types || {}).sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
		this.types.hidden = !types.length;
		const sign = JSON.stringify(types);
		if (sign !== this.typeSign) {
			this.typeSign = sign;
			this.typeList.replaceChildren(...types.slice(0, MAX_TYPES).map(([type, k]) => {
				const li = el("li");
				li.append(el("span", "mono", type), el("span", "num mono", count(k)));
				return li;
			}));
			if (types.length > MAX_TYPES) this.typeList.append(el("li", "muted", plural(types.length - MAX_TYPES, "more type")));
		}
		this.recent.hidden = !(s.recent && s.recent.length);
		if (!this.recent.hidden) {
			const sign = JSON.stringify(s.recent);
			if (sign !== this.recentSign) {
				this.recentSign = sign;
				this.recentList.replaceChildren(...s.recent.map((e) => {
					const li = el("li"), time = el("time", "", e.time ? clock(e.time) : "");
					if (e.time) time.dateTime = new Date(e.time).toISOString();
					const d = el("span", "d", e.data), t = el("span", "t", e.type);
					d.title = e.data;
					if (e.id) t.title = "id " + e.id;
					li.append(time, t, d);
					return li;
				}));
			}
		}
		this.table();
		this.commands();
	}

	rateText(i) { return this.rates[i] === undefined ? "–" : decimal(this.rates[i]) + " /s"; }

	bar(i, value, max, format) {
		const b = this.bars[i];
		b.row.hidden = !max;
		if (!max) return;
		b.fill.style.width = value ? Math.min(100, Math.max(1, 100 * value / max)).toFixed(1) + "%" : "0";
		// the bounds are those of each key's log
		b.bar.classList.toggle("none", this.s.keyed);
		put(b.text, format(value) + (this.s.keyed ? ", up to " + format(max) + " a key" : " of " + format(max)));
	}

	plot() {
		if (!this.opened) return;
		const [i, bi, o, bo] = this.rates, c = this.s.clients;
		const live = [[i], [o], [], [], [c.connected || 0], [c.max_lag || 0], [follows(this.s) ? undefined : bi], [bo]];
		this.plots.forEach((p, k) => {
			if (this.fresh || !p.data) p.draw(this.hour);
			p.live(live[k]);
		});
		this.fresh = false;
	}

	// commands shows what can be done from a shell.
	commands() {
		this.admin.hidden = !this.adminCommand; // it is off
		if (this.admin.hidden || !this.admin.open || !this.s) return;
		const of = this.adminCommand + "/" + encodeURIComponent(this.s.name), names = this.s.upstreams.map((u) => u.name).sort(inOrder), nodes = shared(this.s).length > 0;
		const sign = of + names.join() + nodes;
		if (sign === this.adminSign) return;
		this.adminSign = sign;
		const list = [el("p", "", "Connect an upstream anew, at once; also one that answered 204")];
		for (const name of names.slice(0, 32)) list.push(el("code", "", of + "/upstreams/" + encodeURIComponent(name) + "/reconnect"));
		if (names.length > 32) list.push(el("p", "", "and likewise " + plural(names.length - 32, "more upstream")));
		list.push(el("p", "", "End all clients over the drain window; they come back and resume"), el("code", "", of + "/drain"));
		if (nodes) list.push(el("p", "", "The same on every node that shares the log"), el("code", "", of + "/drain?nodes=all"));
		list.push(el("p", "", "The address is the usual one. The configuration may have it elsewhere, or none."));
		this.adminList.replaceChildren(...list);
	}

	table() {
		if (!this.details.open || !this.s) return;
		const rows = this.rows.children, list = this.s.upstreams;
		while (rows.length > list.length) this.rows.lastElementChild.remove();
		while (rows.length < list.length) {
			const tr = el("tr"), th = el("th");
			th.scope = "row";
			tr.append(th, ...COLUMNS.map(([, , cls]) => el("td", cls || "")));
			this.rows.append(tr);
		}
		list.forEach((u, i) => {
			const cells = rows[i].children;
			put(cells[0], u.name);
			COLUMNS.forEach(([, get, cls], k) => {
				const text = get(u);
				put(cells[k + 1], text);
				if (cls && cls.includes("urls")) cells[k + 1].title = text;
			});
		});
	}
}
