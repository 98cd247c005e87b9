"""Former version of this project: the sources of a commit before, with their kernels."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "BANDIT_SERVE_TEST_FORMER"
KERNELS = ("ext", "setup.py")
"""What kernels are made of."""
LOOKED_AT = 50


def former_checkout(folder: Path) -> Path:
    """Sources of the revision that `BANDIT_SERVE_TEST_FORMER` names, by default of the last commit but one that changed
    the package, or of one before it that has the same kernels. Skips the test where there is no history.

    Kernels are those of this checkout where their sources are the same, and built where not, which takes minutes.
    """
    revision = os.environ.get(VARIABLE) or _last_but_one()
    with tarfile.open(fileobj=io.BytesIO(_git("archive", revision))) as archive:
        archive.extractall(folder, filter="data")
    if _has_other_kernels(revision):
        _build_kernels(folder)
    else:
        for kernel in (ROOT / "bandit_serve").rglob("*.so"):
            shutil.copy(kernel, folder / kernel.relative_to(ROOT))
    return folder


def _build_kernels(folder: Path) -> None:
    """Builds kernels in an environment that pip makes for it, as this one need not have Cython."""
    wheels = folder / "wheels"
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), "."]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.endswith(".so")])


def _last_but_one() -> str:
    revisions = _git("log", f"-{LOOKED_AT}", "--format=%H", "--", "bandit_serve").decode().split()[1:]
    if not revisions:
        pytest.skip("the history of this checkout has no former version")
    return next((each for each in revisions if not _has_other_kernels(each)), revisions[0])


def _has_other_kernels(revision: str) -> bool:
    return bool(_git("diff", "--stat", revision, "--", *KERNELS))


def _git(*words: str) -> bytes:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("there is no history here, so no former version")
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"the history of this checkout can not be read: {done.stderr.decode().strip()}")
    return done.stdout
