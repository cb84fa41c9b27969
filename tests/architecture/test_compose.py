"""docker-compose.yml matches the code (queues, pools, commands, secrets) and the requirements of production."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from jobplatform.broker.users import ROLES
from jobplatform.config import DEFAULT_QUEUES, Settings
from jobplatform.devstack.compose import read_compose, services, worker_names

ROOT = Path(__file__).resolve().parents[2]


def test_every_queue_has_a_worker_with_its_pool_and_no_worker_consumes_other_queues() -> None:
    listened: dict[str, str] = {}
    for name in worker_names():
        service = services()[name]
        for queue in service.option("-Q").split(","):
            listened[queue] = service.option("--pool")
    published = services()["dispatcher"].environment["JOBPLATFORM_QUEUES"].split(",")
    assert set(listened) == set(published) == set(DEFAULT_QUEUES)
    assert listened == {queue: DEFAULT_QUEUES[queue]["pool"] for queue in listened}


def test_the_code_reads_every_setting_and_secret() -> None:
    known = {f"JOBPLATFORM_{name.upper()}" for name in Settings.model_fields}
    for name, service in services().items():
        wrong = {key for key in service.environment if key.startswith("JOBPLATFORM_")} - known
        assert not wrong, f"{name}: {wrong}"
        for secret in read_compose()["services"][name].get("secrets", []):
            target = secret["target"]
            if target.startswith("jobplatform_"):
                assert target.upper() in known, f"{name}: {target}"
                assert "Secret" in str(Settings.model_fields[target.removeprefix("jobplatform_")].annotation)


def test_every_service_is_bounded_restarted_and_unprivileged() -> None:
    for name, service in read_compose()["services"].items():
        assert service["user"].split(":")[0] not in ("0", "root"), name
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"]), name
        assert service["restart"] in ("unless-stopped", "on-failure", "no"), name
        assert ":" in service["image"] and not service["image"].endswith(":latest"), name
        if service["restart"] == "unless-stopped":
            assert service["healthcheck"]["test"], name


def test_a_worker_returns_its_running_jobs_before_it_is_killed() -> None:
    for name in worker_names():
        service = read_compose()["services"][name]
        number, unit = re.fullmatch(r"(\d+)([sm])", service["stop_grace_period"]).groups()
        grace = int(number) * {"s": 1, "m": 60}[unit]
        limit = float(services()[name].environment["JOBPLATFORM_SHUTDOWN_SECONDS"])
        assert 0 < limit <= grace - 15, f"{name}: a heartbeat and the end of its pool follow it"


def test_servers_have_the_target_versions() -> None:
    result = read_compose()["services"]
    assert result["postgres"]["image"].startswith("postgres:18.")
    assert result["rabbitmq"]["image"].startswith("rabbitmq:4.3.")
    assert result["dispatcher"]["deploy"]["replicas"] == 2


def test_each_process_connects_with_the_role_for_its_work() -> None:
    assert {name: services()[name].role for name in ("dispatcher", "worker-email", "flower")} == {
        "dispatcher": "dispatcher",
        "worker-email": "worker",
        "flower": "monitor",
    }
    targets = {secret["target"] for secret in read_compose()["services"]["definitions"]["secrets"]}
    assert targets == {role.name for role in ROLES}
    secrets = [s["target"] for s in read_compose()["services"]["api"]["secrets"]]
    assert secrets == ["jobplatform_database_password"], "the API process has no access to the broker"


def test_each_service_reaches_only_the_servers_that_it_needs() -> None:
    compose = read_compose()
    networks = {name: set(service.get("networks", ())) for name, service in compose["services"].items()}
    assert all(networks[name] for name in networks if compose["services"][name].get("network_mode") != "none")
    assert compose["networks"]["ledger"] == compose["networks"]["broker"] == {"internal": True}

    def reach(server: str) -> set[str]:
        return {name for name in services() if networks[name] & networks[server]}

    one_shot = {"migrate", "login-reporting", "login-worker"}
    assert reach("postgres") == {"api", "dispatcher", *worker_names(), *one_shot}
    assert reach("rabbitmq") == {"dispatcher", *worker_names(), "flower", "broker-apply"}
    assert networks["worker-video"] == {"ledger", "broker"}


def test_workers_and_flower_do_not_connect_as_the_ledgers_owner() -> None:
    for name in worker_names():
        assert "//worker@" in services()[name].environment["JOBPLATFORM_DATABASE_URL"]
        assert "database_password" not in {secret["source"] for secret in read_compose()["services"][name]["secrets"]}
    targets = {secret["target"] for secret in read_compose()["services"]["flower"]["secrets"]}
    assert "jobplatform_database_password" not in targets


def test_every_secret_is_made_by_the_script(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "deploy" / "make-secrets.sh", tmp_path / "deploy")
    for _ in range(2):  # the second run keeps existing secrets
        subprocess.run(["sh", "deploy/make-secrets.sh"], cwd=tmp_path, check=True, capture_output=True)
        made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
        named = {Path(secret["file"]).name for secret in read_compose()["secrets"].values()}
        assert set(made) == named and all(made.values())
        before = locals().get("before", made)
        assert before == made
    assert len(made["database_password"]) == 48
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0


def test_files_that_are_mounted_or_built_exist() -> None:
    assert (ROOT / "deploy" / "Dockerfile").exists()
    for service in read_compose()["services"].values():
        for volume in service.get("volumes", ()):
            if volume.startswith("./"):
                assert (ROOT / volume.partition(":")[0]).exists()


@pytest.mark.skipif(
    shutil.which("docker-compose") is None, reason="docker-compose is not installed: apt-get install it"
)
def test_docker_compose_accepts_the_file() -> None:
    done = subprocess.run(
        ["docker-compose", "config", "--quiet"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
