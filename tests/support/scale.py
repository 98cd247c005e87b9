"""Scale of the fault tests: small by default, full with BANDIT_SERVE_TEST_SCALE=full."""

from __future__ import annotations

import os


def scaled(default: int, full: int) -> int:
    """Returns `full` at full scale, else `default`."""
    return full if os.environ.get("BANDIT_SERVE_TEST_SCALE") == "full" else default
