/* ---- the verdict: what is wrong, as the server judges it ---- */

const MARKS = { good: "M10.5 17.5l4.5 4.5 9-9.5", bad: "M17 9.5v9.5M17 24.3v.01", wait: "M17 10v7.5l4.5 2.5", "": "M10.5 17h.01M17 17h.01M23.5 17h.01" };

// a badge's word for each kind of trouble
const KINDS = {
	log: "log", unwritten: "no writer", behind: "behind", versions: "versions", down: "down", finished: "finished", connecting: "connecting", gaps: "gaps", skipped: "skipped",
	refused: "refusals", lag: "lag", slow: "slow", silent: "silent", unstable: "unstable", replica: "replica",
};
// a sentence for the worst one
const HEADS = {
	log: (t) => "The log of " + t.stream + (t.level === "bad" ? " cannot be written" : " is still loading"),
	unwritten: (t) => "No node writes the log of " + t.stream, behind: (t) => "This server is behind the log of " + t.stream,
	versions: (t) => "The nodes of " + t.stream + " have different versions",
	finished: (t) => t.upstream + " has finished for good", gaps: (t) => "Clients of " + t.stream + " miss events", skipped: (t) => "Events of " + t.upstream + " are skipped",
	refused: (t) => "Clients of " + t.stream + " are refused", lag: (t) => "A client of " + t.stream + " is far behind", slow: (t) => "Delivery to clients of " + t.stream + " is slow",
	silent: (t) => t.upstream + " is up, but silent", unstable: (t) => t.upstream + " keeps losing its connection", connecting: (t) => t.upstream + " does not answer",
	replica: (t) => "A server of " + t.upstream + " is not connected",
};

function headline(list, troubles) {
	const live = list.filter((s) => !s.removed), plain = live.filter((s) => !s.keyed);
	// the upstreams of a keyed stream are as many as it has keys
	// one that keeps losing its connection is that, whether it is up just now or not
	const flapping = new Set(troubles.filter((t) => t.kind === "unstable").map((t) => t.stream + "/" + t.upstream));
	const ups = plain.flatMap((s) => s.upstreams.map((u) => u.state !== "up" && flapping.has(s.name + "/" + u.name) ? { state: "unstable" } : u)), n = tally(ups), all = ups.length, keyed = live.length - plain.length;
	const except = keyed ? " Those of " + plural(keyed, "keyed stream") + " are not counted." : "";
	const of = all + (all === 1 ? " upstream" : " upstreams") + (plain.length === 1 ? " of 1 stream" : " of " + plain.length + " streams");
	const downs = troubles.filter((t) => t.kind === "down"), rest = troubles.length - downs.length;
	const more = (k) => k ? ", and " + (k === 1 ? "1 more thing" : count(k) + " more things") + " to look at" : "";
	if (!list.length) return { tone: "", text: "There is no stream", sub: "None is configured, or none of those that this page is for." };
	if (n.down) {
		const dead = plain.filter((s) => s.upstreams.length && s.upstreams.every((u) => u.state === "down"));
		return {
			tone: "bad",
			text: (n.down === all ? (all === 1 ? "The upstream is down" : "All " + of + " are down") : n.down + " of " + of + (n.down === 1 ? " is" : " are") + " down") + more(rest),
			sub: (dead.length ? (dead.length === 1 ? "Nothing feeds " + dead[0].name + "." : "Nothing feeds " + dead.length + " of the streams.") + " Clients stay connected; what is retained is served." : "The other upstreams and all clients go on.") + except,
		};
	}
	if (downs.length) return { tone: "bad", text: downs[0].upstream + " is down for all keys of " + downs[0].stream + more(troubles.length - 1), sub: "Clients stay connected; what is retained is served." };
	const worst = troubles[0];
	if (worst) return { tone: worst.level === "bad" ? "bad" : "wait", text: (HEADS[worst.kind] || ((t) => t.what))(worst) + more(troubles.length - 1), sub: n.up === all && all ? (all === 1 ? "The upstream is up" : "All " + of + " are up") + "." + except : "" };
	if (n.connecting) return { tone: "wait", text: "Connecting to " + n.connecting + " of " + of, sub: n.up ? count(n.up) + (n.up === 1 ? " is" : " are") + " up." : "" };
	const keys = live.reduce((k, s) => k + (s.keyed ? s.keys || 0 : 0), 0);
	const others = [n.idle && plural(n.idle, "upstream") + " idle until a client comes", n.finished && count(n.finished) + " finished for good", keyed && plural(keys, "live key") + " of " + plural(keyed, "keyed stream") + " not counted"].filter(Boolean);
	const fine = "No gap, no refusal and nothing silent in the last 10 minutes. Nothing to do.";
	let text, tone = "good";
	if (!all) { text = keyed ? "All is well" : "No upstream is connected"; tone = keyed ? "good" : ""; }
	else if (n.up === all) text = all === 1 ? "The upstream is up" : "All " + of + " are up";
	else if (!n.up) { text = n.finished ? "No upstream is up" : "No upstream is wanted now"; tone = ""; }
	else if (n.up === all - (n.idle || 0)) text = n.up === 1 ? "The one upstream that is wanted is up" : "All " + count(n.up) + " upstreams that are wanted are up";
	else text = count(n.up) + " of " + of + (n.up === 1 ? " is" : " are") + " up";
	return { tone, text, sub: (others.length ? others.join(", ") + ". " : "") + fine };
}

const MAX_TROUBLES = 4;
const problemNodes = new Map();
let verdictText = "", allTroubles = false;

function showVerdict(list, troubles) {
	const v = headline(list, troubles);
	mark($("verdictbox"), "tone", v.tone);
	put($("verdict"), v.text);
	put($("sub"), v.sub);
	$("sub").hidden = !v.sub;
	if ($("mark").getAttribute("d") !== MARKS[v.tone]) $("mark").setAttribute("d", MARKS[v.tone]);
	if (v.text !== verdictText) {
		if (verdictText) say(v.text);
		verdictText = v.text;
	}
	const down = troubles.filter((t) => t.kind === "down").length;
	document.title = (down ? down + " down · " : troubles.length ? troubles.length + " to look at · " : "") + "sse_fanin status";

	const keys = new Set(), wanted = [], several = list.length > 1;
	for (const t of allTroubles ? troubles : troubles.slice(0, MAX_TROUBLES)) {
		let key = [t.stream, t.upstream, t.kind, t.level].join(" ");
		while (keys.has(key)) key += "+"; // clients can be slow, or refused, for two reasons
		keys.add(key);
		let n = problemNodes.get(key);
		if (!n) {
			n = { li: el("li"), badge: el("span", "badge"), a: el("a", "", [several && t.stream, t.upstream].filter(Boolean).join(" / ") || t.stream), what: el("span", "what"), remedy: el("div", "remedy"), commands: el("div", "commands") };
			n.a.href = "#" + encodeURIComponent("stream-" + t.stream);
			n.a.onclick = () => { const s = streams.get(t.stream); if (s) s.open(true); };
			const line = el("div");
			line.append(n.a, n.what);
			n.li.append(n.badge, line, n.remedy, n.commands);
			problemNodes.set(key, n);
		}
		mark(n.badge, "tone", t.level === "bad" ? "bad" : "wait");
		put(n.badge, KINDS[t.kind] || t.kind);
		put(n.what, t.what + ".");
		put(n.remedy, t.remedy);
		n.commands.hidden = !t.commands.length;
		if (n.sign !== t.commands.join("\n")) {
			n.sign = t.commands.join("\n");
			n.commands.replaceChildren(...t.commands.map((c) => el("code", "", c)));
		}
		wanted.push(n.li);
	}
	if (troubles.length > MAX_TROUBLES) {
		if (!showVerdict.more) {
			const li = showVerdict.more = el("li", "more"), button = el("button", "more");
			button.type = "button";
			button.onclick = () => { allTroubles = !allTroubles; if (snapshot) show(snapshot); };
			li.append(button);
		}
		put(showVerdict.more.firstChild, allTroubles ? "Show the worst only" : "Show " + count(troubles.length - MAX_TROUBLES) + " more");
		wanted.push(showVerdict.more);
	}
	arrange($("problems"), wanted);
	for (const [key, n] of problemNodes) if (!wanted.includes(n.li)) problemNodes.delete(key);
	$("problems").hidden = !wanted.length;
}

function arrange(parent, wanted) {
	if (wanted.length === parent.children.length && wanted.every((w, i) => parent.children[i] === w)) return;
	wanted.forEach((w, i) => { if (parent.children[i] !== w) parent.insertBefore(w, parent.children[i] || null); });
	while (parent.children.length > wanted.length) parent.lastElementChild.remove();
}
