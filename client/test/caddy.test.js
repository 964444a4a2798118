// Against Caddy with the module itself, as it is built from cmd/caddy.
import assert from "node:assert/strict";
import { execFile, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { connect as dial } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { setTimeout as after } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Browser, until } from "../fakes/tabs.js";

const root = fileURLToPath(new URL("../..", import.meta.url));
const skip = spawnSync("go", ["version"]).status === 0 ? false : "there is no go";

// build makes the binary once, for all tests, and returns its name.
let built;
const build = () => (built ??= (async () => {
	const dir = await mkdtemp(join(tmpdir(), "sse-fanin-client-"));
	process.on("exit", () => rmSync(dir, { recursive: true }));
	await promisify(execFile)("go", ["build", "-buildvcs=false", "-o", dir, "./cmd/caddy"], { cwd: root });
	return join(dir, "caddy");
})());

async function listening(server) {
	server.listen(0, "127.0.0.1");
	await once(server, "listening");
	return server.address().port;
}

// freePort returns a port that nobody listens on.
async function freePort() {
	const server = createServer();
	const port = await listening(server);
	server.close();
	await once(server, "close");
	return port;
}

// serve starts a Caddy with the stream of one upstream at /events, and returns what
// has it end and start again, and the responses of the upstream.
async function serve(t, options) {
	const dir = await mkdtemp(join(tmpdir(), "sse-fanin-client-"));
	t.after(() => rm(dir, { recursive: true }));
	const binary = await build();
	const upstreams = new Set();
	const upstream = createServer((_, response) => {
		response.writeHead(200, { "Content-Type": "text/event-stream" }).flushHeaders();
		upstreams.add(response);
		response.on("close", () => upstreams.delete(response));
	});
	const from = await listening(upstream);
	const port = await freePort();
	const file = join(dir, "Caddyfile");
	await writeFile(file, `{
	admin off
	persist_config off
}
http://127.0.0.1:${port} {
	sse_fanin /events {
		upstream numbers http://127.0.0.1:${from}/events
		backoff 20ms 50ms
		envelope json
		max_age 300ms
		retry 20ms
		${options}
	}
}
`);
	let caddy;
	async function start() {
		caddy = spawn(binary, ["run", "--config", file, "--adapter", "caddyfile"], { stdio: "ignore", env: { ...process.env, HOME: dir } });
		for (let up = false; !up; await after(5)) {
			assert.equal(caddy.exitCode, null, "Caddy has ended");
			const socket = dial(port, "127.0.0.1");
			up = await Promise.race([once(socket, "connect").then(() => true), once(socket, "close").then(() => false)]).catch(() => false);
			socket.destroy();
		}
		await until("Caddy reads the upstream", () => upstreams.size === 1);
	}
	async function stop() {
		caddy.kill("SIGKILL");
		await once(caddy, "close");
	}
	await start();
	const browser = new Browser();
	t.after(async () => {
		browser.close();
		await stop();
		upstream.close();
		upstream.closeAllConnections();
	});
	let n = 0;
	return {
		browser, start, stop, url: `http://127.0.0.1:${port}/events`,
		emit() {
			n++;
			for (const response of upstreams) response.write(`id: ${n}\nevent: number\ndata: {"n":${n}}\n\n`);
			return n;
		},
	};
}

const numbers = (tab) => tab.got.map((data) => data.n);
const upTo = (n, first = 1) => Array.from({ length: n - first + 1 }, (_, i) => i + first);

// inBothModes runs a test with clients that are detached, too, at the same time.
const inBothModes = (name, run) => test(name, { skip, concurrency: true }, async (t) => {
	await Promise.all(["detach off", "detach on"].map((mode) => t.test(mode, (t) => run(t, mode))));
});

inBothModes("tabs get an upstream's events through cuts and a restart", async (t, mode) => {
	const { browser, start, stop, url, emit } = await serve(t, mode);
	const tabs = [1, 2, 3].map(() => browser.tab({ url, envelope: true }));
	const events = [];
	tabs[2].stream.on({ type: "n*", source: "num*" }, (event) => events.push(event));
	await until("the tabs have a position", () => tabs.every((tab) => tab.stream.lastEventId));
	let n = 0;
	const opens = () => tabs[2].states.filter((s) => s === "open").length;
	const before = opens();
	while (opens() < before + 4) { // connections come to their max_age meanwhile
		n = emit();
		await after(2);
	}
	await until("all have all", () => tabs.every((tab) => tab.got.length === n));
	for (const tab of tabs) {
		assert.deepEqual(numbers(tab), upTo(n));
		assert.deepEqual(tab.gaps, []);
	}
	const { time, lastEventId, ...rest } = events.at(-1);
	assert.deepEqual(structuredClone(rest), { type: "number", data: { n }, source: "numbers", id: String(n) });
	assert.ok(Math.abs(Date.now() - time) < 60e3 && lastEventId === tabs[0].stream.lastEventId);

	await stop(); // and the log with it
	await start();
	n = emit();
	await until("all know of the gap", () => tabs.every((tab) => tab.gaps.length === 1 && tab.got.at(-1).n === n));
	for (const tab of tabs) assert.deepEqual(tab.gaps, ["unknown"]);
});

inBothModes("a tab begins with what arrived from a time on, whatever the tabs have that share", async (t, mode) => {
	const { browser, url, emit, stop, start } = await serve(t, mode);
	const tab = (since) => browser.tab({ url, envelope: true, since });
	const first = tab();
	const times = [];
	first.stream.on("number", ({ data, time }) => { times[data.n] = time; });
	await until("it has a position", () => first.stream.lastEventId);
	for (let n = 1; n <= 9; ) {
		n = emit() + 1;
		await until("it is there", () => times.length === n);
		await until("a millisecond is over", () => Date.now() > times[n - 1]);
	}
	const later = {
		"a Date": tab(new Date(times[3])),
		"milliseconds": tab(times[5]),
		"a text": tab(new Date(times[7]).toISOString()),
		"after all": tab(times[9] + 1),
	};
	await until("they have a position", () => Object.values(later).every((tab) => tab.stream.lastEventId));
	const last = emit();
	await until("all have all", () => [first, ...Object.values(later)].every((tab) => numbers(tab).at(-1) === last));
	assert.deepEqual(numbers(first), upTo(last));
	assert.deepEqual(numbers(later["a Date"]), upTo(last, 3));
	assert.deepEqual(numbers(later.milliseconds), upTo(last, 5));
	assert.deepEqual(numbers(later["a text"]), upTo(last, 7));
	assert.deepEqual(numbers(later["after all"]), upTo(last, 10));

	await stop(); // the position counts, not the time
	await start();
	const newest = emit();
	await until("all know of the gap", () => Object.values(later).every((tab) => tab.gaps.length === 1 && numbers(tab).at(-1) === newest));
	assert.deepEqual(numbers(later["a text"]), [...upTo(last, 7), newest]);
});
