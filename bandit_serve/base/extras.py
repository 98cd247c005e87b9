"""Optional libraries: imported on first use, with an error that says how to install them."""

from __future__ import annotations

import importlib
from typing import Any

from bandit_serve.errors import NotInstalled


def require(module: str, extra: str) -> Any:
    """Imports a module. Raises `NotInstalled` that names the extra to install where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise NotInstalled(
            f"This needs {library} ({error}); install it with: pip install 'bandit-serve[{extra}]'."
        ) from None
