"""Libraries of the server, which `bandit-serve` installs with the extra `server` alone.

The lane and the connections sit on the inside of aiohttp. Another version of it than those that they were tested with
may answer, and keep other time-outs and bounds; so the service does not start on one.
"""

from __future__ import annotations

from bandit_serve.base.requirements import requirements
from bandit_serve.errors import NotInstalled

EXTRA = "server"


def require_libraries() -> None:
    """Raises `NotInstalled` where a library is missing, or is of another version than those that were tested."""
    faults = [fault for requirement in requirements(EXTRA) if (fault := requirement.fault) is not None]
    if faults:
        raise NotInstalled(
            f"The service can not start: {'; '.join(faults)}. "
            f"Install what it was tested with: pip install 'bandit-serve[{EXTRA}]'."
        )
