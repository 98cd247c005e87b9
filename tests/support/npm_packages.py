"""Packages of npm for tests: installed once for each content of `tests/npm/package.json`, outside the checkout."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "npm"
INSTALL_S = 300


def npm_folder() -> Path:
    """Folder with the scripts of `tests/npm` and the packages that they import.

    Without npm the test is skipped, but not in CI, where it fails.
    """
    npm = shutil.which("npm")
    if npm is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no npm on PATH")
    package = (FOLDER / "package.json").read_bytes()
    cache = Path(tempfile.gettempdir()) / f"bandit-serve-npm-{os.getuid()}"
    folder = cache / hashlib.sha256(package).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for script in FOLDER.iterdir():
            shutil.copy(script, folder)
        if not (folder / "installed").exists():
            command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=INSTALL_S)
            (folder / "installed").touch()
    return folder


def run_node(*arguments: str) -> str:
    """Runs Node in that folder; returns what it wrote."""
    node = shutil.which("node")
    assert node is not None, "npm comes with node"
    done = subprocess.run([node, *arguments], cwd=npm_folder(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
