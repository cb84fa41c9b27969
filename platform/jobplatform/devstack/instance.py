"""An instance of the private stack of this checkout: folder, ports, secrets, and user.

The folder is outside the clone: Postgres refuses to run as root, and an unprivileged user may not be able to
enter the clone's parent folders, whose permissions are left alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from jobplatform.errors import ConfigurationError

#: the checkout: the folder above platform/
CHECKOUT = Path(__file__).resolve().parents[3]
UNPRIVILEGED = "nobody"
#: selects a stack other than the command's default, so that tests leave a developer's alone
NAME_VARIABLE = "JOBPLATFORM_STACK_NAME"
PORT_NAMES = (
    "postgres",
    "amqp",
    "management",
    "erlang_dist",
    "epmd",
    "api",
    "flower",
    "smtp",
    "mail",
    "model",
    "metrics-dispatcher",
    "metrics-worker-email",
    "metrics-worker-video",
    "metrics-worker-llm",
    "metrics-worker-webhooks",
)


@dataclass(frozen=True)
class Instance:
    """Folder and ports of one named stack. Two checkouts, or two names, never share anything."""

    name: str
    folder: Path
    ports: dict[str, int]
    secret: str

    @property
    def mark(self) -> str:
        """Value of JOBPLATFORM_STACK in the environment of every process of this stack."""
        return str(self.folder)

    @property
    def logs(self) -> Path:
        """The folder of the processes' logs."""
        return self.folder / "logs"

    def owned_folder(self, name: str) -> Path:
        """Return a sub-folder owned by the unprivileged user (by the current user without root)."""
        path = self.folder / name
        path.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            owner = pwd.getpwnam(UNPRIVILEGED)
            os.chown(path, owner.pw_uid, owner.pw_gid)
        return path


def demote() -> dict[str, object]:
    """Return arguments for subprocess.Popen that drop root's privileges; none without root."""
    if os.geteuid() != 0:
        return {}
    owner = pwd.getpwnam(UNPRIVILEGED)
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def chosen_name(default: str) -> str:
    """Return the name of the stack for a command."""
    return os.environ.get(NAME_VARIABLE) or default


def stack_folder(name: str) -> Path:
    """Return the folder of a named stack of this checkout."""
    digest = hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:10]
    return Path("/var/tmp") / f"jobplatform-{os.geteuid()}" / f"{name}-{digest}"


@contextmanager
def taken(name: str) -> Iterator[None]:
    """Lock a stack for a block: two commands on the same stack of a checkout run one after the other."""
    folder = _make_folder(name)
    with (folder.parent / f"{folder.name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigurationError(
                f"another command is working on the {name!r} stack of this checkout: wait until it has ended"
            ) from None
        yield


def _make_folder(name: str) -> Path:
    folder = stack_folder(name)
    parent = folder.parent
    try:
        parent.mkdir(mode=0o755, exist_ok=True)
    except FileExistsError:
        pass
    status = parent.lstat()
    if not parent.is_dir() or parent.is_symlink() or status.st_uid != os.geteuid():
        raise ConfigurationError(f"{parent} is not ours: expected a folder that belongs to user {os.geteuid()}")
    folder.mkdir(mode=0o711, exist_ok=True)
    folder.chmod(0o711)  # the unprivileged user may pass through it, but only the owner may list it
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    logs.chmod(0o700)
    return folder


def open_instance(name: str) -> Instance:
    """Return the instance of a stack, created if missing. Ports and secrets stay the same between runs."""
    folder = _make_folder(name)
    file = folder / "instance.json"
    known = orjson.loads(file.read_bytes()) if file.exists() else {}
    ports = {key: int(value) for key, value in known.get("ports", {}).items()}
    secret = known.get("secret") or secrets.token_urlsafe(18)
    if set(ports) != set(PORT_NAMES) or not known.get("secret"):
        ports = free_ports()
        _write(file, ports, secret)
    return Instance(name, folder, ports, secret)


def read_ports(folder: Path) -> dict[str, int]:
    """Return the ports of the stack in a folder; none when there is no stack."""
    try:
        known = orjson.loads((folder / "instance.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return {key: int(value) for key, value in known.get("ports", {}).items()}


def with_new_ports(instance: Instance) -> Instance:
    """Return the instance with new ports, and store them: one of the old ones is in use by another process."""
    ports = free_ports()
    _write(instance.folder / "instance.json", ports, instance.secret)
    return Instance(instance.name, instance.folder, ports, instance.secret)


def _write(file: Path, ports: dict[str, int], secret: str) -> None:
    fresh = file.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_bytes(orjson.dumps({"ports": ports, "secret": secret}))
    fresh.replace(file)  # atomic: concurrent readers see the old file or the new one


def free_ports() -> dict[str, int]:
    """Return a free port of 127.0.0.1 for every name."""
    open_sockets = []
    try:
        for _ in PORT_NAMES:
            item = socket.socket()
            item.bind(("127.0.0.1", 0))
            open_sockets.append(item)
        return {name: item.getsockname()[1] for name, item in zip(PORT_NAMES, open_sockets, strict=True)}
    finally:
        for item in open_sockets:
            item.close()


def busy_ports(ports: dict[str, int]) -> list[str]:
    """Return the names of the ports that are in use."""
    busy = []
    for name, port in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                busy.append(name)
    return busy
