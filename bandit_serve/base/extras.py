"""Libraries that only some need: imported when they are, with a sentence that says how to get them."""

from __future__ import annotations

import importlib
from typing import Any

from bandit_serve.errors import UsageError


def require(module: str, extra: str) -> Any:
    """The module; `UsageError` that names the extra it comes with where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise UsageError(
            f"This needs {library} ({error}); install it with: pip install 'bandit-serve[{extra}]'"
        ) from None
