"""The main job: an email, a video, a model answer, over HTTP, through every process."""

from __future__ import annotations

import asyncio
import base64
from urllib.request import Request, urlopen

import orjson
import pytest

from jobplatform.devstack.demo import make_clip
from tests.e2e.conftest import Platform


def mails(platform: Platform) -> list[dict]:
    with urlopen(platform.stack.local_url("mail"), timeout=10) as answer:
        return orjson.loads(answer.read())


def test_an_email_with_template_html_and_attachment_arrives(platform: Platform) -> None:
    job_id = platform.submit(
        "email.send",
        {
            "to": ["ada@example.com", "bob@internal"],
            "subject": "Grüße ✓",
            "template": "welcome",
            "variables": {"name": "<Ada>", "message": "hello"},
            "attachments": [
                {"filename": "a.csv", "content_type": "text/csv", "content_base64": base64.b64encode(b"a,b").decode()}
            ],
        },
    )
    job = platform.wait(job_id)
    assert job["status"] == "completed", job
    assert job["result"]["accepted"] == ["ada@example.com", "bob@internal"]
    assert job["progress"]["current"] == job["progress"]["total"] == 2
    (mail,) = [mail for mail in mails(platform) if mail["message_id"] == f"<{job_id}@jobplatform>"]
    assert (mail["subject"], mail["to"]) == ("Grüße ✓", ["ada@example.com", "bob@internal"])
    assert "Hello <Ada>," in mail["text"] and "Hello &lt;Ada&gt;," in mail["html"]
    assert mail["attachments"] == [{"filename": "a.csv", "content_type": "text/csv", "size": 3}]


def test_a_refused_mail_is_dead_lettered_at_once_and_a_busy_server_is_retried(platform: Platform) -> None:
    payload = {"subject": "x", "text": "x"}
    refused = platform.wait(platform.submit("email.send", {"to": ["bounce@example.com"], **payload}))
    assert (refused["state"], refused["error"]["code"], refused["error"]["retryable"]) == (
        "dead",
        "smtp_refused",
        False,
    )
    busy = platform.submit("email.send", {"to": ["busy@example.com"], **payload})
    job = platform.wait_state(busy, "scheduled")
    assert (job["status"], job["error"]["code"], job["attempt"]) == ("processing", "smtp_temporary_failure", 1)
    platform.api.call("POST", f"/v1/jobs/{busy}/cancel")


def test_a_mail_with_a_missing_template_is_dead_lettered(platform: Platform) -> None:
    job = platform.wait(platform.submit("email.send", {"to": ["a@b.c"], "subject": "x", "template": "nosuch"}))
    assert (job["state"], job["error"]["code"]) == ("dead", "template_not_found")


def test_a_video_is_transcoded_with_progress_from_path_and_from_upload(platform: Platform) -> None:
    clip = make_clip(platform.stack.instance.folder / "media" / "clip.mkv", 3)
    upload = platform.api.call("POST", "/v1/uploads?filename=clip.mkv", raw=clip.read_bytes())
    submitted = [{"path": "clip.mkv"}, {"path": str(clip)}, {"artifact": upload["id"]}]
    for source, preset in zip(submitted, ("h264-360p", "vp9-480p", "mp3"), strict=True):
        job = platform.wait(platform.submit("video.transcode", {"source": source, "preset": preset}))
        assert job["status"] == "completed", job
        before, after = job["result"]["before"], job["result"]["after"]
        assert (before["width"], before["height"], before["video_codec"]) == (1280, 720, "mpeg4")
        assert abs(after["seconds"] - 3) < 0.2
        expected = {"h264-360p": ("h264", 360), "vp9-480p": ("vp9", 480), "mp3": (None, None)}[preset]
        assert (after["video_codec"], after["height"]) == expected
        (artifact,) = platform.api.call("GET", f"/v1/jobs/{job['id']}/artifacts")["artifacts"]
        assert artifact["size"] == after["bytes"]
        request = Request(platform.stack.local_url("api", artifact["url"]), headers={"Range": "bytes=0-99"})
        request.add_header("Authorization", f"Bearer {platform.api._key}")
        with urlopen(request, timeout=30) as answer:
            assert (answer.status, len(answer.read())) == (206, 100)
        assert job["progress"]["current"] == pytest.approx(3, abs=0.2)


def test_a_source_that_is_no_video_is_dead_lettered(platform: Platform) -> None:
    upload = platform.api.call("POST", "/v1/uploads?filename=x.mp4", raw=b"this is no video")
    job = platform.wait(
        platform.submit("video.transcode", {"source": {"artifact": upload["id"]}, "preset": "h264-360p"})
    )
    assert (job["state"], job["error"]["code"]) == ("dead", "source_unreadable")
    missing = platform.wait(
        platform.submit("video.transcode", {"source": {"path": "nothing.mp4"}, "preset": "h264-360p"})
    )
    assert missing["error"]["code"] == "source_not_found"


def test_a_cancelled_video_stops_its_ffmpeg(platform: Platform) -> None:
    import psutil

    make_clip(platform.stack.instance.folder / "media" / "long.mkv", 60)
    job_id = platform.submit("video.transcode", {"source": {"path": "long.mkv"}, "preset": "vp9-480p"})
    platform.wait_state(job_id, "running")
    platform.api.call("POST", f"/v1/jobs/{job_id}/cancel")
    job = platform.wait(job_id)
    assert job["state"] == "cancelled"
    worker = psutil.Process(platform.head("worker-video"))
    assert not [child for child in worker.children(recursive=True) if "ffmpeg" in child.name()]
    assert platform.api.call("GET", f"/v1/jobs/{job_id}/artifacts")["artifacts"] == []


def test_a_prompt_is_answered_with_token_usage(platform: Platform) -> None:
    payload = {"messages": [{"role": "user", "content": "two words"}], "max_tokens": 7, "temperature": 0.5}
    job = platform.wait(platform.submit("llm.chat", payload))
    assert job["status"] == "completed", job
    result = job["result"]
    assert "not a language model" not in result["content"] and result["content"].startswith("I am the local demo")
    assert result["usage"] == {"prompt_tokens": 2, "completion_tokens": 7, "total_tokens": 9}
    assert result["finish_reason"] == "length"
    assert platform.runs(job["id"])[0]["usage"]["total_tokens"] == 9


def test_a_busy_model_server_is_called_again_after_its_retry_after(platform: Platform) -> None:
    job_id = platform.submit("llm.chat", {"messages": [{"role": "user", "content": "answer with status 429"}]})
    platform.wait_state(job_id, "scheduled")
    snoozed = platform.api.call("GET", f"/v1/jobs/{job_id}/events")["events"][-1]
    assert (snoozed["event"], snoozed["data"]["error"]["detail"]) == ("snoozed", {"limit_key": "provider:llm"})
    platform.api.call("POST", f"/v1/jobs/{job_id}/cancel")
    refused = platform.wait(platform.submit("llm.chat", {"messages": [{"role": "user", "content": "status 400"}]}))
    assert (refused["state"], refused["error"]["code"]) == ("dead", "llm_refused")


def test_celery_and_flower_show_the_state_of_the_ledger(platform: Platform) -> None:
    import subprocess

    from jobplatform.devstack.processes import script

    job = platform.wait(platform.submit("llm.chat", {"messages": [{"role": "user", "content": "x"}]}))
    code = f"from workers.app import app; r = app.AsyncResult('{job['id']}'); print(r.state, r.get()['model'])"
    done = subprocess.run(
        [str(script("python")), "-c", code],
        env=platform.stack.environment(),
        capture_output=True,
        text=True,
        check=True,
        cwd=platform.scratch,
    )
    assert done.stdout.strip() == "SUCCESS local-demo"

    from tests.support.waiting import eventually

    def flower() -> bool:
        login = base64.b64encode(f"flower:{platform.stack.instance.secret}".encode()).decode()
        request = Request(platform.stack.local_url("flower", f"/flower/task/{job['id']}"))
        request.add_header("Authorization", f"Basic {login}")
        with urlopen(request, timeout=10) as answer:
            return b"SUCCESS" in answer.read()

    assert eventually(flower, 20)


def test_two_hundred_waits_starve_no_other_request_and_end_with_their_job(platform: Platform) -> None:
    job_id = platform.submit("acme.sleep", {"path": platform.file("waits"), "seconds": 60})
    request = (
        f"GET /v1/jobs/{job_id}?wait=50 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {platform.api._key}\r\n"
        f"Connection: close\r\n\r\n"
    )
    sent = asyncio.Semaphore(0)

    async def wait_once() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", platform.stack.instance.ports["api"])
        writer.write(request.encode())
        await writer.drain()
        sent.release()
        answer = await reader.read()
        writer.close()
        return answer

    async def all_at_once() -> list[bytes]:
        waits = [asyncio.create_task(wait_once()) for _ in range(200)]
        for _ in waits:
            await sent.acquire()
        for _ in range(20):  # they have two processes with four threads each
            await asyncio.to_thread(platform.api.call, "GET", "/v1/kinds")
        assert not any(wait.done() for wait in waits), "small requests overtake two hundred waiting ones"
        await asyncio.to_thread(platform.api.call, "POST", f"/v1/jobs/{job_id}/cancel")
        return await asyncio.gather(*waits)

    answers = asyncio.run(all_at_once())
    assert all(b'"state":"cancelled"' in answer for answer in answers)
