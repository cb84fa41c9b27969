"""Auth on every route, OpenAPI, pages, files."""

from __future__ import annotations

import hashlib
import io

import pytest

from api.auth import OPEN_ENDPOINTS
from jobplatform.ledger import keys
from jobplatform.ledger.schema import head
from tests.contract.conftest import Client
from tests.support.ledger_harness import LedgerHarness

SAMPLE = "01890000-0000-7000-8000-000000000000"


def routes(app) -> list[tuple[str, str, str]]:
    result = []
    for rule in app.url_map.iter_rules():
        path = rule.rule
        for argument in rule.arguments:
            path = path.replace(f"<uuid:{argument}>", SAMPLE).replace(f"<{argument}>", "x")
        result += [(method, path, rule.endpoint) for method in rule.methods - {"HEAD", "OPTIONS"}]
    return result


def test_every_route_asks_for_a_key_unless_it_is_listed_as_open(app) -> None:
    nobody = Client(app.test_client(), None)
    closed = [route for route in routes(app) if route[2] not in OPEN_ENDPOINTS]
    assert len(closed) >= 11
    for method, path, _ in closed:
        status, problem, headers = nobody.call(method, path)
        assert (status, problem["code"]) == (401, "unauthorized"), path
        assert headers["WWW-Authenticate"].startswith("Bearer")
    assert all(path.startswith("/v1/") for _, path, _ in closed)


def test_revoking_a_key_takes_effect_with_the_next_request(api: Client, harness: LedgerHarness) -> None:
    assert api.get("/v1/kinds")[0] == 200
    with harness.ledger.transaction() as connection:
        assert keys.revoke_named(connection, "test") == 1
    assert api.get("/v1/kinds")[0] == 401


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Basic abc", "jp_x", "Bearer jp_unknown", "Bearer \x00"])
def test_headers_without_a_valid_key_are_refused(app, value: str) -> None:
    nobody = Client(app.test_client(), None)
    assert nobody.get("/v1/kinds", headers={"Authorization": value})[0] == 401


def test_openapi_describes_every_operation_and_every_kinds_payload(app, api: Client) -> None:
    status, document, _ = api.get("/openapi.json")
    assert (status, document["openapi"]) == (200, "3.1.0")
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    import re

    real = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/v1")
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert described == real
    assert "payload.email.send" in document["components"]["schemas"]
    text = str(document)
    for reference in set(re.findall(r"#/components/schemas/([\w.\-]+)", text)):
        assert reference in document["components"]["schemas"], reference


def test_the_interactive_page_loads_nothing_from_other_servers(api: Client) -> None:
    import re

    status, page, _ = api.get("/docs")
    text = page.decode()
    assert status == 200 and "//" not in text, "no address of another server"
    for link in re.findall(r'(?:src|href)="([^"]+)"', text):
        if link.startswith("data:"):
            continue
        assert link.startswith("/docs/assets/")
        assert api.get(link)[0] == 200
    assert api.get("/docs/assets/../../app.py")[0] == 404


def test_the_type_of_a_problem_links_to_its_documentation(api: Client) -> None:
    _, problem, _ = api.post("/v1/jobs", {"kind": "x.y", "payload": {}})
    path, _, code = problem["type"].partition("#")
    status, page, _ = api.get(path)
    assert status == 200 and f'id="{code}"' in page.decode()


def test_kinds_come_with_their_schemas(api: Client) -> None:
    _, rows, _ = api.get("/v1/kinds")
    names = {kind["name"]: kind for kind in rows["kinds"]}
    assert {"email.send", "video.transcode", "llm.chat"} <= set(names)
    assert "to" in names["email.send"]["payload_schema"]["properties"]


def test_unknown_paths_and_methods_are_problems_too(api: Client) -> None:
    assert api.get("/v2/jobs")[1]["code"] == "not_found"
    status, problem, headers = api.call("DELETE", "/v1/jobs")
    assert (status, problem["code"]) == (405, "method_not_allowed") and "POST" in headers["Allow"]


def test_an_upload_can_be_downloaded_whole_and_in_parts(api: Client, stranger: Client) -> None:
    content = bytes(range(256)) * 40
    status, kept, headers = api.call(
        "POST", "/v1/uploads?filename=../../a%20b.bin", data=content, headers={"Content-Type": "video/mp4"}
    )
    assert (status, kept["name"], kept["size"]) == (201, "a b.bin", len(content))
    assert kept["sha256"] == hashlib.sha256(content).hexdigest()
    url = headers["Location"]
    status, whole, said = api.get(url)
    assert (status, whole, said["Accept-Ranges"], said["Content-Type"]) == (200, content, "bytes", "video/mp4")
    for wanted, start, end in (
        ("bytes=0-9", 0, 10),
        ("bytes=100-", 100, None),
        ("bytes=-7", -7, None),
        ("bytes=-999999", 0, None),
    ):
        status, part, said = api.get(url, headers={"Range": wanted})
        assert (status, part) == (206, content[start:end])
        assert said["Content-Range"].endswith(f"/{len(content)}")
    status, _problem, said = api.get(url, headers={"Range": "bytes=999999-"})
    assert (status, said["Content-Range"]) == (416, f"bytes */{len(content)}")
    assert api.get(url, headers={"Range": "bytes=0-1", "If-Range": '"another"'})[0] == 200
    assert stranger.get(url)[0] == 404


def test_a_file_name_may_be_long_and_keeps_its_suffix(api: Client) -> None:
    name = "ü" * 150 + ".mp4"
    _, kept, _ = api.call("POST", "/v1/uploads", data=b"x", query_string={"filename": name})
    assert len(kept["name"].encode()) <= 200 and kept["name"].endswith("ü.mp4")


def test_a_file_that_the_caller_has_is_not_sent_again(api: Client) -> None:
    _, kept, headers = api.call("POST", "/v1/uploads?filename=a", data=b"hello")
    assert api.get(headers["Location"], headers={"If-None-Match": f'"{kept["sha256"]}"'})[0] == 304


def test_a_form_must_contain_a_file(api: Client) -> None:
    part = {"file": (io.BytesIO(b"hello"), "hello.txt")}
    status, kept, _ = api.call("POST", "/v1/uploads", data=part, content_type="multipart/form-data")
    assert (status, kept["name"], kept["size"], kept["content_type"]) == (201, "hello.txt", 5, "text/plain")
    status, problem, _ = api.call("POST", "/v1/uploads", data={"a": "b"}, content_type="multipart/form-data")
    assert (status, problem["errors"][0]["field"]) == (422, "file")


def test_an_upload_over_the_limit_is_refused(api: Client) -> None:
    status, problem, _ = api.call("POST", "/v1/uploads", data=b"x" * 500_001)
    assert (status, problem["code"]) == (413, "body_too_large")


def test_readyz_says_when_the_ledger_has_no_tables(app, api: Client, harness: LedgerHarness) -> None:
    assert api.get("/readyz")[1]["ledger"]["revision"] == head()
    harness.do("DROP TABLE alembic_version")
    assert api.get("/readyz")[1]["code"] == "not_migrated"


def test_the_api_process_imports_no_broker_client() -> None:
    import subprocess
    import sys

    code = "import api, sys; sys.exit(any(name.split('.')[0] in ('amqp', 'celery', 'kombu') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
