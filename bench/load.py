"""HTTP load with wrk: 16 keep-alive clients, one request after the other; every response must be a 2xx or a 304."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CLIENTS = 16
_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True)
class Load:
    """The results of wrk."""

    per_second: float
    p99_ms: float


def run_wrk(
    folder: Path,
    url: str,
    seconds: int,
    *,
    body: bytes | None = None,
    key: str = "",
    paths: Sequence[str] = (),
    headers: Mapping[str, str] | None = None,
) -> Load:
    """Load a URL, or `paths` below it in turn.

    Raises `RuntimeError` when a response was neither a 2xx nor a 304.
    """
    lines = [f'wrk.headers["Authorization"] = "Bearer {key}"'] if key else []
    lines += [f'wrk.headers["{name}"] = [==[{value}]==]' for name, value in (headers or {}).items()]
    if body is not None:
        lines += [
            'wrk.method = "POST"',
            'wrk.headers["Content-Type"] = "application/json"',
            f"wrk.body = [==[{body.decode()}]==]",
        ]
    if paths:
        listed = ", ".join(f'"{path}"' for path in paths)
        lines += [
            f"local paths, turn = {{{listed}}}, 0",
            "request = function() turn = turn % #paths + 1; return wrk.format(nil, paths[turn]) end",
        ]
    script = folder / "load.lua"
    script.write_text("\n".join(lines) + "\n")
    command = ["wrk", "-t", "1", "-c", str(CLIENTS), "-d", f"{seconds}s", "--latency", "-s", str(script), url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"{url}: {said}")
    return Load(float(_found(r"Requests/sec:\s+([\d.]+)", said)), _latency("99%", said))


def _found(pattern: str, said: str) -> str:
    match = re.search(pattern, said)
    if match is None:
        raise RuntimeError(f"unexpected output of wrk: {said}")
    return match.group(1)


def _latency(share: str, said: str) -> float:
    match = re.search(rf"{share}\s+([\d.]+)(us|ms|s)\b", said)
    return float(match.group(1)) * _MILLISECONDS[match.group(2)] if match else 0.0
