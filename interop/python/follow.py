"""Follows a stream with one of Python's HTTP libraries, and prints every message:

    python3 follow.py <library> <url> <type>...

None of them knows event streams, so each has the loop around it that a program
needs: it comes back after the retry that the stream has sent, with the position.
All types are printed.
"""

import asyncio
import json
import sys
import time

SILENCE = 45  # seconds without a byte, three heartbeats of 15 seconds


class Reader:
    """Reads an event stream in pieces of any size, over several connections."""

    def __init__(self):
        self.position = ""
        self.retry = 3.0
        self.begin()

    def headers(self):
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
        if self.position:
            headers["Last-Event-ID"] = self.position
        return headers

    def begin(self):
        """Begins with another connection: what was not complete is forgotten."""
        self.rest = b""
        self.clear()

    def clear(self):
        self.kind, self.data, self.seen = "", [], None

    def feed(self, piece):
        # at LF only: str.splitlines, and so iter_lines of httpx, knows more ends
        *lines, self.rest = (self.rest + piece).split(b"\n")
        for line in lines:
            self.line(line)

    def line(self, line):
        if not line:
            if self.seen is not None:
                self.position = self.seen
            if self.data:
                message = {"type": self.kind, "id": self.position, "data": "\n".join(self.data)}
                print(json.dumps(message), flush=True)
            self.clear()
            return
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self.kind = value
        elif name == "data":
            self.data.append(value)
        elif name == "id":
            self.seen = value
        elif name == "retry" and value.isdigit():
            self.retry = int(value) / 1000


def follow_requests(url, reader):
    import requests

    with requests.get(url, headers=reader.headers(), stream=True, timeout=(5, SILENCE)) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            reader.line(line)


def follow_httpx(url, reader):
    import httpx

    with httpx.Client(http2=True, timeout=httpx.Timeout(5, read=SILENCE)) as client:
        with client.stream("GET", url, headers=reader.headers()) as response:
            response.raise_for_status()
            for piece in response.iter_bytes():
                reader.feed(piece)


async def follow_aiohttp(url, reader):
    import aiohttp

    # the total of five minutes, which is the default, would be the stream's
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=SILENCE)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        async with session.get(url, headers=reader.headers()) as response:
            response.raise_for_status()
            # not the lines of response.content: they may have 128 KiB at most
            async for piece in response.content.iter_any():
                reader.feed(piece)


async def follow_tornado(url, reader):
    from tornado.httpclient import AsyncHTTPClient, HTTPRequest

    await AsyncHTTPClient().fetch(
        HTTPRequest(
            url,
            headers=reader.headers(),
            streaming_callback=reader.feed,
            connect_timeout=5,
            request_timeout=0,  # the default of 20 seconds would be the stream's
        )
    )


def main(library, url):
    follow = globals()["follow_" + library]
    reader = Reader()
    while True:
        reader.begin()
        try:
            if asyncio.iscoroutinefunction(follow):
                asyncio.run(follow(url, reader))
            else:
                follow(url, reader)
        except Exception as err:  # each library has errors of its own
            print(repr(err), file=sys.stderr, flush=True)
        time.sleep(reader.retry)


main(*sys.argv[1:3])
