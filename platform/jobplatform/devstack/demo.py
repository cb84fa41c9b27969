"""`make demo`: three jobs over plain HTTP, with progress and results on the terminal."""

from __future__ import annotations

import base64
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import orjson
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy import text

from jobplatform.devstack.instance import chosen_name, taken
from jobplatform.devstack.processes import DidNotStart
from jobplatform.devstack.stack import Stack, new_stack

STACK = chosen_name("demo")
#: ffmpeg's test sources: a moving picture with sound
CLIP_SECONDS = 12

REPORT = """
SELECT r.kind, r.queue, r.outcome, count(*) AS runs,
       round(1000 * avg(extract(epoch FROM r.started_at - h.created_at))) AS wait_ms,
       round(1000 * avg(extract(epoch FROM r.finished_at - r.started_at))) AS run_ms,
       coalesce(sum((r.usage ->> 'total_tokens')::int), 0) AS tokens
FROM job_runs r JOIN job_history h ON h.id = r.job_id
GROUP BY r.kind, r.queue, r.outcome ORDER BY r.kind
"""


class Caller:
    """A caller of the API with plain HTTP and a key, like any team's."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = url, key

    def call(self, method: str, path: str, body: Any = None, raw: bytes | None = None) -> Any:
        """Call the API; return its JSON (None without a body), or raise with the API's error."""
        data = raw if raw is not None else (orjson.dumps(body) if body is not None else None)
        request = Request(self._url + path, data=data, method=method)
        request.add_header("Authorization", f"Bearer {self._key}")
        if data is not None:
            request.add_header("Content-Type", "application/json" if raw is None else "application/octet-stream")
        try:
            with urlopen(request, timeout=90) as answer:
                return orjson.loads(answer.read() or b"null")  # nothing with a 204
        except HTTPError as error:
            raise DidNotStart(f"{method} {path}: {error.read().decode()}") from None

    def download(self, path: str, target: Path) -> None:
        """Download a file."""
        request = Request(self._url + path)
        request.add_header("Authorization", f"Bearer {self._key}")
        with urlopen(request, timeout=90) as answer:
            target.write_bytes(answer.read())


def demo() -> None:
    """Start a private stack, run three jobs, show their results, stop everything."""
    console = Console()
    began = time.monotonic()
    with taken(STACK):
        stack = new_stack(STACK, echo=lambda line: console.print(f"[dim]{line}[/]"))
        try:
            stack.start_servers()
            stack.start_platform()
            console.print(f"[dim]ready after {time.monotonic() - began:.1f} s[/]\n")
            _main_job(console, stack)
        finally:
            console.print("\n[dim]stopping everything …[/]")
            stack.stop(gently=not stack.own_database)
            stack.forget()
    console.print(f"done in {time.monotonic() - began:.1f} s. Keep it running: [bold]make up[/]   tests: make test")


def _main_job(console: Console, stack: Stack) -> None:
    caller = Caller(stack.local_url("api"), stack.create_api_key())
    clip = make_clip(stack.instance.folder / "media" / "clip.mkv", CLIP_SECONDS)
    source = caller.call("POST", f"/v1/uploads?filename={clip.name}", raw=clip.read_bytes())
    requests = {
        "email": {
            "kind": "email.send",
            "payload": {
                "to": ["ada@example.com"],
                "subject": "Your report is ready",
                "template": "welcome",
                "variables": {"name": "Ada", "message": "the three jobs of the demo are under way."},
                "attachments": [
                    {
                        "filename": "report.csv",
                        "content_type": "text/csv",
                        "content_base64": base64.b64encode(b"job,state\ndemo,running\n").decode(),
                    }
                ],
            },
            "tags": ["demo"],
        },
        "video": {
            "kind": "video.transcode",
            "payload": {"source": {"artifact": source["id"]}, "preset": "h264-360p"},
            "tags": ["demo"],
        },
        "model": {
            "kind": "llm.chat",
            "payload": {"messages": [{"role": "user", "content": "Why does the ledger decide?"}]},
            "tags": ["demo"],
        },
    }
    console.print("[bold]three jobs over HTTP[/]  POST /v1/jobs")
    jobs = {name: caller.call("POST", "/v1/jobs", request) for name, request in requests.items()}
    done = watch(console, caller, {name: job["id"] for name, job in jobs.items()})
    _show_mail(console, stack, done["email"])
    _show_video(console, caller, done["video"], stack.instance.folder)
    _show_answer(console, done["model"])
    _show_report(console, stack)
    failed = [f"{name}: {job['error']}" for name, job in done.items() if job["status"] != "completed"]
    if failed:
        raise DidNotStart("; ".join(failed))


def make_clip(path: Path, seconds: int) -> Path:
    """Make a clip with sound from ffmpeg's test sources."""
    video = f"testsrc2=size=1280x720:rate=25:duration={seconds}"
    audio = f"sine=frequency=440:duration={seconds}"
    subprocess.run(
        [
            *("ffmpeg", "-hide_banner", "-loglevel", "error", "-nostdin", "-y"),
            *("-f", "lavfi", "-i", video, "-f", "lavfi", "-i", audio),
            *("-c:v", "mpeg4", "-q:v", "4", "-c:a", "pcm_s16le", str(path)),
        ],
        check=True,
    )
    return path


def watch(console: Console, caller: Caller, jobs: dict[str, str]) -> dict[str, Any]:
    """Show a live progress bar per job until all have ended; return the ended jobs."""
    done: dict[str, Any] = {}
    columns = (
        TextColumn("{task.description:<6}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[state]:<11}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[message]}"),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {name: bars.add_task(name, total=1, state="", message="") for name in jobs}
        while len(done) < len(jobs):
            for name, job_id in jobs.items():
                if name in done:
                    continue
                job = caller.call("GET", f"/v1/jobs/{job_id}")
                progress_of = job["progress"] or {}
                current, total = progress_of.get("current") or 0, progress_of.get("total")
                ended = job["status"] in ("completed", "failed")
                message = str(progress_of.get("message") or "").replace("\n", " ")[-48:]
                bars.update(
                    tasks[name],
                    completed=1 if ended else current,
                    total=1 if ended else total,
                    state=job["state"],
                    message=message,
                )
                if ended:
                    done[name] = job
            time.sleep(0.1)
    return done


def _show_mail(console: Console, stack: Stack, job: dict[str, Any]) -> None:
    if job["status"] != "completed":
        return
    with urlopen(stack.local_url("mail"), timeout=10) as answer:
        mails = orjson.loads(answer.read())
    table = Table("", "the mail as received", title="[bold]email.send[/]", title_justify="left")
    mail = next(mail for mail in mails if mail["message_id"] == job["result"]["message_id"])
    for name in ("from", "to", "subject", "message_id", "text"):
        value = mail[name]
        table.add_row(name, ", ".join(value) if isinstance(value, list) else str(value).strip())
    table.add_row("html", f"{len(mail['html'])} characters")
    for item in mail["attachments"]:
        table.add_row("attachment", f"{item['filename']} ({item['content_type']}, {item['size']} bytes)")
    console.print(table)


def _show_video(console: Console, caller: Caller, job: dict[str, Any], folder: Path) -> None:
    if job["status"] != "completed":
        return
    caller.download(f"/v1/artifacts/{job['result']['artifact']['id']}", folder / "out.mp4")
    table = Table("by ffprobe", "before", "after", title="[bold]video.transcode[/]", title_justify="left")
    before, after = job["result"]["before"], job["result"]["after"]
    table.add_row("video", str(before["video_codec"]), str(after["video_codec"]))
    table.add_row("sound", str(before["audio_codec"]), str(after["audio_codec"]))
    table.add_row("size", f"{before['width']} × {before['height']}", f"{after['width']} × {after['height']}")
    table.add_row("duration", f"{before['seconds']:.2f} s", f"{after['seconds']:.2f} s")
    table.add_row("bytes", f"{before['bytes']:,}", f"{after['bytes']:,}")
    downloaded = (folder / "out.mp4").stat().st_size
    table.add_row("downloaded", "", f"{downloaded:,} bytes of GET /v1/artifacts/…")
    console.print(table)


def _show_answer(console: Console, job: dict[str, Any]) -> None:
    if job["status"] != "completed":
        return
    result = job["result"]
    usage = result["usage"]
    counted = f"{usage['prompt_tokens']} + {usage['completion_tokens']} = {usage['total_tokens']} tokens"
    console.print("[bold]llm.chat[/]")
    console.print(Panel(result["content"], title=result["model"], subtitle=counted, width=100))


def _show_report(console: Console, stack: Stack) -> None:
    ledger = stack.open_ledger()
    with ledger.statement() as connection:
        rows = connection.execute(text(REPORT)).all()
    ledger.close()
    table = Table(title="[bold]the ledger's report[/] (SQL)", title_justify="left")
    for name in ("kind", "queue", "outcome", "runs", "wait ms", "run ms", "tokens"):
        table.add_column(name, justify="left" if name in ("kind", "queue", "outcome") else "right")
    for row in rows:
        table.add_row(*(str(value) for value in row))
    console.print(table)
