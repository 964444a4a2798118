import assert from "node:assert/strict";
import test from "node:test";
import { listeners, pattern } from "../src/listeners.js";

test("patterns", () => {
	for (const [text, matches, others] of [
		["price", ["price"], ["prices", "aprice", ""]],
		["*", ["price", "", "a\nb"], []],
		["build.*", ["build.", "build.done"], ["build", "builds", "xbuild.a"]],
		["*.done", ["build.done", ".done"], ["build.done.x"]],
		["a*b*c", ["abc", "axxbyyc"], ["acb", "ab"]],
		["a.b", ["a.b"], ["axb"]],
		["(a|b)+[c]?^$\\{1}", ["(a|b)+[c]?^$\\{1}"], ["a"]],
	]) {
		for (const s of matches) assert.ok(pattern(text).test(s), `${text} matches ${s}`);
		for (const s of others) assert.ok(!pattern(text).test(s), `${text} does not match ${s}`);
	}
});

test("by type and source", () => {
	const { on, emit } = listeners(true);
	const got = [];
	on("price", (e) => got.push(["type", e.data]));
	on({ source: "a*" }, (e) => got.push(["source", e.data]));
	on({ type: "p*", source: "ab" }, (e) => got.push(["both", e.data]));
	for (const [source, type] of [["ab", "price"], ["ac", "price"], ["b", "news"]]) {
		emit("", type, JSON.stringify({ source, data: source + type }));
	}
	assert.deepEqual(got, [["type", "abprice"], ["source", "abprice"], ["both", "abprice"], ["type", "acprice"], ["source", "acprice"]]);
});

test("what is in the envelope", () => {
	const { on, emit } = listeners(true);
	let got;
	on("*", (e) => { got = e; });
	emit("position", "ci.done", JSON.stringify({ source: "s", type: "done", id: "upstream's", time: 5, data: { n: 1 } }));
	assert.deepEqual(got, { type: "ci.done", data: { n: 1 }, lastEventId: "position", source: "s", id: "upstream's", time: 5 });
});

test("the module's own events are for those who ask for them", () => {
	const { on, emit } = listeners(false);
	const got = [];
	on("*", (e) => got.push(["*", e.type]));
	on("fanin.*", (e) => got.push(["fanin.*", e.type, e.data.reason]));
	emit("", "fanin.gap", '{"reason":"expired"}');
	emit("", "fan", "1");
	assert.deepEqual(got, [["fanin.*", "fanin.gap", "expired"], ["*", "fan"]]);
});

test("a listener leaves", () => {
	const { on, emit } = listeners(false);
	const got = [];
	const off = on("*", (e) => {
		got.push(e.data);
		off();
	});
	on("*", (e) => got.push("other " + e.data));
	emit("", "a", "1");
	emit("", "a", "2");
	assert.deepEqual(got, ["1", "other 1", "other 2"]);
});

test("a source without an envelope is an error", () => {
	const { on } = listeners(false);
	assert.throws(() => on({ source: "a" }, () => {}), { name: "TypeError", message: /needs the option envelope/ });
});
