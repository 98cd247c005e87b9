"""Usage of the machine by this process: CPU, memory and open files."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import NamedTuple

_STATM, _FDS = Path("/proc/self/statm"), Path("/proc/self/fd")


class ProcessUsage(NamedTuple):
    """CPU in seconds, resident memory in bytes, and open files; 0 open files where the system does not tell."""

    cpu_s: float
    resident_bytes: int
    open_files: int


def process_usage() -> ProcessUsage:
    times = os.times()
    return ProcessUsage(times.user + times.system, _resident_bytes(), _open_files())


def _resident_bytes() -> int:
    try:
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    except OSError:
        # The most that there was; in kibibytes but on macOS.
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def _open_files() -> int:
    try:
        return len(os.listdir(_FDS))
    except OSError:
        return 0
