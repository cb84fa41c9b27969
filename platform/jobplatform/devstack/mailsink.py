"""A local SMTP server that stores mails; `GET /` returns them as a JSON array, newest last."""

from __future__ import annotations

import argparse
import asyncio
import email
import email.policy
import signal
import threading
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
from aiosmtpd.controller import Controller

#: maximum number of mails, more than a demo or test sends; the oldest are dropped first
KEPT = 10_000


class Mailbox:
    """Received mails in order; thread-safe."""

    def __init__(self) -> None:
        self._mails: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def add(self, envelope: Any) -> None:
        """Store a mail as received."""
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        with self._lock:
            self._mails.append(as_json(envelope, message))
            del self._mails[:-KEPT]

    def all(self) -> bytes:
        """Return all mails as JSON."""
        with self._lock:
            return orjson.dumps(self._mails)

    def clear(self) -> None:
        """Delete all mails."""
        with self._lock:
            self._mails.clear()


def as_json(envelope: Any, message: EmailMessage) -> dict[str, Any]:
    """Return one mail with its bodies and attachments."""
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    return {
        "from": str(message["From"]),
        "to": list(envelope.rcpt_tos),
        "subject": str(message["Subject"]),
        "message_id": str(message["Message-ID"]),
        "date": str(message["Date"]),
        "text": text.get_content() if text else None,
        "html": html.get_content() if html else None,
        "attachments": [
            {
                "filename": part.get_filename(),
                "content_type": part.get_content_type(),
                "size": len(part.get_payload(decode=True) or b""),
            }
            for part in message.iter_attachments()
        ],
    }


class Keeper:
    """aiosmtpd's handler."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        """Store the mail. Recipients that begin with "bounce" or "busy" are refused, permanently or for now."""
        first = envelope.rcpt_tos[0]
        if first.startswith("bounce"):
            return "550 5.1.1 no such mailbox"
        if first.startswith("busy"):
            return "451 4.7.1 try again later"
        await asyncio.to_thread(self._mailbox.add, envelope)
        return "250 OK"


def serve(smtp_port: int, http_port: int) -> None:
    """Serve until SIGTERM."""
    mailbox = Mailbox()

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(mailbox.all())

        def do_DELETE(self) -> None:
            mailbox.clear()
            self._answer(b"[]")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    controller = Controller(Keeper(mailbox), hostname="127.0.0.1", port=smtp_port, data_size_limit=64 * 1024 * 1024)
    controller.start()
    server = ThreadingHTTPServer(("127.0.0.1", http_port), Page)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever(poll_interval=0.1)
    controller.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smtp-port", type=int, required=True)
    parser.add_argument("--http-port", type=int, required=True)
    arguments = parser.parse_args()
    serve(arguments.smtp_port, arguments.http_port)
