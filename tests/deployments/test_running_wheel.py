"""Versions of a running service: an image that is made of it has the same."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from documents import ROOT

from bandit_serve.deployments.running_wheel import running_constraints, write_running_wheel
from bandit_serve.errors import UsageError


def test_constraints_are_the_versions_that_run() -> None:
    constraints = dict(line.split("==") for line in running_constraints().splitlines())
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = [re.split(r"[\[<>=~! ;]", each)[0].lower() for each in needed]
    assert {name: constraints[name] for name in names} == {name: version(name) for name in names}
    assert not any("bandit" in name for name in constraints)


def test_pip_takes_them(tmp_path: Path) -> None:
    path = tmp_path / "constraints.txt"
    path.write_text(running_constraints())
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--no-index",
        "--constraint",
        path,
        "numpy",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert version("numpy") in done.stdout


def test_what_no_index_has_is_left_out(tmp_path: Path) -> None:
    for name, number, origin in [
        ("here", "1.0", None),
        ("local", "2.0+cpu", None),
        ("placed", "3.0", '{"url": "file:///x"}'),
    ]:
        about = tmp_path / f"{name}-{number}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
        if origin is not None:
            (about / "direct_url.json").write_text(origin)
    code = "from bandit_serve.deployments.running_wheel import running_constraints as r; print(r())"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = done.stdout.splitlines()
    assert "here==1.0" in lines
    assert not any(line.startswith(("local", "placed")) for line in lines)


@pytest.mark.parametrize("name", ["METADATA", "PKG-INFO"])
def test_a_wheel_has_its_metadata_whether_installed_or_in_its_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    text = "Metadata-Version: 2.1\nName: bandit-serve\nVersion: 0.1.0\nRequires-Dist: numpy\n"
    kind = "bandit_serve-0.1.0.dist-info" if name == "METADATA" else "bandit_serve.egg-info"
    about = tmp_path / "path" / kind
    about.mkdir(parents=True)
    (about / name).write_text(text)
    (about / "entry_points.txt").write_text("[console_scripts]\nbandit-serve = x:y\n")
    monkeypatch.syspath_prepend(str(about.parent))
    wheel = write_running_wheel(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("bandit_serve-0.1.0.dist-info/METADATA").decode() == text
        assert b"bandit-serve" in archive.read("bandit_serve-0.1.0.dist-info/entry_points.txt")


def test_a_wheel_without_metadata_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = tmp_path / "bandit_serve-9.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match="--wheel"):
        write_running_wheel(tmp_path)
