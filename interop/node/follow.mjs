// Follows a stream with one of the libraries of npm, and prints every message:
//
//	node follow.mjs <library> <url> <type>...
//
// An EventSource hands out only the types that it is asked for.
import { setTimeout as sleep } from "node:timers/promises";

const [library, url, ...types] = process.argv.slice(2);

function print(type, id, data) {
	process.stdout.write(JSON.stringify({ type, id, data }) + "\n");
}

function listen(source) {
	for (const type of types) {
		source.addEventListener(type, (e) => print(type, e.lastEventId, e.data));
	}
	source.onerror = () => {
		if (source.readyState === 2) process.exit(1); // it has given up
	};
}

const libraries = {
	async "eventsource"() {
		const { EventSource } = await import("eventsource");
		listen(new EventSource(url));
	},

	async "eventsource-client"() {
		const { createEventSource } = await import("eventsource-client");
		for await (const { event, id, data } of createEventSource(url)) {
			print(event ?? "", id, data);
		}
	},

	async "event-source-polyfill"() {
		const { default: polyfill } = await import("event-source-polyfill");
		listen(new polyfill.EventSourcePolyfill(url));
	},

	async "reconnecting-eventsource"() {
		const { EventSource } = await import("eventsource");
		const { default: reconnecting } = await import("reconnecting-eventsource");
		// a CommonJS module: its default export is a property
		const Reconnecting = reconnecting.default ?? reconnecting;
		// its messages come to listeners; those of onmessage do not move its position
		listen(new Reconnecting(url, { eventSourceClass: EventSource, max_retry_time: 200 }));
	},

	async "@microsoft/fetch-event-source"() {
		// it is made for pages, and looks for these two
		globalThis.window = globalThis;
		globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
		const { fetchEventSource } = await import("@microsoft/fetch-event-source");
		await fetchEventSource(url, {
			openWhenHidden: true,
			onmessage: ({ event, id, data }) => print(event, id, data),
			onclose() {
				throw new Error("the stream has ended"); // or it would not come back
			},
		});
	},
};

await libraries[library]();
for (;;) await sleep(60_000);
