"""A small OpenAI-compatible chat server for local use. It has no language model, and its answers say so.

It streams word by word, counts words as tokens, and honours max_tokens. The words `status 429` (or any
other code) in a message make it answer with that error.
"""

from __future__ import annotations

import argparse
import re
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson

MODEL = "local-demo"
WORD_SECONDS = 0.02


def answer_words(messages: list[dict[str, Any]]) -> list[str]:
    """Return the words of the answer to a conversation."""
    asked = str(messages[-1].get("content", "")) if messages else ""
    text = (
        f"I am the local demo server of the job platform, not a language model. You asked: “{asked[:300]}” "
        f"({len(asked.split())} words, in a conversation of {len(messages)} messages). "
        f"Set JOBPLATFORM_LLM_BASE_URL to Ollama, vLLM or a hosted server for a real answer."
    )
    return re.findall(r"\S+\s*", text)


def chunks(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a streamed completion, then the one with the usage."""
    messages = request.get("messages") or []
    words = answer_words(messages)
    limit = request.get("max_tokens") or len(words)
    said = words[:limit]
    model = request.get("model") or MODEL
    base = {"id": "chatcmpl-local", "object": "chat.completion.chunk", "created": int(time.time()), "model": model}
    for word in said:
        time.sleep(WORD_SECONDS)
        yield {**base, "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
    finish = "length" if len(said) < len(words) else "stop"
    yield {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
    prompt = sum(len(str(message.get("content", "")).split()) for message in messages)
    usage = {"prompt_tokens": prompt, "completion_tokens": len(said), "total_tokens": prompt + len(said)}
    yield {**base, "choices": [], "usage": usage}


class ChatPage(BaseHTTPRequestHandler):
    """`POST /v1/chat/completions` and `GET /v1/models`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """List the one model."""
        self._json(200, {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "jobplatform"}]})

    def do_POST(self) -> None:
        """Answer a conversation, streamed on request."""
        request = orjson.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        asked = str((request.get("messages") or [{}])[-1].get("content", ""))
        if match := re.search(r"\bstatus (4\d\d|5\d\d)\b", asked):
            code = int(match.group(1))
            self._json(code, {"error": {"message": f"you asked for {code}", "type": "demo"}}, {"Retry-After": "1"})
            return
        if request.get("stream"):
            self._stream(request)
            return
        parts = list(chunks(request))
        content = "".join(part["choices"][0]["delta"].get("content", "") for part in parts[:-1])
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        self._json(200, {**parts[-1], "object": "chat.completion", "choices": [choice]})

    def _stream(self, request: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            for chunk in chunks(request):
                self.wfile.write(b"data: " + orjson.dumps(chunk) + b"\n\n")
                self.wfile.flush()
            self.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # the caller has disconnected
        self.close_connection = True

    def _json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        body = orjson.dumps(value)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, content in (headers or {}).items():
            self.send_header(name, content)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def serve(port: int) -> None:
    """Serve until SIGTERM."""
    server = ThreadingHTTPServer(("127.0.0.1", port), ChatPage)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    serve(parser.parse_args().port)
