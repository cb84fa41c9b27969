"""Full disks are not a job's fault: the job waits, uses up no attempt, and every report names the cause."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from jobplatform.config import Settings
from jobplatform.doctor.outside_checks import check_outside
from jobplatform.errors import StorageFull, StorageUnavailable
from jobplatform.usecases import store_artifacts
from jobplatform.usecases.store_artifacts import ArtifactStore, free_bytes
from tests.contract.conftest import Client, api, app  # noqa: F401 - fixtures
from tests.integration.test_attempt import here, run  # noqa: F401 - fixtures
from tests.support.ledger_harness import LedgerHarness, registry

FULL_DEVICE = Path("/dev/full")


class OnAFullDisk:
    """A file of a store whose disk is full: writes go to the kernel's /dev/full."""

    def __init__(self) -> None:
        self._file = FULL_DEVICE.open("wb", buffering=0)

    def write(self, data: bytes) -> int:
        return self._file.write(data)

    def close(self) -> None:
        self._file.close()


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    if not FULL_DEVICE.exists():
        pytest.fail("this test needs /dev/full")
    real = ArtifactStore.__init__

    def init(self: ArtifactStore, url: str) -> None:
        real(self, url)
        opened = self._files.open
        monkeypatch.setattr(self._files, "open", lambda p, mode: OnAFullDisk() if mode == "wb" else opened(p, mode))

    monkeypatch.setattr(ArtifactStore, "__init__", init)


def test_a_run_without_space_for_its_output_waits_and_counts_no_attempt(
    harness: LedgerHarness, full_disk: None
) -> None:
    def handler(payload: Any, ctx: Any) -> None:
        ctx.artifact("out.bin", b"x" * 100_000)

    _, row = run(harness, handler)
    assert (row.state, row.attempt) == ("scheduled", 0)
    assert 29 < (row.run_at - row.state_at).total_seconds() <= 30
    (error,) = harness.all("SELECT error FROM job_runs")
    assert error["code"] == "storage_full" and "No space left on device" in error["message"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_run_with_a_full_workdir_waits_and_counts_no_attempt(harness: LedgerHarness, number: int) -> None:
    def handler(payload: Any, ctx: Any) -> None:
        raise OSError(number, "no space")

    _, row = run(harness, handler)
    assert (row.state, row.attempt) == ("scheduled", 0)


def test_other_os_errors_are_failures_of_the_handler(harness: LedgerHarness) -> None:
    def handler(payload: Any, ctx: Any) -> None:
        raise OSError(errno.ENOENT, "no such file")

    _, row = run(harness, handler)
    assert (row.attempt, row.error["code"]) == (1, "unhandled_exception")


def test_an_upload_gets_507_and_nothing_is_stored(api: Client, harness: LedgerHarness, full_disk: None) -> None:  # noqa: F811
    has = api.flask.application.extensions["services"]
    has.store.__init__(has.settings.artifact_url)  # reopens the store, now on the full disk
    status, problem, _ = api.call("POST", "/v1/uploads?filename=a", data=b"x" * 200_000)
    assert (status, problem["code"]) == (507, "storage_full")
    assert harness.all("SELECT count(*)::int FROM artifacts") == [0]


def test_other_errors_of_a_store_are_reported_as_unavailable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path.as_uri())
    with (tmp_path / "source").open("wb+") as source:
        monkeypatch.setattr(store._files, "open", lambda *_: (_ for _ in ()).throw(RuntimeError("bucket is gone")))
        with pytest.raises(StorageUnavailable, match="bucket is gone"):
            store.write("a/b", source)
        monkeypatch.setattr(store._files, "makedirs", lambda *_, **__: (_ for _ in ()).throw(OSError(30, "read-only")))
        with pytest.raises(StorageFull, match="read-only"):
            store.write("a/b", source)


def test_free_space_is_measured_and_a_shortage_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = Settings(artifact_url=tmp_path.as_uri())
    assert (free_bytes(config.artifact_url) or 0) > 0 and free_bytes("s3://bucket") is None
    little = type("usage", (), {"free": 10_000_000, "total": 10**12})
    monkeypatch.setattr("jobplatform.doctor.outside_checks.shutil.disk_usage", lambda _: little)
    (finding,) = [row for row in check_outside(config, registry()) if row.check == "storage"]
    assert finding.level == "warning" and "0.0 of 1,000.0 GB are free" in finding.message
    assert store_artifacts.FULL
