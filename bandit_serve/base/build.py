"""Build of this package: its version, and which sources they were."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import bandit_serve


@cache
def build() -> str:
    """Name of this build: `0.1.0+3f2a9c1e`. Two builds of one version have one name only if their modules are equal.

    Kernels are left out: each machine compiles its own.
    """
    root = Path(bandit_serve.__path__[0])
    digest = hashlib.blake2b(digest_size=4)
    for path in sorted(root.rglob("*")):
        if path.suffix in (".py", ".pyi", ".lua"):
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return f"{bandit_serve.__version__}+{digest.hexdigest()}"
