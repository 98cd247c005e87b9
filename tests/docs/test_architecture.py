"""Architecture page: the files that its walk and its picture name exist, and every package has its line."""

from __future__ import annotations

import re

import pytest
from documents import ROOT, Document

CODE = ROOT / "bandit_serve"
PAGE = Document("docs/architecture.md")
PICTURE = (ROOT / "docs" / "pictures" / "ways.svg").read_text()
PACKAGES = {path.parent.name for path in CODE.glob("*/__init__.py")}
AT_THE_TOP = ("bandit_serve", "ext", "tests", "docs", "benchmarks")
PLACE = re.compile(rf"(?:{'|'.join([*AT_THE_TOP, *PACKAGES])})/[\w./]*")
NAMED = sorted({code for code in PAGE.inline_code if PLACE.fullmatch(code)})
DRAWN = sorted(
    set(PLACE.findall(re.sub(r"<style>.*?</style>|aria-label=\"[^\"]*\"", "", PICTURE, flags=re.S)))
)


@pytest.mark.parametrize("name", NAMED)
def test_what_is_named_is_there(name: str) -> None:
    assert (ROOT / name).exists() or (CODE / name).exists()


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_drawn_is_there(name: str) -> None:
    assert (CODE / f"{name}.py").exists()


def test_every_package_has_a_line_and_a_paragraph() -> None:
    table = PAGE.between("| package | holds |", "## How fast it has to be")
    rows = [line.split("|")[1] for line in table.splitlines()[2:] if line.startswith("|")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == PACKAGES
    assert set(re.findall(r"\*\*`(\w+)`\*\*", PAGE.text)) == PACKAGES


def test_the_walk_names_enough_to_be_one() -> None:
    assert len(NAMED) > 30
    assert len(DRAWN) > 5
