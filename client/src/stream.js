import { compare, behind } from "./position.js";
import { all, listeners } from "./listeners.js";
import { connection } from "./connection.js";

// What tabs send each other: an array is news of the leader, these are requests
// to it.
const ASK = 0; // for news
const RECONNECT = 1; // at once, if the stream is not open

// connect opens a stream, which all tabs of this origin with the same address
// and options share. One of them, the leader, holds the lock of that name, has
// the connection, and sends what comes to the others, the followers: each piece
// with the position before it. A follower that is not there yet has missed
// something. It catches up over a connection of its own until it is where the
// leader is. What it has delivered before it recognises by the position. So it
// does not matter who leads, whether messages are lost, or whether two tabs
// believe for a moment that they lead.
export function connect(url, options = {}) {
	const { lastEventId, since, keep, envelope, headers, credentials, share = !headers, silence = 45e3 } = options;
	const { url: address } = new Request(url);
	const name = ["sse-fanin", address, credentials, share].join(" ");
	const beat = Math.min(silence / 9, 5000);
	const { on, emit } = listeners(envelope);
	const watchers = all();
	let state = "connecting", why;
	let life; // the AbortController of what this tab takes part in; undefined: nothing
	let channel, leading, release, timer;
	let heard; // when there was news of the leader
	let asked; // how often it was asked since
	let goal; // its position when this tab began to catch up
	let values = 0; // how many last values are to follow a gap, with older ids
	let position = lastEventId ?? restore() ?? "";

	function restore() {
		try {
			return keep && sessionStorage.getItem(name) || "";
		} catch {} // there is no storage
	}

	function store() {
		try {
			if (keep) sessionStorage.setItem(name, position);
		} catch {} // there is none, or it is full
	}

	function change(to, reason) {
		if (to === state && reason === why) return;
		[state, why] = [to, reason];
		watchers.call(state, why);
	}

	const send = (message) => channel?.postMessage(message);
	const tell = (events = []) => leading && send([position, state, why, events]);

	function deliver(events) {
		for (const [id, type, data] of events) {
			if (!life) break; // a listener has closed the stream
			if (id !== undefined) {
				if (values > 0) values--;
				else if (compare(id, position) <= 0) continue;
				position = id;
			}
			if (type === "fanin.gap") values = JSON.parse(data).state;
			if (data !== undefined) emit(position, type, data);
		}
		store();
	}

	function receive({ events, beat }) {
		tell(events);
		deliver(events);
		if (leading) return;
		if (beat && (!position || compare(goal, position) > 0)) {
			// There was nothing else up to the goal. What has come since has its turn
			// when the leader answers.
			position = goal;
			own.stop();
		}
		if (compare(goal, position) <= 0) send(ASK);
	}

	function report(to, reason) {
		if (!leading && !position && to !== "connecting" && to !== "open") {
			// it was for the beginning only; better none than nothing at all
			own.stop();
			position = goal;
			send(ASK);
			return;
		}
		change(to, reason);
		tell();
	}

	const own = connection(address, { headers, credentials, silence, since }, () => position, receive, report);

	function news([before, to, reason, events]) {
		heard = Date.now();
		asked = 0;
		if (leading) return;
		if (behind(position, before)) {
			if (own.running()) return;
			goal = before;
			own.start();
		} else {
			own.stop();
			position ||= before;
			change(to, reason);
			deliver(events);
		}
	}

	function lead() {
		leading = true;
		if (own.running()) tell();
		else own.start();
	}

	function reconnect() {
		if (!own.running()) send(RECONNECT);
		else if (state !== "open") own.start();
	}

	function join(steal) {
		if (life) return;
		const mine = (life = new AbortController());
		timer = setInterval(tick, beat);
		if (!share || !globalThis.BroadcastChannel || !globalThis.navigator?.locks) return lead();
		channel = new BroadcastChannel(name);
		channel.onmessage = ({ data }) => {
			if (Array.isArray(data)) return news(data);
			if (!leading) return;
			if (data === RECONNECT) reconnect();
			check(); // the timers of a hidden tab are late
			tell();
		};
		heard = Date.now();
		asked = 0;
		navigator.locks.request(name, steal ? { steal } : { signal: mine.signal }, () => life === mine && new Promise((resolve) => {
			release = resolve;
			lead();
		})).catch(() => {
			if (life !== mine) return;
			if (!leading) return lead(); // this page may have no locks
			leave(); // another tab believed that this one was gone
			join();
		});
		send(ASK);
	}

	function leave() {
		life?.abort();
		release?.();
		own.stop();
		channel?.close();
		clearInterval(timer);
		life = channel = leading = release = undefined;
	}

	// check has another tab try if there is one, and this tab anew: one that the
	// browser has half frozen answers others, but cannot connect.
	function check() {
		if (!own.late()) return;
		leave();
		join();
	}

	function tick() {
		check();
		if (leading || Date.now() - heard < beat) return;
		if (asked++ < 2) return send(ASK);
		leave();
		join(true); // a tab that hangs keeps its lock
	}

	function onPage({ type }) {
		if (type === "pagehide" || type === "freeze") leave();
		else if (type === "online") leading && own.start(); // over another network
		else if (type !== "visibilitychange") join();
		else if (!document.hidden) {
			join();
			tick();
			reconnect();
		}
	}

	function onPages(method) {
		for (const type of ["pagehide", "pageshow", "freeze", "resume", "online", "visibilitychange"]) {
			globalThis[method]?.(type, onPage, true); // some are the document's
		}
	}

	onPages("addEventListener");
	join();
	return {
		on,
		onGap: (listener) => on("fanin.gap", (event) => listener(event.data)),
		onSource: (listener) => on("fanin.source", (event) => listener(event.data)),
		onState: watchers.add,
		get state() { return state; },
		get lastEventId() { return position; },
		reconnect,
		close() {
			onPages("removeEventListener");
			leave();
			change("closed");
		},
	};
}
