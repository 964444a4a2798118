// Tabs that share one connection.
import assert from "node:assert/strict";
import test from "node:test";
import { Server } from "../fakes/server.js";
import { Browser, until } from "../fakes/tabs.js";

// quick has a hanging tab noticed after three times a ninth of this; the servers
// here say something more often.
const quick = { silence: 2700 };

async function begin(t, prepare = () => {}) {
	const server = await new Server().listen();
	prepare(server);
	const browser = new Browser();
	const beats = setInterval(() => server.beat(), 300);
	t.after(() => {
		clearInterval(beats);
		browser.close();
		return server.close();
	});
	const tab = (options, stored) => browser.tab({ url: server.url, ...options }, stored);
	return { server, browser, tab };
}

// settled waits until all tabs are where the stream is, and share one connection.
async function settled(server, tabs) {
	const head = server.position(server.events.length);
	const left = () => `${server.clients.size} connections, at ${tabs.map((tab) => tab.stream.lastEventId)} of ${head}`;
	await until(left, () => server.clients.size === 1 && tabs.every((tab) => tab.stream.lastEventId === head && tab.stream.state === "open"));
}

async function several(t, n, prepare, options) {
	const all = await begin(t, prepare);
	const tabs = Array.from({ length: n }, () => all.tab(options));
	await settled(all.server, tabs);
	return { ...all, tabs };
}

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => String(from + i));

function emit(server, from, to) {
	for (const n of numbers(from, to)) server.emit(n);
}

test("all get all over one connection", async (t) => {
	const { server, tabs } = await several(t, 9);
	emit(server, 1, 100);
	await settled(server, tabs);
	for (const tab of tabs) assert.deepEqual(tab.got, numbers(1, 100));
});

test("the next takes over from a leader that closes", async (t) => {
	const { server, tabs } = await several(t, 5);
	let n = 0;
	while (tabs.length > 1) {
		emit(server, ++n, n += 9);
		tabs.shift().close(); // in the midst of it
		emit(server, ++n, n += 9);
		await settled(server, tabs);
		for (const tab of tabs) assert.deepEqual(tab.got, numbers(1, n));
	}
});

test("one takes over from a leader that hangs, and it may come back", async (t) => {
	const { server, tabs } = await several(t, 4, undefined, quick);
	const [leader, ...others] = tabs;
	emit(server, 1, 10);
	leader.hang();
	emit(server, 11, 20);
	await until("the others have it", () => others.every((tab) => tab.got.length === 20));
	emit(server, 21, 30);
	leader.thaw();
	emit(server, 31, 40);
	await settled(server, tabs);
	for (const tab of tabs) assert.deepEqual(tab.got, numbers(1, 40));
});

test("one takes over from a leader that answers and gets nothing", async (t) => {
	const { server, tabs } = await several(t, 4, undefined, quick);
	const [leader, ...others] = tabs;
	leader.hang(true);
	emit(server, 1, 10);
	await until("the others have it", () => others.every((tab) => tab.got.length === 10));
	leader.thaw();
	emit(server, 11, 20);
	await settled(server, tabs);
	for (const tab of tabs) assert.deepEqual(tab.got, numbers(1, 20));
});

test("a follower that hangs gets what it missed", async (t) => {
	const { server, tabs } = await several(t, 3, undefined, quick);
	tabs[2].hang();
	emit(server, 1, 10);
	await until("the others have it", () => tabs[0].got.length === 10 && tabs[1].got.length === 10);
	tabs[2].thaw();
	await settled(server, tabs);
	assert.deepEqual(tabs[2].got, numbers(1, 10));
});

test("a frozen page leaves, and gets what it missed", async (t) => {
	const { server, tabs } = await several(t, 3);
	for (const tab of tabs) {
		const n = tab.got.length;
		tab.dispatch("freeze");
		emit(server, n + 1, n + 10);
		await settled(server, tabs.filter((other) => other !== tab));
		assert.equal(tab.got.length, n);
		tab.dispatch("resume");
		await settled(server, tabs);
		for (const each of tabs) assert.deepEqual(each.got, numbers(1, n + 10));
	}
});

test("a late tab gets what start says, and then all", async (t) => {
	const { server, tab, tabs } = await several(t, 2, (s) => { s.history = 3; });
	emit(server, 1, 10);
	await settled(server, tabs);
	const late = tab();
	await settled(server, [...tabs, late]);
	emit(server, 11, 12);
	await settled(server, [...tabs, late]);
	assert.deepEqual(late.got, numbers(8, 12));
	assert.deepEqual(tabs[0].got, numbers(1, 12));
});

test("a late tab is with the others as soon as it can be", async (t) => {
	const { server, tab } = await begin(t);
	const tabs = [tab({ still: true })];
	await settled(server, tabs);
	server.emit("1");
	tabs.push(tab({ still: true })); // no tick has it ask
	await settled(server, tabs);
});

test("a late tab gets from now on if it gets no beginning of its own", async (t) => {
	const { server, tab, tabs } = await several(t, 2);
	emit(server, 1, 10);
	await settled(server, tabs);
	server.refuse = (_, response) => response.writeHead(503).end(); // a full stream
	const late = tab();
	await until("it is with the others", () => late.stream.state === "open");
	emit(server, 11, 12);
	await settled(server, [...tabs, late]);
	assert.deepEqual(late.got, numbers(11, 12));
});

test("without prime, a late tab is there with the first heartbeat", async (t) => {
	const { server, tab } = await begin(t, (s) => { s.prime = false; });
	const first = tab();
	await until("it is open", () => first.stream.state === "open");
	server.emit("1");
	await settled(server, [first]);
	const late = tab();
	await settled(server, [first, late]);
	server.emit("2");
	await settled(server, [first, late]);
	assert.deepEqual([first.got, late.got], [["1", "2"], ["2"]]);
});

test("a gap of all is told to all, once, and one of a single tab to that", async (t) => {
	const { server, tab, tabs } = await several(t, 3);
	emit(server, 1, 5);
	await settled(server, tabs);
	server.restart();
	emit(server, 6, 7);
	await settled(server, tabs);
	for (const each of tabs) {
		assert.deepEqual(each.gaps, ["unknown"]);
		assert.deepEqual(each.got, numbers(1, 7));
	}
	const late = tab({ lastEventId: "epoch99999-4-mwsl0m14" });
	await settled(server, [...tabs, late]);
	assert.deepEqual(late.gaps, ["unknown"]);
	assert.deepEqual(late.got, numbers(6, 7));
	for (const each of tabs) assert.deepEqual(each.gaps, ["unknown"]);
});

test("each tab keeps its position over its reloads", async (t) => {
	const { server, tab, tabs } = await several(t, 1);
	const kept = [tab({ keep: true }), tab({ keep: true })];
	const got = [[], []];
	await settled(server, [...tabs, ...kept]);
	for (let n = 0; n < 30; n += 10) {
		emit(server, n + 1, n + 5);
		await settled(server, [...tabs, ...kept]);
		for (const [i, old] of kept.entries()) {
			old.close();
			got[i].push(...old.got);
			server.emit(String(n + 6 + i));
			kept[i] = tab({ keep: true }, old.stored);
		}
		emit(server, n + 8, n + 10);
		await settled(server, [...tabs, ...kept]);
	}
	for (const [i, each] of kept.entries()) assert.deepEqual([...got[i], ...each.got], numbers(1, 30));
	assert.deepEqual(tabs[0].got, numbers(1, 30));
});

test("ids that have no order are handed on as they come", async (t) => {
	const { server, tab } = await begin(t, (s) => { s.ids = false; });
	const tabs = [tab(), tab(), tab()];
	await until("they are open", () => tabs.every((each) => each.stream.state === "open") && server.clients.size === 1);
	server.emit("without");
	server.write("id: 1526919030474-55\ndata: redis\n\n");
	server.write("id: same\ndata: 1\n\nid: same\ndata: 2\n\n");
	await until("all have all", () => tabs.every((each) => each.got.length === 4));
	for (const each of tabs) {
		assert.deepEqual(each.got, ["without", "redis", "1", "2"]);
		assert.equal(each.stream.lastEventId, "same");
	}
	const late = tab();
	await until("it is open", () => late.stream.state === "open");
	for (const each of tabs) each.close();
	await until("the late one leads", () => server.requests.at(-1).url.includes("lastEventId=same") && server.clients.size === 1);
});

test("streams of other options are others", async (t) => {
	const { server, tab } = await begin(t);
	tab();
	tab({ share: "alice" });
	tab({ share: "alice" });
	tab({ share: "bob" });
	tab({ credentials: "include" });
	tab({ headers: { Authorization: "Bearer x" } });
	tab({ headers: { Authorization: "Bearer x" } });
	tab({ share: false });
	tab({ url: server.url + "?type=a" });
	await until(() => `${server.clients.size} connections`, () => server.clients.size === 8);
});

test("where tabs cannot share, each has a connection", async (t) => {
	const { server, tab } = await begin(t);
	const tabs = [["navigator"], ["BroadcastChannel"]].map((without) => tab({ without }));
	await until("both are open", () => tabs.every((each) => each.stream.lastEventId));
	emit(server, 1, 3);
	await until("both have all", () => tabs.every((each) => each.got.length === 3));
	assert.equal(server.clients.size, 2);
});

test("a follower has the leader connect, and knows its state", async (t) => {
	const { server, tabs } = await several(t, 3);
	server.refuse = (_, response) => response.writeHead(401).end();
	server.end();
	await until("all know", () => tabs.every((each) => each.states.at(-1) === "refused: status 401, null"));
	const before = server.requests.length;
	server.refuse = undefined;
	tabs[2].stream.reconnect();
	await settled(server, tabs);
	assert.equal(server.requests.length, before + 1);
	tabs[1].sleep(0); // the user looks at an open stream
	emit(server, 1, 3);
	await settled(server, tabs);
	assert.equal(server.requests.length, before + 1);
	for (const each of tabs) assert.deepEqual(each.got, numbers(1, 3));
});
