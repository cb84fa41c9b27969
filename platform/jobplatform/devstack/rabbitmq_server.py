"""The RabbitMQ server of a private node: the distribution's, or 4.3 from Debian's next release.

The second needs root and Debian: its packages are unpacked into a private folder (nothing is installed), and
the node runs there as an unprivileged user, in its own mount namespace.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from jobplatform.devstack.instance import CHECKOUT, UNPRIVILEGED, stack_folder
from jobplatform.devstack.system import apt_install, rabbitmq_bin
from jobplatform.errors import ConfigurationError

#: "4.3" selects the second
CHOICE = "JOBPLATFORM_RABBITMQ"
SUITE = "forky"
PACKAGES = (
    *("rabbitmq-server", "bash", "dash", "coreutils", "sed", "grep", "gawk", "hostname"),
    *("libc-bin", "base-files", "passwd", "procps", "util-linux"),
)
#: home of a node inside the folder
INSIDE = Path("/srv/node")
_ENTER = (
    'folder="$1"; shift; '
    'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && mount --bind "$folder" "$0/srv/node" && '
    f'exec chroot --userspec={UNPRIVILEGED} "$0" "$@"'
)


@dataclass(frozen=True)
class Server:
    """A server to start. `root` is the folder of its packages, None for the distribution's own."""

    version: str
    root: Path | None

    def command(self, home: Path) -> list[str | Path]:
        """Return the command that starts a node with its data in `home`."""
        return self._inside(home, "rabbitmq-server")

    def control(self, home: Path, *arguments: str) -> list[str | Path]:
        """Return the command of `rabbitmqctl` for that node."""
        return self._inside(home, "rabbitmqctl", *arguments)

    def _inside(self, home: Path, program: str, *arguments: str) -> list[str | Path]:
        if self.root is None:
            return [_bin() / program, *arguments]
        inner = [f"/usr/lib/rabbitmq/bin/{program}", *arguments]
        return ["unshare", "-m", "sh", "-c", _ENTER, self.root, home, *inner]

    def inside(self, home: Path) -> Path:
        """Return the path of that folder as the node sees it."""
        return home if self.root is None else INSIDE


def choose_server() -> Server:
    """Return the selected server. Raises `ConfigurationError` if it is not available."""
    chosen = os.environ.get(CHOICE, "")
    if not chosen:
        return Server(_version(_bin().parent), None)
    if chosen != "4.3":
        raise ConfigurationError(f"{CHOICE}: expected 4.3, or nothing for the distribution's own, got {chosen!r}")
    root = unpack()
    return Server(_version(root / "usr/lib/rabbitmq"), root)


def unpack() -> Path:
    """Unpack the next release's RabbitMQ once; returns its folder. Raises `ConfigurationError`."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ConfigurationError("RabbitMQ 4.3 out of Debian's next release needs root on a Debian machine")
    root = stack_folder("rabbitmq").parent / f"rabbitmq-{SUITE}"
    root.parent.mkdir(mode=0o755, exist_ok=True)
    with root.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "srv/node").is_dir():
            _unpack(root)
    return root


def _unpack(root: Path) -> None:
    if shutil.which("mmdebstrap") is None:
        apt_install(["mmdebstrap"])
    fresh = root.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    command = ["mmdebstrap", "--mode=root", "--variant=extract", "--quiet"]
    command += ['--aptopt=Acquire::Check-Valid-Until "false"', f"--include={','.join(PACKAGES)}"]
    done = subprocess.run(
        [*command, SUITE, str(fresh), f"deb {_mirror()} {SUITE} main"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ConfigurationError(f"Debian's {SUITE} can't be had here: {done.stderr.strip()[-400:]}")
    if not (fresh / "usr/bin/awk").exists():
        (fresh / "usr/bin/awk").symlink_to("gawk")
    shutil.copy("/etc/hosts", fresh / "etc/hosts")
    (fresh / "srv/node").mkdir(parents=True)
    shutil.rmtree(root, ignore_errors=True)
    fresh.rename(root)


def _mirror() -> str:
    """Return the machine's Debian mirror, from its apt sources."""
    for file in [*Path("/etc/apt").glob("sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]:
        match = re.search(r"https?://\S+/debian/?(?=\s)", file.read_text())
        if match:
            return match.group(0)
    return "http://deb.debian.org/debian"


def _bin() -> Path:
    scripts = rabbitmq_bin()
    if scripts is None:
        raise ConfigurationError(f"rabbitmq-server is not installed: run `make setup` in {CHECKOUT}")
    return scripts


def _version(folder: Path) -> str:
    result = sorted((folder / "lib").glob("rabbitmq_server-*"))
    return result[-1].name.partition("-")[2] if result else "3.10"
