"""Empty Cython method of two arguments: the cost of a call from Python before it does anything."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SOURCE = """# cython: language_level=3
cdef class Empty:
    def call(self, a, b):
        return None
"""


def empty_call(directory: Path) -> Callable[[object, object], None]:
    """Compiles the method in `directory`; returns it, bound."""
    source = directory / "empty.pyx"
    source.write_text(SOURCE)
    subprocess.run(
        [sys.executable, "-m", "Cython.Build.Cythonize", "-q", "-i", str(source)], check=True, cwd=directory
    )
    (built,) = directory.glob("empty.*.so")
    spec = importlib.util.spec_from_file_location("empty", built)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Empty().call
