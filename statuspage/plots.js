/* ---- the last hour of a stream, as the server has it ---- */

class Hour {
	constructor() { this.columns = {}; this.length = 0; this.step = 10e3; this.end = 0; this.upstreams = {}; }

	take(h) {
		if (h.whole) { this.columns = {}; this.length = 0; }
		const most = Math.ceil(HOUR * 1000 / h.step);
		let added = 0;
		for (const [name, values] of Object.entries(h.columns)) {
			const all = (this.columns[name] || []).concat(values);
			this.columns[name] = all.slice(-most);
			added = this.columns[name].length;
		}
		this.length = added;
		this.step = h.step;
		this.end = h.end;
		this.upstreams = h.upstreams || {};
	}

	times() { return Array.from({ length: this.length }, (_, i) => (this.end - (this.length - 1 - i) * this.step) / 1000); }
	column(...names) { // their sum
		const all = names.map((name) => this.columns[name] || []);
		return all[0].map((v, i) => all.length === 1 || v === null ? v : all.reduce((sum, c) => sum + (c[i] || 0), 0));
	}
	last(name) { const c = this.columns[name] || []; return c.length ? c[c.length - 1] : undefined; }
}

/* ---- plots, drawn by uPlot ---- */

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const FONT = "11px system-ui, sans-serif";
const TONE = { in: "--in", out: "--out", late: "--wait", bad: "--bad" };
const soft = (tone) => "color-mix(in srgb, " + css(TONE[tone]) + " 13%, transparent)";

// What an axis counts: its steps, and how a value is written.
const STEPS = [1, 2, 5].flatMap((k) => Array.from({ length: 13 }, (_, i) => +(k * 10 ** (i - 3)).toPrecision(1))).sort((a, b) => a - b);
const WHOLE = STEPS.filter((n) => n >= 1);
const BINARY = [1, 1024, 1024 ** 2, 1024 ** 3, 1024 ** 4].flatMap((unit) => Array.from({ length: 10 }, (_, i) => 2 ** i * unit));
const short = (n) => n >= 1e6 ? +(n / 1e6).toFixed(2) + "M" : n >= 1e4 ? +(n / 1e3).toFixed(1) + "k" : n >= 1000 ? count(n) : String(+n.toFixed(3));
const UNITS = {
	rate: { steps: STEPS, least: 1, axis: short, text: (v) => [decimal(v), "/s"] },
	bytes: { steps: BINARY, least: 1024, axis: (n) => n >= 1024 ** 3 ? +(n / 1024 ** 3).toFixed(1) + "G" : n >= 1024 ** 2 ? +(n / 1024 ** 2).toFixed(1) + "M" : n >= 1024 ? +(n / 1024).toFixed(1) + "K" : String(n), text: (v) => { const [n, unit] = bytes(v); return [n, unit + "/s"]; } },
	time: { steps: STEPS, least: 5, axis: (n) => n >= 1000 ? +(n / 1000).toFixed(2) + " s" : short(n) + (n ? " ms" : ""), text: (v) => v >= 1000 ? [(v / 1000).toFixed(1), "s"] : v >= 10 || v === 0 ? [count(v), "ms"] : [v.toFixed(1), "ms"] },
	count: { steps: WHOLE, least: 4, axis: short, text: (v) => [count(v), ""] },
};

// roof is the round value an axis ends with.
function roof(most, unit) {
	const want = Math.max(most, unit.least);
	const step = unit.steps.find((n) => n >= want / 4) || want / 4;
	return step * Math.ceil(want / step - 1e-9);
}

// extent is how many seconds all plots show: the hour, or less where no stream
// has been there for so long.
let extent = HOUR;

class Plot {
	// series are [name, tone, columns of the hour, drawn as bars]
	constructor(parent, label, unit, series) {
		this.label = label;
		this.unit = UNITS[unit];
		this.series = series;
		this.root = el("figure", "plot");
		const caption = el("figcaption"), top = el("div", "label"), values = el("div", "values");
		this.when = el("span");
		top.append(el("span", "", label), this.when);
		this.outputs = series.map(([name, tone]) => {
			const s = el("span"), out = el("output");
			out.setAttribute("aria-live", "off");
			s.dataset.tone = tone;
			if (series.length > 1) s.append(el("i"), name + " ");
			s.append(out);
			values.append(s);
			return out;
		});
		caption.append(top, values);
		this.area = el("div", "area");
		this.area.setAttribute("role", "img");
		this.none = el("div", "none");
		this.area.append(this.none);
		this.area.setAttribute("aria-label", label + ": nothing yet");
		this.root.append(caption, this.area);
		parent.append(this.root);
		this.now = series.map(() => undefined);
		new ResizeObserver(() => this.fit()).observe(this.area);
	}

	make(data) {
		const grid = () => css("--line"), stroke = () => css("--faint"), unit = this.unit;
		const bars = uPlot.paths.bars({ size: [.9, 12], align: 1 });
		this.plot = new uPlot({
			width: this.area.clientWidth, height: this.area.clientHeight, padding: [6, 6, 0, 0],
			legend: { show: false }, select: { show: false },
			cursor: { y: false, drag: { x: false, y: false, setScale: false }, sync: { key: "status", scales: ["x", null] }, points: { size: 6 } },
			scales: { x: { range: () => [this.end - extent, this.end] }, y: { range: (u, min, max) => [0, roof(max || 0, unit)] } },
			axes: [
				{ stroke, font: FONT, size: 22, gap: 4, space: 54, grid: { stroke: grid, width: 1 }, ticks: { show: false }, incrs: [60, 120, 300, 600, 900, 1200, 1800], values: (u, all) => all.map((t) => minute(t * 1000)) },
				{ stroke, font: FONT, size: 44, gap: 5, space: 22, grid: { stroke: grid, width: 1 }, ticks: { show: false }, incrs: unit.steps, values: (u, all) => all.map(unit.axis) },
			],
			series: [{}, ...this.series.map(([name, tone, , bar]) => ({
				label: name, stroke: () => css(TONE[tone]), fill: () => bar ? css(TONE[tone]) : soft(tone), width: bar ? 0 : 1.5, points: { show: false }, ...(bar && { paths: bars }),
			}))],
			hooks: { setCursor: [() => this.show()] },
		}, data, this.area);
	}

	draw(hour) {
		this.hour = hour;
		this.end = hour.end / 1000;
		this.data = [hour.times(), ...this.series.map(([, , names]) => hour.column(...names))];
		this.latest = this.data.slice(1).map((c) => c[c.length - 1]);
		const empty = hour.length < 2;
		this.none.hidden = !empty;
		put(this.none, "The plot begins in a few seconds");
		if (!this.area.clientWidth) return;
		if (!this.plot) this.make(this.data); else this.plot.setData(this.data);
		this.area.setAttribute("aria-label", this.label + " in the last " + span(extent * 1000) + ": " + this.series.map(([name], i) => {
			const seen = this.data[i + 1].filter((v) => v !== null), text = (v) => this.unit.text(v).join(" ").trim();
			return (this.series.length > 1 ? name + " " : "") + (seen.length ? "now " + text(this.data[i + 1].at(-1) ?? 0) + ", at most " + text(Math.max(...seen)) : "nothing");
		}).join("; "));
		this.show();
	}

	// live is what is said while nothing is pointed at; undefined is the newest point.
	live(values) { this.now = values; this.show(); }

	show() {
		const i = this.plot && this.plot.cursor.idx, hover = i !== null && i !== undefined && this.plot.cursor.left >= 0;
		put(this.when, hover && this.data[0][i] ? clock(this.data[0][i] * 1000) : "");
		this.outputs.forEach((out, k) => {
			const v = hover ? this.data[k + 1][i] : this.now[k] ?? (this.latest || [])[k];
			valued(out, ...(v === null || v === undefined ? ["–", ""] : this.unit.text(v)));
		});
	}

	fit() {
		if (this.plot) this.plot.setSize({ width: this.area.clientWidth, height: this.area.clientHeight });
		else if (this.hour) this.draw(this.hour);
	}
	redraw() { if (this.plot) this.plot.redraw(true, true); }
}

// Spark is a line of the last hour without axes.
class Spark {
	constructor(tone) {
		this.tone = tone;
		this.root = el("div", "spark");
		this.root.setAttribute("role", "img");
		this.root.setAttribute("aria-label", "nothing yet");
		this.root.hidden = true;
		new ResizeObserver(() => this.plot && this.root.clientWidth && this.plot.setSize({ width: this.root.clientWidth, height: this.root.clientHeight })).observe(this.root);
		Spark.all.add(new WeakRef(this));
	}

	// show draws the newest values; the line is as long as most of them.
	show(values, most, what) {
		this.root.hidden = !values || values.length < 2;
		if (this.root.hidden || values === this.values && most === this.most) return;
		this.values = values;
		this.most = most;
		this.root.setAttribute("aria-label", what + ", at most " + decimal(Math.max(0, ...values)));
		const data = [values.map((_, i) => most - values.length + i), values];
		if (this.plot) { this.plot.setData(data); return; }
		if (!this.root.clientWidth) { this.values = undefined; return; }
		this.plot = new uPlot({
			width: this.root.clientWidth, height: this.root.clientHeight, padding: [2, 0, 1, 0], legend: { show: false }, cursor: { show: false }, select: { show: false },
			scales: { x: { time: false, range: () => [0, this.most - 1] }, y: { range: (u, min, max) => [0, Math.max(max || 0, 1)] } },
			axes: [{ show: false }, { show: false }],
			series: [{}, { stroke: () => css(TONE[this.tone]), fill: () => soft(this.tone), width: 1.2, points: { show: false } }],
		}, data, this.root);
	}
}
Spark.all = new Set();

dark.addEventListener("change", () => {
	for (const s of streams.values()) for (const p of s.plots) p.redraw();
	for (const ref of Spark.all) {
		const s = ref.deref();
		if (!s) Spark.all.delete(ref); else if (s.plot) s.plot.redraw(true, true);
	}
});
