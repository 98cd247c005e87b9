"""Documents of the repository, as tests read them: pages, their blocks of code, headings and links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
AT_THE_ROOT = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_INLINE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.M)


class Block(NamedTuple):
    """A fenced block of code; `language` is empty where none is named."""

    language: str
    text: str


class Document:
    """`name` is its path below the root."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = ROOT / name
        self.text = self.path.read_text()
        self.prose = _FENCE.sub("", self.text)

    @property
    def blocks(self) -> list[Block]:
        return [Block(*parts) for parts in _FENCE.findall(self.text)]

    @property
    def inline_code(self) -> list[str]:
        """Each on one line, also where the prose breaks it."""
        return [" ".join(code.split()) for code in _INLINE.findall(self.prose)]

    @property
    def links(self) -> list[str]:
        return _LINK.findall(_INLINE.sub("", self.prose))

    @property
    def anchors(self) -> set[str]:
        """The anchors of its headings, as GitHub makes them."""
        return {_anchor(heading) for heading in _HEADING.findall(self.prose)}

    def between(self, start: str, end: str) -> str:
        """The text from `start` to `end`, both left out."""
        after = self.text.index(start) + len(start)
        return self.text[after : self.text.index(end, after)]


def _anchor(heading: str) -> str:
    plain = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
    return re.sub(r"\s", "-", plain)


def every_document() -> list[str]:
    pages = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return [*AT_THE_ROOT, *pages]
