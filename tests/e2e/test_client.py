"""The Python client on the real API: every operation, with both clients, and over connections that break."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobplatform.client import AsyncClient, Client, Conflict, Invalid, JobFailed, JobRequest, NotFound, WaitTimeout
from jobplatform.devstack.proxy import Proxy
from tests.e2e.conftest import Platform


@pytest.fixture
def jobs(platform: Platform) -> Iterator[Client]:
    with Client(platform.stack.local_url("api"), platform.api._key) as result:
        yield result


def resize(number: int = 1) -> JobRequest:
    return JobRequest("acme.resize", {"width": number * 2, "height": 2}, tags=["client"])


def test_submit_wait_and_read(jobs: Client) -> None:
    job = jobs.submit("acme.resize", {"width": 10, "height": 20}, priority=7, tags=["client"])
    assert (job.status, job.priority, job.tags) == ("pending", 7, ("client",))
    done = jobs.wait(job.id, timeout=30)
    assert done.ended and done.succeeded and done.value() == {"width": 5, "height": 10}
    assert jobs.get(job.id) == done
    assert [event["event"] for event in jobs.events(job.id)][-1] == "succeeded"
    assert any(item.id == job.id for item in jobs.iter_jobs(kind="acme.resize", tag="client", page_size=5))
    failed = jobs.wait(jobs.submit("acme.resize", {"width": 1, "height": 1, "factor": 0}).id)
    with pytest.raises(JobFailed, match="factor must be positive") as caught:
        failed.value()
    assert caught.value.job.error["code"] == "bad_factor"


def test_errors_are_typed_and_carry_all_details(jobs: Client) -> None:
    with pytest.raises(Invalid, match=r"payload\.width: expected .* got") as caught:
        jobs.submit("acme.resize", {"width": "x", "height": 1})
    assert caught.value.status == 422 and caught.value.errors[0]["field"] == "payload.width"
    with pytest.raises(NotFound):
        jobs.get("01890000-0000-7000-8000-000000000000")
    done = jobs.wait(jobs.submit("acme.resize", {"width": 1, "height": 1}).id)
    with pytest.raises(Conflict, match="not_cancellable"):
        jobs.cancel(done.id)


def test_a_wait_times_out_and_a_job_is_cancelled(platform: Platform, jobs: Client) -> None:
    job = jobs.submit("acme.sleep", {"path": platform.file("client-wait"), "seconds": 30})
    with pytest.raises(WaitTimeout):
        jobs.wait(job.id, timeout=0.5)
    jobs.cancel(job.id, "enough")
    assert jobs.wait(job.id, timeout=30).state == "cancelled"
    assert jobs.explain(job.id)["state"] == "cancelled"


def test_many_jobs_are_submitted_as_their_requests_are_generated(platform: Platform, jobs: Client) -> None:
    ids = list(jobs.submit_many((resize(number) for number in range(25)), batch_size=10))
    assert len(set(ids)) == 25
    assert [jobs.wait(item).value()["width"] for item in ids] == list(range(25))


def test_a_stream_is_read_to_its_end(jobs: Client) -> None:
    job = jobs.submit("llm.chat", {"messages": [{"role": "user", "content": "hello"}]})
    came = list(jobs.stream(job.id))
    assert came[-1].job is not None and came[-1].job.succeeded
    assert "".join(item.text for item in came if item.name == "output") == came[-1].job.result["content"]
    known = [item.id for item in came if item.id]
    assert [item.id for item in jobs.stream(job.id, last_id=known[1]) if item.id] == known[2:]


def test_files_are_uploaded_and_downloaded(platform: Platform, jobs: Client, tmp_path: Path) -> None:
    content = os.urandom(1_000_000)
    source = tmp_path / "up.bin"
    source.write_bytes(content)
    sent: list[tuple[int, int]] = []
    kept = jobs.upload(source, on_progress=lambda count, of: sent.append((count, of)))
    assert (kept.name, kept.size) == ("up.bin", 1_000_000)
    assert sent[-1] == (1_000_000, 1_000_000) and len(sent) == 4
    came: list[int] = []
    target = jobs.download(kept, tmp_path / "down.bin", on_progress=lambda count, of: came.append(count))
    assert target.read_bytes() == content and came[-1] == 1_000_000
    empty = jobs.upload(b"", filename="nothing")
    assert jobs.download(empty, tmp_path / "nothing").read_bytes() == b""


def test_over_a_connection_that_breaks_nothing_is_duplicated_or_lost(platform: Platform, tmp_path: Path) -> None:
    """Connections break repeatedly, and their responses are lost, during submissions, a feed and downloads."""
    proxy = Proxy(platform.stack.instance.ports["api"])
    content = os.urandom(3_000_000)
    done = threading.Event()

    def cut() -> None:
        while not done.wait(0.2):
            proxy.losing_answers.set()
            done.wait(0.05)
            proxy.losing_answers.clear()

    with Client(f"http://127.0.0.1:{proxy.port}", platform.api._key, retry_seconds=60) as jobs:
        begin = platform.api.call("GET", "/v1/events?after=now")["next"]
        cutting = threading.Thread(target=cut)
        cutting.start()
        try:
            ids = [jobs.submit("acme.resize", {"width": 2, "height": 2}, tags=["cut"]).id for _ in range(40)]
            seen = []
            for event in jobs.follow(after=begin, event=["succeeded"], kind=["acme.resize"]):
                seen.append(event.job_id)
                if len(seen) == len(ids):
                    break
            kept = jobs.upload(content, filename="big")
            down = jobs.download(kept, tmp_path / "big").read_bytes()
        finally:
            done.set()
            cutting.join()
            proxy.close()
    assert proxy.lost_answers >= 5
    assert len(set(ids)) == 40 and sorted(seen) == sorted(ids)
    assert platform.sql("SELECT count(*) FROM job_history WHERE 'cut' = ANY (tags)") == [40]
    assert down == content


def test_the_same_with_asyncio(platform: Platform, tmp_path: Path) -> None:
    async def scene() -> None:
        async with AsyncClient(platform.stack.local_url("api"), platform.api._key) as jobs:
            item = await jobs.submit("acme.resize", {"width": 4, "height": 4})
            ids = [job_id async for job_id in jobs.submit_many((resize(n) for n in range(5)), batch_size=2)]
            done = await asyncio.gather(*(jobs.wait(job_id, timeout=30) for job_id in (item.id, *ids)))
            assert [job.value()["width"] for job in done] == [2, 0, 1, 2, 3, 4]
            assert [event.name async for event in jobs.stream(item.id)][-2:] == ["succeeded", "end"]
            assert len([job async for job in jobs.iter_jobs(tag="client", page_size=2)]) >= 5
            kept = await jobs.upload(b"content", filename="a.txt")
            assert (await jobs.download(kept, tmp_path / "a.txt")).read_bytes() == b"content"
            assert (await jobs.artifacts(item.id)) == []
            assert (await jobs.events(item.id))[0]["event"] == "submitted"
            slow = await jobs.submit("acme.sleep", {"path": platform.file("client-async"), "seconds": 30, "times": 9})
            with pytest.raises(WaitTimeout):
                await jobs.wait(slow.id, timeout=0.2)
            await jobs.cancel(slow.id)
            assert (await jobs.wait(slow.id)).state == "cancelled"
            assert (await jobs.explain(slow.id))["state"] == "cancelled"
            replayed = await jobs.replay(slow.id, "again")
            assert not replayed.ended
            await jobs.cancel(slow.id)
            async for event in jobs.follow(after="1-1", event=["cancelled"]):
                assert event.name == "cancelled"
                break
            with pytest.raises(NotFound):
                await jobs.get("01890000-0000-7000-8000-000000000000")

    asyncio.run(scene())


def test_the_client_waits_for_an_api_that_is_down(platform: Platform) -> None:
    """Nothing listens at first: the job is submitted once the API is up."""
    proxy = Proxy(platform.stack.instance.ports["api"])
    port = proxy.port
    proxy.close()
    result: dict[str, Any] = {}

    def submit() -> None:
        with Client(f"http://127.0.0.1:{port}", platform.api._key) as jobs:
            result["job"] = jobs.submit("acme.resize", {"width": 1, "height": 1})

    submitting = threading.Thread(target=submit)
    submitting.start()
    time.sleep(0.3)
    again = Proxy(platform.stack.instance.ports["api"], port)
    submitting.join(30)
    again.close()
    assert result["job"].state == "available"
