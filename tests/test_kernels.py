"""What all sources of kernels have in common."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXT, PACKAGE = ROOT / "ext", ROOT / "bandit_serve"
KERNELS = sorted(EXT.rglob("*.pyx"))
# What kernels offer one another is declared beside their stubs.
DECLARATIONS = sorted(PACKAGE.rglob("*.pxd"))
SOURCES = [*KERNELS, *sorted(EXT.rglob("*.pxd")), *DECLARATIONS]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_divides_as_c_does(path: Path) -> None:
    """A header has no directives but its own: a division by 0 in it would be an exception that nobody hears."""
    assert "cdivision=True" in path.read_text().splitlines()[0]


def test_there_are_headers_too() -> None:
    assert {path.suffix for path in SOURCES} == {".pyx", ".pxd"}
    assert len(SOURCES) > 30


def test_stubs_and_declarations_are_of_kernels() -> None:
    made = {PACKAGE / path.parent.relative_to(EXT) / f"_{path.stem}" for path in KERNELS}
    assert {path.with_suffix("") for path in PACKAGE.rglob("*.pyi")} == made
    assert {path.with_suffix("") for path in DECLARATIONS} < made
