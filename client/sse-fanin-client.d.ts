/** What a listener gets. */
export interface StreamEvent<Data = any> {
	/** The event's type; `message` if it has none. */
	readonly type: string;
	/** The text of the event; with `envelope`, the value in it. That of `fanin.` events is always a value. */
	readonly data: Data;
	/** The position that the event moves the stream to; that before it, if it moves none. */
	readonly lastEventId: string;
	/** The upstream that sent it, with `envelope`; of `fanin.source` events, that which they are about. */
	readonly source?: string;
	/** The upstream's own id, with `envelope`. */
	readonly id?: string;
	/** When it arrived at Caddy, in Unix milliseconds, with `envelope`. */
	readonly time?: number;
}

/** The data of `fanin.gap`: something that was missed is gone. */
export interface Gap {
	/** Whether the position was too old, or of another log. */
	readonly reason: "expired" | "unknown";
	/** How many events of the stream are gone, if that is known. */
	readonly missed: number | null;
	/** The position after which the stream goes on. */
	readonly resumed?: string | null;
	/** How many of the events that follow are last values. */
	readonly state?: number;
}

/** The data of `fanin.source`: an upstream went up or down. */
export interface SourceState {
	readonly source: string;
	readonly state: string;
	readonly reason: string;
	/** Unix milliseconds. */
	readonly since: number;
}

/**
 * - `connecting`: there is no answer yet;
 * - `open`: events come;
 * - `waiting`: the connection has ended, there will be another by itself;
 * - `refused`: the answer was 204, 401 or 403, which `reconnect` or a tab that is shown again may change;
 * - `closed`: `close` was called.
 */
export type State = "connecting" | "open" | "waiting" | "refused" | "closed";

export interface Options {
	/** Where to begin, such as the position of the state that a server has put into the page. Default: where `start` of Caddy's settings says. It takes precedence over what `keep` has kept. */
	lastEventId?: string;
	/** Without a position: to begin with what arrived from this time on. A number is in Unix milliseconds or seconds, a text is as in RFC 3339. Default: where `start` of Caddy's settings says. */
	since?: Date | number | string;
	/** Keep the position over reloads of the page, in `sessionStorage`. Default: false. */
	keep?: boolean;
	/** Caddy has `envelope json`: take the data out of its envelope. Default: false. */
	envelope?: boolean;
	/** Header fields of the request, or what returns them anew for each connection. Default: none. */
	headers?: Record<string, string> | (() => Record<string, string> | Promise<Record<string, string>>);
	/** Whether cookies are sent, as for `fetch`. Default: `same-origin`. */
	credentials?: RequestCredentials;
	/** Whether to share the connection with other tabs. A text separates those who may share: the name of the user, say. Default: true without `headers`, false with them. */
	share?: boolean | string;
	/** How long the stream may be silent, heartbeats included, before it is connected anew, in milliseconds. `Infinity`, if Caddy has `heartbeat 0`. Default: 45000, three heartbeats. */
	silence?: number;
}

/** Takes a listener away again. */
export type Off = () => void;

/** Events of a type, from a source; `*` in either is any run of characters. */
export type Wanted = string | { type?: string; source?: string };

export interface Stream {
	/**
	 * Listens to events. Types that begin with `fanin.` match only what begins so, too.
	 * @throws TypeError if a source is given without the option `envelope`.
	 */
	on<Data = any>(wanted: Wanted, listener: (event: StreamEvent<Data>) => void): Off;
	/** Listens to gaps: what was missed is gone, so the state has to be fetched anew. */
	onGap(listener: (gap: Gap) => void): Off;
	/** Listens to upstreams that go up or down; Caddy needs `source_events on`. */
	onSource(listener: (source: SourceState) => void): Off;
	/** Listens to changes of the state. The reason is a text for people. */
	onState(listener: (state: State, reason?: string) => void): Off;
	readonly state: State;
	/** The position: that of the last event delivered. Empty: there is none. */
	readonly lastEventId: string;
	/** Connects now if the stream is not open, whatever it waits for. */
	reconnect(): void;
	/** Leaves the stream for good. Another tab that shares it takes over. */
	close(): void;
}

/**
 * Opens a stream. Listeners that are added before the calling task ends miss nothing.
 * @throws TypeError if the URL is none.
 */
export function connect(url: string | URL, options?: Options): Stream;
