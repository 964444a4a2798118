// A position of a stream with `ids stream` is <epoch>-<offset>-<time>. Other
// ids (`ids upstream`) have no order that a client could know.
const cursor = (id) => /^(\w{10})-(\d+)-\w+$/.exec(id);

// compare returns how far position a is after position b: negative if it is
// before, NaN if they are not of the same log or have no order.
export function compare(a, b) {
	const [x, y] = [cursor(a), cursor(b)];
	return x && y && x[1] === y[1] ? x[2] - y[2] : NaN;
}

// behind reports whether a tab at its own position may miss something when it
// goes on with what follows another position.
export function behind(own, other) {
	return !!(cursor(own) || cursor(other)) && !(compare(other, own) <= 0);
}
