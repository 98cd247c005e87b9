"""Usage of the machine by this process: CPU, memory and open files."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import NamedTuple

_STATM, _FDS = Path("/proc/self/statm"), Path("/proc/self/fd")


class ProcessUsage(NamedTuple):
    """CPU in seconds, and resident memory in bytes."""

    cpu_s: float
    resident_bytes: int


def process_usage() -> ProcessUsage:
    times = os.times()
    return ProcessUsage(times.user + times.system, _resident_bytes())


def count_open_files() -> int:
    """Number of open files, 0 where the system does not tell: a millisecond for each thousand of them."""
    try:
        return len(os.listdir(_FDS))
    except OSError:
        return 0


def _resident_bytes() -> int:
    try:
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    except OSError:
        # The most that there was; in kibibytes but on macOS.
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
