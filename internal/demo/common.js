/* What the pages of examples share. */

const $ = (id) => document.getElementById(id);
const el = (tag, cls, text) => {
	const e = document.createElement(tag);
	if (cls) e.className = cls;
	if (text !== undefined) e.textContent = text;
	return e;
};
const svg = (tag, cls) => {
	const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
	e.setAttribute("class", cls);
	return e;
};
const put = (e, text) => { if (e.textContent !== text) e.textContent = text; };
const set = (id, text) => put($(id), text);
const tone = (e, t) => { if (e.dataset.tone !== t) e.dataset.tone = t; };
const count = (n) => n.toLocaleString("en-US");
const plural = (n, word) => count(n) + " " + word + (n === 1 ? "" : "s");
const seconds = (ms) => (ms / 1000).toFixed(1) + " s";
const say = (text) => { $("say").textContent = text; };

function clock(ms) {
	const d = new Date(ms), p = (n, w) => String(n).padStart(w, "0");
	return p(d.getHours(), 2) + ":" + p(d.getMinutes(), 2) + ":" + p(d.getSeconds(), 2);
}

/* ---- the check: every source numbers its events ---- */

const checks = { lost: 0, repeated: 0, last: new Map() };

function check(d) {
	const l = checks.last.get(d.source);
	if (!l || l.run !== d.run || l.rebase) {
		checks.last.set(d.source, { run: d.run, seq: d.seq, rebase: false });
		return;
	}
	if (d.seq <= l.seq) { checks.repeated++; return; }
	checks.lost += d.seq - l.seq - 1;
	l.seq = d.seq;
}
