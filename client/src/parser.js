// parser reads a stream (WHATWG HTML, section 9.2.6). It returns a function that
// takes the next piece of text and returns what is complete: events, as arrays
// of id, type and data, the last retry in milliseconds, and whether there was a
// heartbeat. The id is undefined in an event that has none of its own, the data
// in a block that moves the position and fires nothing.
export function parser() {
	let rest = "", cr, id, type, data;
	return (text) => {
		const read = { events: [] };
		if (!text) return read;
		if (cr && text[0] === "\n") text = text.slice(1); // the other half of a CRLF
		cr = text.endsWith("\r");
		const lines = (rest + text).split(/\r\n?|\n/);
		rest = lines.pop();
		for (const line of lines) {
			const [, name, value] = /^([^:]*)(?:: ?)?(.*)$/s.exec(line);
			if (!line) {
				if ((id ?? data) !== undefined) read.events.push([id, type || "message", data]);
				id = type = data = undefined;
			} else if (line === ":") read.beat = true;
			else if (name === "data") data = data === undefined ? value : data + "\n" + value;
			else if (name === "event") type = value;
			else if (name === "id" && !value.includes("\0")) id = value;
			else if (name === "retry" && /^\d+$/.test(value)) read.retry = +value;
		}
		return read;
	};
}
