"""Bytecode of an image, written when it is built, as a program of its own: who runs the service can write none.

Only what the service imports gets some, of the standard library, too; of all that is installed it would be thrice as
large.
"""

from __future__ import annotations

import importlib
import pkgutil

import bandit_serve
from bandit_serve.errors import NotInstalled


def import_all() -> None:
    """Imports every module of the package but those of extras that are not installed."""
    for module in pkgutil.walk_packages(bandit_serve.__path__, f"{bandit_serve.__name__}."):
        if not module.name.endswith(".__main__"):
            try:
                importlib.import_module(module.name)
            except (ModuleNotFoundError, NotInstalled) as missing:
                print(f"{module.name} is left out: {missing}")


if __name__ == "__main__":
    import_all()
