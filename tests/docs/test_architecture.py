"""The walk through the house names files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text()
NAMED = sorted(set(re.findall(r"`((?:bandit_serve|ext|tests)/[\w./]*)`", TEXT)))


@pytest.mark.parametrize("name", NAMED)
def test_what_is_named_is_there(name: str) -> None:
    assert (ROOT / name).exists()


def test_every_package_has_a_line() -> None:
    packages = {path.parent.name for path in (ROOT / "bandit_serve").glob("*/__init__.py")}
    table = TEXT[TEXT.index("| package | holds |") : TEXT.index("## Where something new goes")]
    rows = [line.split("|")[1] for line in table.splitlines()[2:] if line.startswith("|")]
    assert packages == {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_the_walk_names_enough_to_be_one() -> None:
    assert len(NAMED) > 25
