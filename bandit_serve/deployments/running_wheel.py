"""Wheel of the package that runs, and the versions that it runs with, for an image where nobody names a wheel.

Nothing is fetched under the package's name.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution, distributions
from importlib.util import find_spec
from pathlib import Path

from bandit_serve.errors import UsageError

NAME = "bandit-serve"
OURS = {NAME, "bandit_serve", "bandit-serve-client", "bandit_serve_client"}
PACKAGES = ("bandit_serve", "bandit_serve_client")
LEFT_OUT = {"__pycache__"}


def write_running_wheel(folder: Path) -> Path:
    """Writes the wheel into a folder; it fits this version of Python and this kind of machine.

    It has no times, so that one package makes one wheel, and engines find what they built of it before.
    """
    of = distribution(NAME)
    metadata = _metadata(of)
    stem = f"{NAME.replace('-', '_')}-{of.version}"
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    tag = f"{python}-{python}-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
    about = f"{stem}.dist-info"
    wheel = f"Wheel-Version: 1.0\nGenerator: {NAME} {of.version}\nRoot-Is-Purelib: false\nTag: {tag}\n"
    texts = {
        f"{about}/METADATA": metadata,
        f"{about}/entry_points.txt": of.read_text("entry_points.txt") or "",
        f"{about}/WHEEL": wheel,
    }
    path = folder / f"{stem}-{tag}.whl"
    rows = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        contents = [*((name, file.read_bytes()) for name, file in _files()), *_encoded(texts)]
        for name, content in contents:
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            rows.append(f"{name},sha256={digest},{len(content)}")
        record = "\n".join([*rows, f"{about}/RECORD,,", ""])
        archive.writestr(zipfile.ZipInfo(f"{about}/RECORD"), record, zipfile.ZIP_DEFLATED)
    return path


def _metadata(of: Distribution) -> str:
    """Metadata as in a wheel; beside sources setuptools has them under another name."""
    text = of.read_text("METADATA") or of.read_text("PKG-INFO")
    if not text:
        raise UsageError(f"The metadata of {NAME} are not installed here: name a wheel with --wheel.")
    return text


def running_constraints() -> str:
    """Returns the versions of all that is installed beside the package, as constraints for pip.

    Left out is what no index has: ourselves, what was installed from a place, and local versions.
    """
    versions = {
        each.name.lower(): each.version
        for each in distributions()
        if each.name and "+" not in each.version and each.read_text("direct_url.json") is None
    }
    return "".join(f"{name}=={versions[name]}\n" for name in sorted(versions) if name not in OURS)


def _encoded(texts: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    for name, text in texts.items():
        yield name, text.encode()


def _files() -> Iterator[tuple[str, Path]]:
    """Files of the packages, by their names in a wheel."""
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec is not None
        for place in spec.submodule_search_locations or ():
            root = Path(place)
            for file in sorted(root.rglob("*")):
                below = file.relative_to(root)
                if file.is_file() and not LEFT_OUT.intersection(below.parts):
                    yield f"{package}/{below.as_posix()}", file
