import { parser } from "./parser.js";

// connection reads the stream at an address, again and again. With fetch rather
// than EventSource, which hides heartbeats, so that a page cannot miss them, gives
// up after any status but 200, and sends no headers. The position is in the query,
// which needs no preflight. `no-store` makes the request one like EventSource's,
// so that Caddy begins with a position.
//
// position returns where to resume, since is from when on the stream is wanted while
// there is none, receive gets what the parser has read, and
// report the state and the reason for it.
export function connection(url, { headers, credentials = "same-origin", silence, since }, position, receive, report) {
	let running; // the AbortController of the connection, or of the wait for the next
	let timer, due, retry = 3000, failures = 0;

	function stop() {
		running?.abort();
		clearTimeout(timer);
		running = undefined;
	}

	// start connects at once, whatever was before.
	async function start() {
		stop();
		const { signal } = (running = new AbortController());
		const alive = () => { due = Date.now() + silence; };
		let wait, final, why;
		alive();
		report("connecting");
		try {
			const target = new URL(url);
			if (position()) target.searchParams.set("lastEventId", position());
			else if (since !== undefined) target.searchParams.set("since", +since || since); // a text is no number
			const response = await fetch(target, {
				headers: { Accept: "text/event-stream", ...(typeof headers === "function" ? await headers() : headers) },
				cache: "no-store",
				credentials,
				signal,
			});
			if (signal.aborted) return;
			const { status, body } = response;
			const type = response.headers.get("Content-Type");
			if (status !== 200 || !/^text\/event-stream/i.test(type)) {
				body?.cancel();
				final = [204, 401, 403].includes(status);
				wait = 1000 * response.headers.get("Retry-After");
				throw new Error(`status ${status}, ${type}`);
			}
			report("open");
			const reader = body.getReader(), decoder = new TextDecoder(), parse = parser();
			for (let piece; !(piece = await reader.read()).done && !signal.aborted; ) {
				alive();
				failures = 0;
				const read = parse(decoder.decode(piece.value, { stream: true }));
				retry = read.retry ?? retry;
				receive(read);
			}
			wait = retry;
		} catch (error) {
			why = error.message;
			// longer with each failure, and not at the same time as all other clients
			wait ||= Math.min(Math.max(retry, 60e3), retry * 2 ** failures++ * (1 + Math.random()));
		}
		if (signal.aborted) return;
		wait = final ? Infinity : Math.min(wait, 2 ** 31 - 1); // the most that a timer can wait
		due = Date.now() + wait;
		if (!final) timer = setTimeout(start, wait);
		report(final ? "refused" : "waiting", why);
	}

	return {
		start,
		stop,
		running: () => running,
		// late reports whether nothing was heard for too long, or the next connection
		// should have been tried: the timers of hidden tabs are late.
		late: () => running && Date.now() > due,
	};
}
