"""Packages of the distribution: a RabbitMQ server and ffmpeg, installed without starting a system broker."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jobplatform.errors import ConfigurationError

#: program → its package: (apt, dnf, brew)
PACKAGES = {
    "rabbitmq-server": ("rabbitmq-server", "rabbitmq-server", "rabbitmq"),
    "ffmpeg": ("ffmpeg", "ffmpeg-free", "ffmpeg"),
    "wrk": ("wrk", "wrk", "wrk"),
    "redis-server": ("redis-server", "redis", "redis"),
}
POLICY = Path("/usr/sbin/policy-rc.d")
#: RabbitMQ's scripts: the distribution's wrappers around them refuse to run as another user
RABBITMQ_BINS = ("/usr/lib/rabbitmq/bin", "/opt/homebrew/sbin", "/usr/local/sbin")


def rabbitmq_bin() -> Path | None:
    """Return the folder of RabbitMQ's scripts; None if it is not installed."""
    for folder in RABBITMQ_BINS:
        if (Path(folder) / "rabbitmq-server").exists():
            return Path(folder)
    return None


def missing() -> list[str]:
    """Return the required programs that are missing on this machine."""
    absent = []
    if rabbitmq_bin() is None and not os.environ.get("JOBPLATFORM_BROKER_URL"):
        absent.append("rabbitmq-server")
    if shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None:
        absent.append("ffmpeg")
    return absent


def install_packages() -> None:
    """Install missing programs with apt as root; else raise `ConfigurationError`, which names the packages."""
    _install(missing())


def require_programs(*names: str) -> None:
    """Install programs of `PACKAGES` that are not on the PATH, before long work begins.

    Raises `ConfigurationError`, which names the packages, if apt can't be used.
    """
    _install([name for name in names if shutil.which(name) is None])


def _install(absent: Sequence[str]) -> None:
    if not absent:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        apt, dnf, brew = (" ".join(PACKAGES[name][column] for name in absent) for column in range(3))
        raise ConfigurationError(
            f"please install {' and '.join(absent)}: apt-get install {apt} | dnf install {dnf} | brew install {brew}"
        )
    apt_install([PACKAGES[name][0] for name in absent])


def apt_install(packages: list[str]) -> None:
    """Install packages with apt-get as root, without starting their services. Raises `ConfigurationError`."""
    print(f"installing {' '.join(packages)} by apt-get …", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_services():
        if not _apt(["install", "-y", "--no-install-recommends", *packages], environment):
            _apt(["update"], environment)
            if not _apt(["install", "-y", "--no-install-recommends", *packages], environment, loud=True):
                raise ConfigurationError(f"apt-get could not install {' '.join(packages)}: see its output above")


def _apt(arguments: list[str], environment: dict[str, str], loud: bool = False) -> bool:
    done = subprocess.run(
        ["apt-get", "-q", *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if loud and done.returncode:
        sys.stderr.buffer.write(done.stdout + done.stderr)
    return done.returncode == 0


@contextmanager
def _no_services() -> Iterator[None]:
    """Keep packages from starting services (Debian's policy-rc.d, exit code 101); an existing policy is kept."""
    before = (POLICY.read_bytes(), POLICY.stat().st_mode) if POLICY.exists() else None
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        if before is None:
            POLICY.unlink(missing_ok=True)
        else:
            POLICY.write_bytes(before[0])
            POLICY.chmod(before[1])
