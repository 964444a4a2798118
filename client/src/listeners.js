// pattern returns the expression for a text in which * is any run of characters.
export const pattern = (text) =>
	new RegExp("^" + text.replace(/[\\^$.*+?()[\]{}|]/g, (c) => (c === "*" ? ".*" : "\\" + c)) + "$", "s");

// later throws an error where it stops nobody: that of one listener is reported
// as any of the page's, and the others get their events.
const later = (error) => queueMicrotask(() => { throw error; });

// all returns a set of functions, as what adds one and returns what removes it,
// and what calls them all.
export function all() {
	const set = new Set();
	return {
		add(listener) {
			set.add(listener);
			return () => { set.delete(listener); };
		},
		call(...args) {
			for (const listener of [...set]) {
				try {
					listener(...args);
				} catch (error) {
					later(error);
				}
			}
		},
	};
}

// listeners hands events to those who listen to their type and source.
export function listeners(envelope) {
	const { add, call } = all();
	function on(wanted, listener) {
		const { type = "*", source } = typeof wanted === "string" ? { type: wanted } : wanted;
		if (source && !envelope) throw new TypeError("listening by source needs the option envelope");
		const [ofType, ofSource] = [type, source ?? "*"].map(pattern);
		return add((event) => {
			if (event.type.startsWith("fanin.") && !type.startsWith("fanin.")) return;
			if (ofType.test(event.type) && ofSource.test(event.source ?? "")) listener(event);
		});
	}
	function emit(lastEventId, type, data) {
		let event = { type, data, lastEventId };
		try {
			if (type.startsWith("fanin.")) event.source = (event.data = JSON.parse(data)).source;
			else if (envelope) event = { ...event, ...JSON.parse(data), type };
		} catch {
			return later(new SyntaxError(`the data of ${type} is no envelope: is "envelope json" set in Caddy?`));
		}
		call(event);
	}
	return { on, emit };
}
