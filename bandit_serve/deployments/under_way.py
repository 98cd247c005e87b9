"""Work under way on a container: the name that it has meanwhile says what is done with it, and by which process.

An engine can not change a container's labels, but its name, at once. So a container is `NAME.starting.PROCESS` until
all of a start is done, and `NAME.stopping.PROCESS` until it is gone. Where that process has died, the next command ends
what it began.
"""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

Work = Literal["starting", "stopping"]


class UnderWay(NamedTuple):
    """What is done with a container, and by which process (`this_process`)."""

    work: Work
    process: str


def name_during(name: str, work: Work) -> str:
    """Name of a deployment's container while this process works on it."""
    return f"{name}.{work}.{this_process()}"


def under_way(name: str, container_name: str) -> UnderWay | None:
    """What the name of a deployment's container says; None where nothing is under way."""
    work, _, process = container_name.removeprefix(f"{name}.").partition(".")
    if not container_name.startswith(f"{name}.") or work not in get_args(Work):
        return None
    return UnderWay(cast("Work", work), process)


def this_process() -> str:
    """Text by which other processes of this machine can tell whether this one has ended."""
    pid = str(os.getpid())
    return f"{_machine()}-{pid}-{_began(pid)}"


def is_abandoned(process: str) -> bool:
    """Whether the process has ended. Of another machine's processes nothing is known: they may live."""
    machine, _, rest = process.partition("-")
    pid, _, began = rest.partition("-")
    return machine == _machine() and _began(pid) != began


def _machine() -> str:
    """Digest of this machine's name, and of its boot where that is known: pids begin anew with it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        boot = ""
    return hashlib.sha256(f"{socket.gethostname()} {boot}".encode()).hexdigest()[:12]


def _began(pid: str) -> str:
    """When a process began, in ticks since the boot, as its pid may be another's later; empty if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "" if Path("/proc/self/stat").exists() else _answers(pid)
    return "" if fields[0] in "ZX" else fields[19]


def _answers(pid: str) -> str:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return "alive"
    except (OSError, ValueError):
        return ""
    return "alive"
