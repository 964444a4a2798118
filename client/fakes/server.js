// A server of streams for the tests, which knows nothing of the library: it
// writes raw bytes, as Caddy's module does.
import { createServer } from "node:http";
import { once } from "node:events";

let epochs = 0;

export class Server {
	events = []; // of the log, by offset - 1
	first = 1; // the offset of the first that is retained
	clients = new Set(); // connected responses
	requests = [];
	refuse = undefined; // what answers instead
	retry = 20;
	history = 0; // how many events a client without a position gets
	prime = true;
	ids = true;

	async listen() {
		this.restart();
		this.http = createServer((request, response) => this.#serve(request, response));
		this.http.listen(0, "127.0.0.1");
		await once(this.http, "listening");
		this.url = `http://127.0.0.1:${this.http.address().port}/events`;
		return this;
	}

	async close() {
		this.http.close();
		this.http.closeAllConnections();
		await once(this.http, "close");
	}

	// restart loses the log, and with it what clients' positions mean.
	restart() {
		this.epoch = `epoch${String(++epochs).padStart(5, "0")}`;
		this.events = [];
		this.first = 1;
		this.cut();
	}

	// cut ends all connections in the midst of what they say.
	cut() {
		for (const response of this.clients) response.destroy();
	}

	// end ends all connections at the end of an event.
	end() {
		for (const response of this.clients) response.end();
		this.clients.clear();
	}

	position(offset) {
		return `${this.epoch}-${offset}-mwsl0m14`;
	}

	#block(offset) {
		return (this.ids ? `id: ${this.position(offset)}\n` : "") + this.events[offset - 1];
	}

	emit(data, type = "") {
		this.events.push((type && `event: ${type}\n`) + `data: ${data}\n\n`);
		this.write(this.#block(this.events.length));
	}

	write(text) {
		for (const response of this.clients) response.write(text);
	}

	beat() {
		this.write(":\n");
	}

	#serve(request, response) {
		this.requests.push(request);
		if (this.refuse) return this.refuse(request, response);
		this.clients.add(response);
		response.on("close", () => this.clients.delete(response));
		response.writeHead(200, { "Content-Type": "text/event-stream" });
		const asked = new URL(request.url, this.url).searchParams.get("lastEventId");
		const head = this.events.length;
		let text = `retry: ${this.retry}\n: test\n`, from = head + 1;
		const known = asked?.startsWith(this.epoch + "-");
		if (known) from = +asked.split("-")[1] + 1;
		else if (!asked) from = head + 1 - this.history;
		if (asked && (!known || from < this.first)) {
			const [reason, missed] = known ? ["expired", this.first - from] : ["unknown", null];
			from = this.first;
			const resumed = this.position(from - 1);
			text += `id: ${resumed}\nevent: fanin.gap\ndata: ${JSON.stringify({ reason, missed, resumed })}\n\n`;
		}
		from = Math.max(from, this.first);
		if (!asked && this.ids && this.prime) text += `id: ${this.position(from - 1)}\n\n`;
		for (let offset = from; offset <= head; offset++) text += this.#block(offset);
		response.write(text);
	}
}
