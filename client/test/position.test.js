import assert from "node:assert/strict";
import test from "node:test";
import { behind, compare } from "../src/position.js";

const at = (offset, epoch = "3my6b7wxge") => `${epoch}-${offset}-mwsl0m14`;

test("compare", () => {
	assert.ok(compare(at(10), at(9)) > 0);
	assert.ok(compare(at(9), at(10)) < 0);
	assert.equal(compare(at(9), at(9)), 0);
	for (const other of [at(9, "su5imlwub5"), "", undefined, "9", "1526919030474-55", "a-1-b"]) {
		assert.ok(Number.isNaN(compare(at(10), other)), other);
	}
});

test("behind", () => {
	for (const [own, other, want] of [
		[at(9), at(10), true],
		[at(10), at(10), false],
		[at(11), at(10), false],
		[at(10), at(10, "su5imlwub5"), true],
		["", at(10), true], // the beginning
		[at(10), "", true], // the leader knows no position: it may have begun later
		["", "", false],
		["7", "9", false], // of an upstream: nobody knows
	]) {
		assert.equal(behind(own, other), want, `${own} and ${other}`);
	}
});
