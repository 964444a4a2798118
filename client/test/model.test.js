// Tabs that come, go, hang, freeze, reload and lose their connections at random:
// each delivers every event from its first one on, once and in order.
import assert from "node:assert/strict";
import test from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { Server } from "../fakes/server.js";
import { Browser, until } from "../fakes/tabs.js";

// random returns a function that returns numbers below n, which a seed decides.
function random(seed) {
	let state = seed;
	return (n) => {
		state = (Math.imul(state, 1664525) + 1013904223) >>> 0; // Numerical Recipes
		return Math.floor((state / 2 ** 32) * n);
	};
}

// consecutive fails unless the numbers are, from the first one on.
function consecutive(tab, got, last) {
	got.forEach((n, i) => assert.equal(+n, +got[0] + i, `${tab}: ${got.slice(Math.max(0, i - 3), i + 3)}`));
	if (got.length) assert.equal(+got.at(-1), last, `${tab}: its last`);
}

async function play(t, seed) {
	const below = random(seed);
	const server = await new Server().listen();
	server.retry = 5;
	server.history = below(2) * 5;
	server.prime = below(4) > 0;
	const browser = new Browser();
	const beats = setInterval(() => server.beat(), 100);
	t.after(() => {
		clearInterval(beats);
		browser.close();
		return server.close();
	});
	const open = new Map(); // the tabs, and what they got before their last reload
	let n = 0, opened = 0;
	const settings = { url: server.url, silence: 1800, keep: true };
	const pick = (wanted) => {
		const fit = [...open.keys()].filter(wanted);
		return fit[below(fit.length)];
	};
	const acts = {
		open() {
			if (open.size > 8) return;
			const tab = browser.tab(settings);
			tab.name = `seed ${seed}, tab ${++opened}`;
			open.set(tab, []);
		},
		close(tab) {
			if (open.size > 1) open.delete(tab) && tab.close();
		},
		reload(tab) {
			tab.dispatch("pagehide");
			const again = browser.tab(settings, tab.stored);
			again.name = tab.name;
			open.set(again, [...open.get(tab), ...tab.got]);
			open.delete(tab);
			tab.close();
		},
		freeze(tab) {
			tab.frozen = true;
			tab.dispatch("freeze");
		},
		hang(tab) { tab.hang(below(2) === 0); },
		look(tab) { tab.sleep(0); },
		wake(tab) { tab.sleep(60e3); },
		online(tab) { tab.dispatch("online"); },
		cut() { server.cut(); },
		end() { server.end(); },
	};
	function back(tab) {
		if (tab.hangs) tab.thaw();
		if (tab.frozen) tab.dispatch("resume");
		tab.frozen = false;
	}
	acts.open();
	for (let step = 0; step < 400; step++) {
		for (let events = below(4); events > 0; events--) server.emit(String(++n));
		for (let turns = below(8); turns > 0; turns--) await turn();
		if (below(3) > 0) continue;
		const tab = pick((each) => !each.hangs && !each.frozen);
		const away = pick((each) => each.hangs || each.frozen);
		if (!tab || (away && below(2))) back(away);
		else acts[Object.keys(acts)[below(Object.keys(acts).length)]](tab);
	}
	for (const tab of open.keys()) back(tab);
	const head = server.position(n);
	const left = () => `seed ${seed}: ${server.clients.size} connections, at ${[...open.keys()].map((tab) => tab.stream.lastEventId)} of ${head}`;
	await until(left, () => server.clients.size === 1 && [...open.keys()].every((tab) => tab.stream.lastEventId === head));
	for (const [tab, before] of open) {
		consecutive(tab.name, [...before, ...tab.got], n);
		assert.deepEqual(tab.gaps, [], tab.name);
		assert.deepEqual(tab.errors, [], tab.name);
	}
	t.diagnostic(`${n} events, ${opened} tabs, ${server.requests.length} connections`);
}

const seeds = process.env.SEEDS ? process.env.SEEDS.split(",").map(Number) : Array.from({ length: 8 }, (_, i) => i + 1);
for (const seed of seeds) test(`seed ${seed}`, (t) => play(t, seed));
