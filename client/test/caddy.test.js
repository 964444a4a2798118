// Against Caddy with the module itself, as it is built from cmd/caddy.
import assert from "node:assert/strict";
import { execFile, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
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

// build makes the binary once.
let built;
const build = (dir) => (built ??= promisify(execFile)("go", ["build", "-buildvcs=false", "-o", dir, "./cmd/caddy"], { cwd: root }));

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

test("tabs get an upstream's events through cuts and a restart", { skip }, async (t) => {
	const dir = await mkdtemp(join(tmpdir(), "sse-fanin-client-"));
	t.after(() => rm(dir, { recursive: true }));
	await build(dir);
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
	}
}
`);
	let caddy;
	async function start() {
		caddy = spawn(join(dir, "caddy"), ["run", "--config", file, "--adapter", "caddyfile"], { stdio: "ignore", env: { ...process.env, HOME: dir } });
		for (let up = false; !up; await after(5)) {
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
	const tabs = [1, 2, 3].map(() => browser.tab({ url: `http://127.0.0.1:${port}/events`, envelope: true }));
	const events = [];
	tabs[2].stream.on({ type: "n*", source: "num*" }, (event) => events.push(event));
	await until("the tabs have a position", () => tabs.every((tab) => tab.stream.lastEventId));
	let n = 0;
	const emit = () => {
		n++;
		for (const response of upstreams) response.write(`id: ${n}\nevent: number\ndata: {"n":${n}}\n\n`);
	};
	const opens = () => tabs[2].states.filter((s) => s === "open").length;
	const before = opens();
	while (opens() < before + 4) { // connections come to their max_age meanwhile
		emit();
		await after(2);
	}
	await until("all have all", () => tabs.every((tab) => tab.got.length === n));
	for (const tab of tabs) {
		assert.deepEqual(tab.got.map((data) => data.n), Array.from({ length: n }, (_, i) => i + 1));
		assert.deepEqual(tab.gaps, []);
	}
	const { time, lastEventId, ...rest } = events.at(-1);
	assert.deepEqual(structuredClone(rest), { type: "number", data: { n }, source: "numbers", id: String(n) });
	assert.ok(Math.abs(Date.now() - time) < 60e3 && lastEventId === tabs[0].stream.lastEventId);

	await stop(); // and the log with it
	await start();
	emit();
	await until("all know of the gap", () => tabs.every((tab) => tab.gaps.length === 1 && tab.got.at(-1).n === n));
	for (const tab of tabs) assert.deepEqual(tab.gaps, ["unknown"]);
});
