"""Rules for the sources of all kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

EXT = Path(__file__).resolve().parents[1] / "ext"
SOURCES = [path for path in sorted(EXT.rglob("*")) if path.suffix in (".pyx", ".pxd")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(EXT).as_posix())
def test_divides_as_c_does(path: Path) -> None:
    """A header has no directives but its own: a division by 0 in it would be an exception that nobody hears."""
    assert "cdivision=True" in path.read_text().splitlines()[0]


def test_there_are_headers_too() -> None:
    assert {path.suffix for path in SOURCES} == {".pyx", ".pxd"}
    assert len(SOURCES) > 30
