/* ---- all streams ---- */

const streams = new Map();
let snapshot = null;

function show(data) {
	snapshot = data;
	const now = data.time, list = data.streams || [], troubles = data.troubles || [], first = streams.size === 0;
	for (const s of list) {
		s.upstreams ||= []; s.clients ||= {}; s.delivered ||= {}; s.gaps ||= {};
		if (!streams.has(keyOf(s))) streams.set(keyOf(s), new Stream(s.name, keyOf(s)));
	}
	for (const [key, stream] of streams) {
		if (list.some((s) => keyOf(s) === key)) continue;
		stream.remove();
		streams.delete(key);
	}
	for (const s of list) if (s.history) streams.get(keyOf(s)).take(s.history);
	extent = Math.min(HOUR, Math.max(600, ...[...streams.values()].map((s) => s.hour.length * s.hour.step / 1000)));
	for (const s of list) {
		streams.get(keyOf(s)).update(s, now, s.removed ? [] : troubles.filter((t) => t.stream === s.name), data.admin);
		delete s.history; // it has been taken; the snapshot may be shown again
	}
	const ordered = [...streams.values()].sort((a, b) => b.rank - a.rank || inOrder(a.key, b.key));
	arrange($("streams"), ordered.map((s) => s.root));
	if (first && ordered.length) {
		ordered.forEach((s, i) => s.open(i < OPEN));
		follow();
	}
	$("tools").hidden = ordered.length <= OPEN && !$("filter").value;
	filter();
	put($("node"), (data.node ? data.node + " · " : "as of ") + clock(now));
	const sum = (i) => { const r = ordered.map((s) => s.rates[i]); return r.some((x) => x !== undefined) ? r.reduce((a, x) => a + (x || 0), 0) : undefined; };
	$("totals").hidden = !list.length;
	put($("sumclients"), count(list.reduce((n, s) => n + (s.clients.connected || 0), 0)));
	for (const [id, i] of [["sumin", 0], ["sumout", 2]]) put($(id), sum(i) === undefined ? "–" : decimal(sum(i)) + " /s");
	showVerdict(list, troubles);
}

// filter hides the streams that have the text nowhere in their names.
function filter() {
	const text = $("filter").value.trim().toLowerCase();
	let shown = 0;
	for (const s of streams.values()) {
		const has = !text || s.name.toLowerCase().includes(text) || s.s.upstreams.some((u) => u.name.toLowerCase().includes(text));
		s.root.hidden = !has;
		if (has) shown++;
	}
	put($("shown"), text ? shown + " of " + plural(streams.size, "stream") : plural(streams.size, "stream"));
}
$("filter").addEventListener("input", filter);
$("openall").onclick = () => { for (const s of streams.values()) if (!s.root.hidden) s.open(true); };
$("closeall").onclick = () => { for (const s of streams.values()) if (!s.root.hidden) s.open(false); };

// follow opens the stream that the address names.
function follow() {
	let id = "";
	try { id = decodeURIComponent(location.hash.slice(1)); } catch { return; }
	for (const s of streams.values()) if (s.root.id === id) { s.open(true); s.root.scrollIntoView(); }
}
addEventListener("hashchange", follow);

/* ---- the connection ---- */

let source = null, stale = false, lastAt = 0, timer = 0, attempt = 0;

function connect() {
	clearTimeout(timer);
	if (source) source.close();
	const es = source = new EventSource(location.pathname + location.search);
	es.onmessage = (e) => {
		if (es !== source) return;
		let data;
		try { data = JSON.parse(e.data); } catch { return; } // stale soon, and said
		lastAt = Date.now();
		attempt = 0;
		freshen();
		show(data);
	};
	es.onerror = () => {
		if (es !== source) return;
		if (es.readyState === EventSource.CLOSED) { // it has given up; we have not
			source = null;
			timer = setTimeout(connect, Math.min(15e3, 1000 * 2 ** attempt++));
		}
		freshen();
	};
}

function freshen() {
	const age = Date.now() - lastAt, before = stale;
	stale = lastAt > 0 && age > STALE;
	const box = $("link");
	if (stale) {
		put(box, "stale for " + span(age));
		mark(box, "tone", "bad");
		mark($("verdictbox"), "tone", "wait");
		put($("verdict"), "No news from the server for " + span(age));
		put($("sub"), "Shown is what was at " + clock(snapshot.time) + ". The page goes on trying.");
		$("problems").hidden = true;
		$("mark").setAttribute("d", MARKS.wait);
	} else if (lastAt) {
		put(box, "live");
		mark(box, "tone", "good");
	} else if (performance.now() > STALE) {
		put(box, "no answer");
		mark(box, "tone", "bad");
		put($("verdict"), "The server does not answer");
		put($("sub"), "The page goes on trying.");
		mark($("verdictbox"), "tone", "bad");
		$("mark").setAttribute("d", MARKS.bad);
	}
	if (stale === before) return;
	document.documentElement.classList.toggle("stale", stale);
	if (stale) document.title = "stale · sse_fanin status";
	say(stale ? "The connection to the server is lost; what is shown is old" : "Connected again");
	for (const s of streams.values()) if (s.picture) s.picture.run();
}

setInterval(freshen, 500);
calm.addEventListener("change", () => { for (const s of streams.values()) if (s.picture) s.picture.colour(); });
narrow.addEventListener("change", () => { for (const s of streams.values()) if (s.picture) s.picture.layout(); });
addEventListener("pagehide", () => { clearTimeout(timer); if (source) source.close(); source = null; });
addEventListener("pageshow", (e) => { if (e.persisted) connect(); });
connect();
