"""A proxy that can lose a server's next answer: the request arrives, then the connection breaks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Proxy:
    """Forwards connections to a port of this machine."""

    def __init__(self, target_port: int, port: int = 0) -> None:
        self._target_port = target_port
        self._server = socket.create_server(("127.0.0.1", port))
        self.port: int = self._server.getsockname()[1]
        #: while set, answers of the server are discarded and their connections closed
        self.losing_answers = threading.Event()
        #: number of connections that have lost an answer
        self.lost_answers = 0
        #: called with a client's data and its earlier data; true: discard it and close the connection
        self.stops: Callable[[bytes, bytes], bool] | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target_port))
                except OSError:  # the server is not reachable
                    client.close()
                    continue
                threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        before = b""
        with suppress(OSError):
            while (data := source.recv(65536)) and not (answers and self.losing_answers.is_set()):
                if not answers and self.stops is not None and self.stops(data, before):
                    break
                before = data
                sink.sendall(data)
            else:
                self.lost_answers += bool(data)
        for item in (source, sink):
            with suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Accept no more connections."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # close alone does not end a thread that waits in accept
        self._server.close()


@contextmanager
def proxied(url: str) -> Iterator[tuple[str, Proxy]]:
    """Yield the URL of the same server through a proxy, and the proxy."""
    head, _, rest = url.rpartition("127.0.0.1:")
    port, slash, path = rest.partition("/")
    proxy = Proxy(int(port))
    try:
        yield f"{head}127.0.0.1:{proxy.port}{slash}{path}", proxy
    finally:
        proxy.close()
