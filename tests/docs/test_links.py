"""Links of the documents lead somewhere: to a file that is there, and to a heading in it."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from documents import ROOT, Document, every_document


@pytest.mark.parametrize("name", every_document())
def test_links_lead_somewhere(name: str) -> None:
    document = Document(name)
    for link in document.links:
        if "://" in link:
            continue
        place, _, anchor = link.partition("#")
        path = (document.path.parent / place).resolve() if place else document.path
        assert path.is_relative_to(ROOT), link
        assert path.exists(), link
        if path.suffix == ".png":
            assert anchor in ("", "gh-light-mode-only", "gh-dark-mode-only"), link
        elif anchor:
            target = Document(path.relative_to(ROOT).as_posix())
            assert anchor in target.anchors, f"{link}: {sorted(target.anchors)}"


def test_pages_of_the_site_link_to_pages_of_the_site() -> None:
    """The site has no others."""
    for name in every_document():
        if not name.startswith("docs/"):
            continue
        for link in Document(name).links:
            if "://" not in link:
                place = link.partition("#")[0] or PurePosixPath(name).name
                assert (ROOT / name).parent.joinpath(place).resolve().is_relative_to(ROOT / "docs"), link


def test_every_page_is_reached_from_the_readme() -> None:
    reached: set[str] = set()
    ahead = ["README.md"]
    while ahead:
        name = ahead.pop()
        if name in reached:
            continue
        reached.add(name)
        document = Document(name)
        for link in document.links:
            place = link.partition("#")[0]
            if place.endswith(".md") and "://" not in link:
                ahead.append((document.path.parent / place).resolve().relative_to(ROOT).as_posix())
    assert set(every_document()) <= reached
