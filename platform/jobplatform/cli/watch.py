"""`jobplatform jobs watch`: follow jobs, with progress bars on a terminal and lines in a pipe."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

import click

from jobplatform.cli import http, options
from jobplatform.cli.output import plain, print_json

MOST = 50


@click.command()
@click.argument("job_ids", type=click.UUID, nargs=-1, required=True)
@click.option("--output", is_flag=True, help="print only what a job streams (a model's answer), as it arrives")
@options.json_option
def watch(job_ids: tuple[UUID, ...], output: bool, as_json: bool) -> None:
    """Follow jobs until they end. Exit code 3 when not all succeed.

    \b
    jobplatform jobs watch $(jobplatform jobs submit video.transcode source.path=in.mp4 preset=web-360p)
    jobplatform jobs watch --output $(jobplatform jobs submit llm.chat -p @prompt.json)
    """
    if len(job_ids) > MOST:
        raise click.UsageError(f"expected at most {MOST} jobs, got {len(job_ids)}")
    watch_jobs(job_ids, as_json=as_json, output=output)


def watch_jobs(job_ids: Sequence[UUID], *, as_json: bool = False, output: bool = False) -> None:
    """Follow jobs until they end; exits with `EXIT_NO_SUCCESS` when not all succeed."""
    http.connect().close()  # says what is missing
    if output:
        shown: Shown = _Output()
    elif sys.stdout.isatty() and not as_json:
        shown = _Bars(job_ids)
    else:
        shown = _Silent() if as_json else _Lines()
    with shown:
        ends = asyncio.run(_follow_all(job_ids, shown))
    if as_json:
        print_json(ends[0] if len(ends) == 1 else ends)
    if any(end["state"] != "succeeded" for end in ends):
        sys.exit(options.EXIT_NO_SUCCESS)


class Shown(Protocol):
    """Output for events as they arrive."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *_: object) -> None: ...

    def update(self, job_id: UUID, name: str, data: Mapping[str, Any]) -> None:
        """Show an event: one of the job's history, `progress`, or `end` with the job."""
        ...


async def _follow_all(job_ids: Sequence[UUID], shown: Shown) -> list[Mapping[str, Any]]:
    from jobplatform.client import AsyncClient

    async with AsyncClient(os.environ[http.URL], os.environ[http.KEY]) as client:

        async def follow(job_id: UUID) -> Mapping[str, Any]:
            async for event in client.stream(job_id):
                shown.update(job_id, event.name, event.data)
                if event.name == "end":
                    return event.data
            raise AssertionError("a stream ends with its job")

        return await asyncio.gather(*(follow(item) for item in job_ids))


class _Silent:
    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, job_id: UUID, name: str, data: Mapping[str, Any]) -> None:
        """Show nothing."""


class _Output(_Silent):
    """What the handler streams, as it is."""

    def update(self, job_id: UUID, name: str, data: Mapping[str, Any]) -> None:
        if name == "output":
            click.echo(data["data"]["text"], nl=False)
        elif name == "end":
            click.echo()
            if data["state"] != "succeeded":
                click.echo(_in_words(data), err=True)


class _Lines(_Silent):
    """A line for each change, for pipes and logs."""

    def update(self, job_id: UUID, name: str, data: Mapping[str, Any]) -> None:
        if name == "end":
            click.echo(f"{job_id} {_in_words(data)}")
        elif name == "log":
            click.echo(f"{job_id} log {data['data']['message']}")
        elif name not in ("output", "progress"):
            click.echo(f"{job_id} {name}")


class _Bars(_Silent):
    """A bar for each job, its log lines above."""

    def __init__(self, job_ids: Sequence[UUID]) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = ("{task.description}", BarColumn(), TextColumn("{task.fields[state]:<11}"), TimeElapsedColumn())
        self._progress = Progress(*columns, TextColumn("{task.fields[message]}"))
        self._tasks = {
            job_id: self._progress.add_task(str(job_id), total=None, state="…", message="")
            for job_id in dict.fromkeys(job_ids)
        }

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, job_id: UUID, name: str, data: Mapping[str, Any]) -> None:
        task = self._tasks[job_id]
        if name == "progress":
            message = plain(data.get("message"))
            self._progress.update(task, completed=data["current"], total=data.get("total"), message=message)
        elif name == "log":
            self._progress.console.print(f"{str(job_id)[-8:]}  {plain(data['data']['message'])}")
        elif name == "end":
            good = data["state"] == "succeeded"
            colour = "green" if good else "red"
            self._progress.update(task, total=1, completed=int(good), state=f"[{colour}]{data['state']}[/]")
            if not good:
                self._progress.update(task, message=plain((data["error"] or {}).get("message")))
        elif name != "output":
            self._progress.update(task, state=data["state"])


def _in_words(job: Mapping[str, Any]) -> str:
    why = (job.get("error") or {}).get("message")
    return f"{job['state']}: {why}" if why and job["state"] != "succeeded" else str(job["state"])
