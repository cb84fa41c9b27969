"""README and how-tos, as a newcomer uses them: by copy and paste."""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from jobplatform.client import Client
from jobplatform.domain.webhooks import sign
from tests.e2e.conftest import Platform
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]


def commands(page: str, heading: str) -> list[str]:
    """Return the commands of the first console block after a heading, as a user types them."""
    text = (ROOT / page).read_text().split(heading, 1)[1]
    block = re.search(r"```console\n(.*?)```", text, re.DOTALL)
    assert block is not None
    rows, typed = [], ""
    for line in block[1].splitlines():
        if line.startswith("$ ") or typed:
            typed += line.removeprefix("$ ").removesuffix("\\")
            if not line.endswith("\\"):
                rows.append(typed)
                typed = ""
    return rows


def typed(platform: Platform, command: str, **variables: str) -> Any:
    environment = {
        "PATH": "/usr/bin:/bin",
        "JOBPLATFORM_URL": platform.stack.local_url("api"),
        "JOBPLATFORM_API_KEY": platform.api._key,
        **variables,
    }
    done = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def test_the_readme_submits_a_job_and_reads_its_result(platform: Platform) -> None:
    up, submit, read = commands("README.md", "## Submit a job")
    assert up == "make up && . .local/env", "the test's own stack takes its place"
    job = orjson.loads(typed(platform, submit))
    assert (job["kind"], job["state"]) == ("email.send", "available")
    again = orjson.loads(typed(platform, submit))
    assert again["id"] == job["id"], "its Idempotency-Key makes a retry safe"
    ended = orjson.loads(typed(platform, re.sub(r"/v1/jobs/[0-9a-f-]{36}", f"/v1/jobs/{job['id']}", read)))
    assert (ended["state"], ended["result"]["accepted"]) == ("succeeded", ["ada@example.com"])


def test_the_commands_of_the_page_on_following_jobs_work(platform: Platform) -> None:
    page = (ROOT / "docs/howto/follow-jobs.md").read_text()
    of_one, of_all = re.findall(r"^curl .*$", page, re.MULTILINE)
    job_id = platform.submit("acme.resize", {"width": 2, "height": 2})
    came = typed(platform, of_one, ID=job_id)
    assert [line.removeprefix("event: ") for line in came.splitlines() if line.startswith("event: ")][-1] == "end"
    assert f'"id":"{job_id}"' in came
    said = typed(platform, f"timeout 20 {of_all} & sleep 1; {_submit(platform)}; wait || true")
    assert "event: succeeded" in said and '"kind":"email.send"' in said


def _submit(platform: Platform) -> str:
    submit = commands("README.md", "## Submit a job")[1].replace("order-4711", "order-4712")
    # the stream ends when its reader has seen enough
    return f"{submit} >/dev/null; sleep 2; kill $!"


def test_the_page_on_webhooks_creates_one_and_reads_a_message(platform: Platform) -> None:
    (create,) = commands("docs/howto/webhooks.md", "# Webhooks")
    hook = orjson.loads(typed(platform, create))
    platform.api.call("DELETE", f"/v1/webhooks/{hook['id']}")
    page = (ROOT / "docs/howto/webhooks.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    handled: list[Any] = []
    names: dict[str, Any] = {"seen": set().__contains__, "handle": lambda *events: handled.append(events)}
    exec(compile(code, "webhooks.md", "exec"), names)
    body = b'{"type":"job.dead","data":{}}'
    names["receive"](sign((hook["secret"],), "msg_1", datetime.now(UTC), body), body, hook["secret"])
    assert handled == [("job.dead", {})]


def test_the_page_on_transactions_submits_a_job_in_one(platform: Platform) -> None:
    """Submit as a login that has no other right on the platform."""
    page = (ROOT / "docs/howto/own-transaction.md").read_text()
    (grant,) = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    platform_ledger = platform.stack.open_ledger()
    with platform_ledger.transaction() as connection:
        connection.execute(text("CREATE ROLE shop LOGIN PASSWORD 'x'"))
        connection.execute(text(grant))
        connection.execute(text("CREATE TABLE shop_orders (id integer PRIMARY KEY)"))
        connection.execute(text("GRANT ALL ON shop_orders TO shop"))
    platform_ledger.close()
    engine = create_engine(make_url(platform.stack.database_url).set(username="shop", password="x"))

    class Base(DeclarativeBase):
        pass

    class ShopOrder(Base):
        __tablename__ = "shop_orders"
        id: Mapped[int] = mapped_column(primary_key=True)

    names: dict[str, Any] = {"Session": Session, "engine": engine, "order": ShopOrder(id=1), "key": platform.api._key}
    exec(compile(code, "own-transaction.md", "exec"), names)
    engine.dispose()
    assert names["job"].created
    assert platform.wait(str(names["job"].id))["result"]["accepted"] == ["ada@example.com"]


def test_the_code_of_the_page_on_the_python_client_runs(platform: Platform) -> None:
    page = (ROOT / "docs/howto/python-client.md").read_text()
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    begin = platform.api.call("GET", "/v1/events?after=now")["next"]
    handled: list[Any] = []

    class Enough(Exception):
        pass

    def handle(event: Any) -> None:
        handled.append(event)
        if len(handled) == 3:
            raise Enough

    names = {
        "url": platform.stack.local_url("api"),
        "key": platform.api._key,
        "addresses": [f"reader{n}@example.com" for n in range(2)],
        "text": "News",
        "last_id": begin,
        "handle": handle,
    }
    try:
        exec(compile(code, "python-client.md", "exec"), names)
    except Enough:
        pass
    assert {event.kind for event in handled} == {"email.send"} and len({event.job_id for event in handled}) == 3
    with Client(names["url"], names["key"]) as jobs:
        eventually(lambda: jobs.get(handled[0].job_id).succeeded)
