// Tabs of a browser for the tests: each has a realm with the shipped library and
// its own page events, all have the same locks and channels.
import { readFileSync } from "node:fs";
import { setTimeout as after } from "node:timers/promises";
import vm from "node:vm";

const library = new vm.Script(readFileSync(new URL("../sse-fanin-client.js", import.meta.url), "utf8")
	.replace(/export\{(\w+) as connect\};/, "globalThis.connect=$1;"), { filename: "sse-fanin-client.js" });

// until waits for a condition.
export async function until(what, condition, atMost = 20_000) {
	const end = Date.now() + atMost;
	while (!condition()) {
		if (Date.now() > end) throw new Error(`waited in vain: ${typeof what === "function" ? what() : what}`);
		await after(2);
	}
}

// Locks are Web Locks, as far as one exclusive lock a name goes.
class Locks {
	#queues = new Map(); // by name; the first one holds the lock

	request(name, { signal, steal }, held) {
		const queue = this.#queues.get(name) ?? [];
		this.#queues.set(name, queue);
		return new Promise((resolve, reject) => {
			const entry = { resolve, reject, held };
			if (steal) {
				queue.shift()?.reject(new DOMException("stolen", "AbortError"));
				queue.unshift(entry);
				return this.#grant(queue);
			}
			queue.push(entry);
			signal?.addEventListener("abort", () => {
				if (entry.granted) return;
				queue.splice(queue.indexOf(entry), 1);
				reject(signal.reason);
			});
			if (queue.length === 1) this.#grant(queue);
		});
	}

	#grant(queue) {
		const entry = queue[0];
		if (!entry || entry.granted) return;
		entry.granted = true;
		Promise.resolve().then(entry.held).then((value) => {
			if (queue[0] !== entry) return; // stolen meanwhile
			queue.shift();
			entry.resolve(value);
			this.#grant(queue);
		});
	}
}

export class Browser {
	locks = new Locks();
	tabs = new Set();

	// tab opens one, without some of what browsers have, or without ticks. What is stored is of the tab that it reloads.
	tab(options, stored = new Map()) {
		const tab = new Tab(this, options, stored);
		this.tabs.add(tab);
		return tab;
	}

	close() {
		for (const tab of this.tabs) tab.close();
	}
}

class Tab {
	got = []; // the events
	gaps = [];
	states = [];
	errors = [];
	waits = []; // before it connects again, in milliseconds
	pieces = 0; // that it has read of its connections
	#asleep = 0; // for how long, in milliseconds
	#page = new EventTarget();
	#hanging; // what resolves when the tab goes on
	#answers; // it hears others, though it hangs
	#channels = new Set();

	constructor(browser, { url, without = [], still, ...options }, stored) {
		this.browser = browser;
		this.stored = stored;
		const tab = this;
		const realm = {
			Date: { now: () => Date.now() + this.#asleep },
			AbortController, Request, TextDecoder, URL, clearTimeout, clearInterval,
			queueMicrotask: (task) => queueMicrotask(() => {
				try {
					task();
				} catch (error) {
					tab.errors.push(error);
				}
			}),
			setTimeout: (task, wait) => {
				tab.waits.push(wait);
				return setTimeout(() => tab.#run(task), wait);
			},
			setInterval: (task, wait) => setInterval(() => tab.#hanging ?? task(), still ? 2 ** 31 - 1 : wait),
			fetch: (...args) => tab.#fetch(...args),
			navigator: { locks: { request: (name, how, held) => browser.locks.request(name, how, () => tab.#run(held)) } },
			BroadcastChannel: class {
				constructor(name) {
					this.channel = new BroadcastChannel(name);
					this.channel.onmessage = (message) => tab.#run(() => this.closed || this.onmessage(message));
					tab.#channels.add(this);
				}

				postMessage(message) { this.channel.postMessage(message); }

				close() {
					this.closed = true;
					this.channel.close();
					tab.#channels.delete(this);
				}
			},
			sessionStorage: { getItem: (key) => stored.get(key) ?? null, setItem: (key, value) => stored.set(key, value) },
			document: { hidden: false },
			addEventListener: (...args) => this.#page.addEventListener(...args),
			removeEventListener: (...args) => this.#page.removeEventListener(...args),
		};
		for (const name of without) delete realm[name];
		library.runInContext(vm.createContext(realm));
		this.stream = realm.connect(url, options);
		this.stream.on("*", (event) => this.got.push(event.data));
		this.stream.onGap((gap) => this.gaps.push(gap.reason));
		this.stream.onState((state, why) => this.states.push(why ? `${state}: ${why}` : state));
	}

	// #run runs a task of the tab, later if it hangs.
	#run(task) {
		return this.#hanging && !this.#answers ? this.#hanging.promise.then(task) : task();
	}

	async #fetch(...args) {
		const response = await fetch(...args);
		await this.#hanging?.promise;
		const reader = response.body?.getReader();
		const read = async () => {
			const piece = await reader.read();
			await this.#hanging?.promise;
			this.pieces++;
			return piece;
		};
		return {
			status: response.status,
			headers: response.headers,
			body: reader && { getReader: () => ({ read }), cancel: () => reader.cancel() },
		};
	}

	dispatch(type) {
		this.#page.dispatchEvent(new Event(type));
	}

	// sleep has the clock jump, and the user look at the tab.
	sleep(time) {
		this.#asleep += time;
		this.dispatch("visibilitychange");
	}

	// hang stops the tab without a word, but for its answers to others, if it is
	// to have some; thaw has it go on, with all that came.
	hang(answers) {
		this.#answers = answers;
		this.#hanging = {};
		this.#hanging.promise = new Promise((resolve) => { this.#hanging.resolve = resolve; });
	}

	thaw() {
		const { resolve } = this.#hanging;
		this.#hanging = undefined;
		resolve();
	}

	get hangs() { return !!this.#hanging; }

	close() {
		if (this.#hanging) this.thaw();
		this.stream.close();
		this.browser.tabs.delete(this);
	}
}
