"""Files of the pages: all of them are in a wheel, small, and name no other host."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

import bandit_serve.dashboard
from bandit_serve.dashboard.assets import MAX_COMPRESSED_BYTES, assets
from bandit_serve.dashboard.templates import environment

FOLDER = Path(bandit_serve.dashboard.__file__).parent
FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc"))
PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def test_a_wheel_and_an_sdist_have_every_file() -> None:
    data = tomllib.loads(PYPROJECT.read_text())["tool"]["setuptools"]["package-data"]
    patterns = data["bandit_serve.dashboard"]
    names = [path.relative_to(FOLDER).as_posix() for path in FILES]
    assert len(names) > 40
    # A `*` of setuptools stays in its folder.
    left_out = [
        name
        for name in names
        if not any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)
    ]
    assert left_out == []
    manifest = (PYPROJECT.parent / "MANIFEST.in").read_text()
    [line] = re.findall(r"^recursive-include bandit_serve (.+)$", manifest, re.M)
    assert {f"*{path.suffix}" for path in FILES} <= set(line.split())


def test_everything_together_is_small() -> None:
    assert sum(len(asset.compressed) for asset in assets().values()) < MAX_COMPRESSED_BYTES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_other_host_is_named(path: Path) -> None:
    text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//[a-z0-9-]+\.[a-z]{2,}", text)


@pytest.mark.parametrize("template", environment().list_templates())
def test_a_template_can_be_read_and_has_no_inline_style_or_script(template: str) -> None:
    environment().get_template(template)
    text = (FOLDER / "templates" / template).read_text("utf-8")
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=", text)
