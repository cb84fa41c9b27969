"""A reader of Server-Sent Events, as specified in the HTML standard (9.2.6), over a plain connection."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import orjson


class Sent(NamedTuple):
    """An event; `id` is the last id received, with it or before it."""

    id: str
    name: str
    data: Any


class Stream:
    """One open stream."""

    def __init__(self, url: str, key: str, path: str, last: str | None = None, seconds: float = 30) -> None:
        position = urlsplit(url)
        self._connection = http.client.HTTPConnection(str(position.hostname), position.port, timeout=seconds)
        headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {key}"}
        if last is not None:
            headers["Last-Event-ID"] = last
        self._connection.request("GET", path, headers=headers)
        self.answer = self._connection.getresponse()
        self.status = self.answer.status
        self.last = last or ""

    def problem(self) -> Any:
        return orjson.loads(self.answer.read())

    def __iter__(self) -> Iterator[Sent]:
        name, data = "message", []
        for line in self.answer:
            text = line.decode().rstrip("\n")
            field, _, value = text.partition(":")
            value = value.removeprefix(" ")
            if not text:
                if data:
                    yield Sent(self.last, name, orjson.loads("\n".join(data)))
                name, data = "message", []
            elif field == "id":
                self.last = value
            elif field == "event":
                name = value
            elif field == "data":
                data.append(value)

    def close(self) -> None:
        # the answer keeps the socket: closing the connection alone would leave it open
        self.answer.close()
        self._connection.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
