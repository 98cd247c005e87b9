"""Assets of the pages: their style, their script and their icon, under names that change with their content."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from bandit_serve.pictures.style import STYLE
from bandit_serve.pictures.theme import ROOT
from bandit_serve.simulation.plot.style import CHART_STYLE

MAX_COMPRESSED_BYTES = 150_000
CACHE_CONTROL = "public, max-age=31536000, immutable"
TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


class Asset(NamedTuple):
    """File for a browser: its name with a hash in it, its media type, its bytes, and the same in gzip."""

    name: str
    media: str
    content: bytes
    compressed: bytes


@cache
def assets() -> dict[str, Asset]:
    """All assets by the names that templates know them by, such as `style.css`."""
    folder = files("bandit_serve.dashboard") / "assets"
    own = {
        each.name: each.read_text("utf-8")
        for each in folder.iterdir()
        if each.name.rpartition(".")[2] in TYPES
    }
    # Pictures of pages and of reports have one style.
    own["style.css"] = f"{ROOT}{STYLE}{CHART_STYLE}{own['style.css']}"
    return {name: _asset(name, text.encode()) for name, text in own.items()}


@cache
def by_hashed_name() -> dict[str, Asset]:
    return {asset.name: asset for asset in assets().values()}


def _asset(name: str, content: bytes) -> Asset:
    stem, _, end = name.rpartition(".")
    hashed = f"{stem}.{hashlib.sha256(content).hexdigest()[:16]}.{end}"
    return Asset(hashed, TYPES[end], content, gzip.compress(content, 9, mtime=0))
