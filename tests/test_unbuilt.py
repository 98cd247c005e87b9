"""Import from a checkout without built kernels: the error says what to do."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bandit_serve

PACKAGE = Path(bandit_serve.__file__).parent


def run_in(checkout: Path, *flags: str, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-c", f"import sys; sys.path.insert(0, {str(checkout)!r}); {code}"],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def unbuilt(tmp_path: Path) -> Path:
    shutil.copytree(PACKAGE, tmp_path / "bandit_serve", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return tmp_path


@pytest.mark.parametrize("flags", [(), ("-S",)], ids=["installed elsewhere", "not installed"])
@pytest.mark.parametrize("module", ["bandit_serve", "bandit_serve.policies", "bandit_serve.cli.main"])
def test_an_import_without_kernels_says_what_to_do(
    unbuilt: Path, module: str, flags: tuple[str, ...]
) -> None:
    run = run_in(unbuilt, "-I", *flags, code=f"import {module}")
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: The kernels of bandit_serve are not built in {unbuilt}")
    assert "run `pip install -e .` in the checkout" in last
