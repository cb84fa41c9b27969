"""The external system of the drills: a server that counts how often each effect took place, and releases long runs."""

from __future__ import annotations

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson


class Sink:
    """A server in a thread of the drill's process, on its own port. No part of the platform can stop it."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._released: set[str] = set()
        self._lock = threading.Lock()
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self._answer({"count": sink._note(self.path.lstrip("/"))})

            def do_GET(self) -> None:
                self._answer({"released": sink.is_released(self.path.lstrip("/"))})

            def _answer(self, content: dict[str, Any]) -> None:
                body = orjson.dumps(content)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None:
                """Ignore the error: a killed caller breaks its connection."""

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """The base URL: a POST to `/<key>` counts an effect."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def _note(self, key: str) -> int:
        with self._lock:
            self._counts[key] += 1
            return self._counts[key]

    def count(self, key: str) -> int:
        """Return how often the effect took place."""
        with self._lock:
            return self._counts[key]

    def release(self, key: str) -> None:
        """Let the run that polls this key end."""
        with self._lock:
            self._released.add(key)

    def is_released(self, key: str) -> bool:
        """Return whether the run that polls this key may end."""
        with self._lock:
            return key in self._released

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
