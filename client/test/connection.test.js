// One tab, and how it comes back.
import assert from "node:assert/strict";
import test from "node:test";
import { Server } from "../fakes/server.js";
import { Browser, until } from "../fakes/tabs.js";

// alone starts a server and one tab.
async function alone(t, prepare = () => {}, options = {}) {
	const server = await new Server().listen();
	prepare(server);
	const browser = new Browser();
	t.after(() => {
		browser.close();
		return server.close();
	});
	const tab = browser.tab({ url: server.url, ...options });
	return { server, browser, tab };
}

const open = (tab) => until(() => `it is ${tab.stream.state}`, () => tab.stream.state === "open" && tab.stream.lastEventId !== "");

test("it resumes after a cut and after an end", async (t) => {
	const { server, tab } = await alone(t);
	await open(tab);
	server.emit("1");
	await until("1", () => tab.got.length === 1);
	server.cut();
	server.emit("2");
	await until("2", () => tab.got.length === 2);
	server.end();
	server.emit("3");
	await until("3", () => tab.got.length === 3);
	assert.deepEqual(tab.got, ["1", "2", "3"]);
	assert.deepEqual(tab.gaps, []);
	const asked = server.requests.map((r) => new URL(r.url, server.url).searchParams.get("lastEventId"));
	assert.deepEqual(asked, [null, server.position(1), server.position(2)]);
});

test("it misses nothing before its first event", async (t) => {
	const { server, tab } = await alone(t);
	await open(tab);
	server.cut();
	server.emit("1");
	await until("1", () => tab.got.length === 1);
});

test("a gap is told", async (t) => {
	const { server, tab } = await alone(t);
	await open(tab);
	server.emit("1");
	await until("1", () => tab.got.length === 1);
	server.cut();
	for (const data of ["2", "3", "4"]) server.emit(data);
	server.first = 4;
	await until("4", () => tab.got.length === 2);
	server.restart();
	server.emit("1 of another log");
	await until("1", () => tab.got.length === 3);
	assert.deepEqual(tab.got, ["1", "4", "1 of another log"]);
	assert.deepEqual(tab.gaps, ["expired", "unknown"]);
});

test("last values follow a gap with older ids", async (t) => {
	const { server, tab } = await alone(t);
	await open(tab);
	for (let n = 1; n <= 9; n++) server.emit(String(n));
	await until("9", () => tab.got.length === 9);
	const gap = { reason: "expired", missed: 3, resumed: server.position(12), state: 2 };
	server.write(`id: ${server.position(12)}\nevent: fanin.gap\ndata: ${JSON.stringify(gap)}\n\n`);
	server.write(`id: ${server.position(4)}\ndata: old\n\nid: ${server.position(11)}\ndata: newer\n\n`);
	server.write(`id: ${server.position(13)}\ndata: 13\n\nid: ${server.position(13)}\ndata: again\n\nid: ${server.position(14)}\ndata: 14\n\n`);
	await until("14", () => tab.got.at(-1) === "14");
	assert.deepEqual(tab.got.slice(9), ["old", "newer", "13", "14"]);
});

test("it comes back after refusals, unless they are meant", async (t) => {
	const { server, tab } = await alone(t, (s) => {
		s.refuse = (_, response) => response.writeHead(503, { "Retry-After": "0" }).end("full");
	}, { headers: () => ({}) });
	await until("503", () => tab.states.some((s) => s.startsWith("waiting: status 503")));
	server.refuse = (_, response) => response.writeHead(200, { "Content-Type": "text/html" }).end("not a stream");
	tab.stream.reconnect();
	await until("another type", () => tab.states.includes("waiting: status 200, text/html"));
	for (const status of [204, 401, 403]) {
		server.refuse = (_, response) => response.writeHead(status).end();
		tab.stream.reconnect();
		await until(status, () => tab.states.at(-1) === `refused: status ${status}, null`);
	}
	server.refuse = undefined;
	tab.stream.reconnect();
	await open(tab);
});

test("Retry-After and retry are obeyed", async (t) => {
	const { server, tab } = await alone(t, (s) => {
		s.retry = 1e12; // more than a timer takes: it would be over at once
	});
	await open(tab);
	server.end();
	await until("it waits", () => tab.stream.state === "waiting");
	server.refuse = (_, response) => response.writeHead(429, { "Retry-After": "1000" }).end();
	tab.stream.reconnect();
	await until("it is refused", () => tab.states.at(-1) === "waiting: status 429, null");
	assert.equal(server.requests.length, 2);
});

test("it waits longer with each failure, to a minute", async (t) => {
	const { server, tab } = await alone(t, (s) => { s.retry = 4000; });
	await open(tab);
	server.refuse = (_, response) => response.writeHead(500).end();
	server.end();
	for (const n of [1, 2, 3, 4, 5, 6, 7, 8]) {
		await until("it waits", () => tab.waits.length === n);
		const wait = tab.waits.at(-1), least = n === 1 ? 4000 : 4000 * 2 ** (n - 2);
		const [from, to] = n === 1 ? [4000, 4000] : [Math.min(least, 60e3), Math.min(2 * least, 60e3)];
		assert.ok(from <= wait && wait <= to, `wait ${n} is ${wait}`);
		tab.stream.reconnect();
	}
	server.refuse = undefined;
	tab.stream.reconnect();
	await until("it is open", () => tab.stream.state === "open" && server.clients.size === 1);
	server.emit("1");
	await until("1", () => tab.got.length === 1);
	server.end();
	await until("it waits", () => tab.waits.length === 9);
	assert.equal(tab.waits.at(-1), 4000);
});

test("headers are asked for anew each time", async (t) => {
	let n = 0;
	const { server, tab } = await alone(t, () => {}, {
		headers: async () => {
			if (++n === 2) throw new Error("no token");
			return { Authorization: `Bearer ${n}` };
		},
	});
	await open(tab);
	server.end();
	await until("it fails", () => tab.states.includes("waiting: no token"));
	tab.stream.reconnect();
	await until("it is back", () => server.requests.length === 2);
	assert.deepEqual(server.requests.map((r) => r.headers.authorization), ["Bearer 1", "Bearer 3"]);
});

test("a connection that is silent is given up, one with heartbeats is not", async (t) => {
	const { server, tab } = await alone(t);
	await open(tab);
	const pieces = tab.pieces;
	tab.sleep(40e3);
	server.beat();
	await until("the heartbeat", () => tab.pieces > pieces);
	tab.sleep(40e3);
	server.emit("1");
	await until("1", () => tab.got.length === 1);
	assert.equal(server.requests.length, 1);
	tab.sleep(50e3);
	await until("another connection", () => server.requests.length === 2);
	await open(tab);
	server.emit("2");
	await until("2", () => tab.got.length === 2);
});

test("a network that comes has it connect at once", async (t) => {
	const { server, tab } = await alone(t, (s) => { s.retry = 1e9; });
	await open(tab);
	tab.dispatch("online");
	await until("another connection", () => server.requests.length === 2);
	await open(tab);
	server.end();
	await until("it waits", () => tab.stream.state === "waiting");
	tab.dispatch("visibilitychange");
	await until("another connection", () => server.requests.length === 3);
});

test("a request is one of EventSource's", async (t) => {
	const { server, tab } = await alone(t);
	await open(tab);
	const { accept, "cache-control": cache, "sec-fetch-mode": mode } = server.requests[0].headers;
	assert.deepEqual({ accept, cache, mode }, { accept: "text/event-stream", cache: "no-cache", mode: "cors" });
});

test("a listener that throws stops nobody", async (t) => {
	const { server, tab } = await alone(t);
	await open(tab);
	tab.stream.on("*", () => { throw new Error("of a listener"); });
	tab.stream.onState(() => { throw new Error("of a watcher"); });
	const later = [];
	tab.stream.on("*", (e) => later.push(e.data));
	server.emit("1");
	server.cut();
	server.emit("2");
	await until("2", () => later.length === 2);
	assert.ok(tab.errors.some((e) => e.message === "of a listener") && tab.errors.some((e) => e.message === "of a watcher"));
});

test("data that is no envelope is an error, and the stream goes on", async (t) => {
	const { server, tab } = await alone(t, () => {}, { envelope: true });
	await open(tab);
	server.emit("bare");
	server.emit('{"source":"a","type":"message","data":"wrapped"}');
	await until("the other", () => tab.got.length === 1);
	assert.deepEqual(tab.got, ["wrapped"]);
	assert.match(tab.errors[0].message, /the data of message is no envelope/);
});

test("a listener may close the stream", async (t) => {
	const { server, tab } = await alone(t, (s) => { s.history = 3; });
	for (const data of ["1", "2", "3"]) server.emit(data);
	const got = [];
	tab.stream.on("*", (e) => {
		got.push(e.data);
		if (e.data === "2") tab.stream.close();
	});
	await until("it is closed", () => tab.stream.state === "closed" && server.clients.size === 0);
	assert.deepEqual(got, ["1", "2"]);
});

test("it keeps the position over a reload", async (t) => {
	const { server, browser, tab } = await alone(t, () => {}, { keep: true });
	await open(tab);
	server.emit("1");
	await until("1", () => tab.got.length === 1);
	tab.dispatch("pagehide");
	await until("it has left", () => server.clients.size === 0);
	server.emit("2");
	const again = browser.tab({ url: server.url, keep: true }, tab.stored);
	await until("2", () => again.got.length === 1);
	const given = browser.tab({ url: server.url, keep: true, lastEventId: server.position(0) }, tab.stored);
	await until("both", () => given.got.length === 2);
	assert.deepEqual([tab.got, again.got, given.got], [["1"], ["2"], ["1", "2"]]);
});

test("a page that comes back goes on", async (t) => {
	const { server, tab } = await alone(t);
	await open(tab);
	for (const [away, back] of [["pagehide", "pageshow"], ["freeze", "resume"], ["freeze", "visibilitychange"]]) {
		tab.dispatch(away);
		await until("it has left", () => server.clients.size === 0);
		server.emit(away);
		tab.dispatch(back);
		await until(away, () => tab.got.at(-1) === away);
		tab.got.pop();
	}
	assert.deepEqual(tab.gaps, []);
});
