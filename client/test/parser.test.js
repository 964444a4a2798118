import assert from "node:assert/strict";
import test from "node:test";
import { parser } from "../src/parser.js";

// all parses the pieces and returns everything that was read.
function all(...pieces) {
	const parse = parser(), total = { events: [] };
	for (const piece of pieces) {
		const { events, ...rest } = parse(piece);
		total.events.push(...events);
		Object.assign(total, rest);
	}
	return total;
}

const cases = {
	"an event": ["event: price\ndata: 1\nid: a\n\n", [["a", "price", "1"]]],
	"no type is message": ["data: 1\n\n", [[undefined, "message", "1"]]],
	"an empty type is message": ["event:\ndata: 1\n\n", [[undefined, "message", "1"]]],
	"several lines": ["data: a\ndata: b\ndata\n\n", [[undefined, "message", "a\nb\n"]]],
	"data alone is empty": ["data\n\n", [[undefined, "message", ""]]],
	"one blank goes": ["data:  a\n\ndata:b\n\n", [[undefined, "message", " a"], [undefined, "message", "b"]]],
	"an id without data": ["id: a\n\n", [["a", "message", undefined]]],
	"an id that is reset": ["id\ndata: 1\n\n", [["", "message", "1"]]],
	"an id with NUL": ["id: a\0b\ndata: 1\n\n", [[undefined, "message", "1"]]],
	"an event that is cut": ["id: a\ndata: 1\n", []],
	"a type without data": ["event: a\n\ndata: 1\n\n", [[undefined, "message", "1"]]],
	"comments and unknown fields": [": x\nfoo: bar\n Data: 1\ndata: 1\n\n", [[undefined, "message", "1"]]],
	"line separators in data": ["data: a\u2028b\n\n", [[undefined, "message", "a\u2028b"]]],
	"blank lines": ["\n\n\n", []],
};

for (const [name, [text, events]] of Object.entries(cases)) {
	test(name, () => {
		for (const end of ["\n", "\r", "\r\n"]) {
			const bytes = text.replaceAll("\n", end);
			assert.deepEqual(all(bytes).events, events, JSON.stringify(end));
			assert.deepEqual(all(...bytes).events, events, `${JSON.stringify(end)}, a character at a time`);
			assert.deepEqual(all(...[...bytes].flatMap((c) => [c, ""])).events, events, "with nothing in between");
		}
	});
}

test("CR ends a line without waiting for LF", () => {
	assert.deepEqual(all("data: 1\r\r").events, [[undefined, "message", "1"]]);
	assert.deepEqual(all("data: 1\r", "\ndata: 2\r", "\n\r", "\n").events, [[undefined, "message", "1\n2"]]);
});

test("retry is digits only, and counts at once", () => {
	assert.equal(all("retry: 4000\n").retry, 4000);
	assert.equal(all("retry: +4000\n").retry, undefined);
	assert.equal(all("retry: 4e3\n").retry, undefined);
});

test("a heartbeat is a colon alone", () => {
	assert.equal(all(":\n").beat, true);
	assert.equal(all(": sse_fanin\n").beat, undefined);
	assert.equal(all("data:\n").beat, undefined);
});
