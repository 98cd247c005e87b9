"""Places: what was there stays until what replaces it is whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest

from bandit_serve.errors import FilesUnavailable, UsageError
from bandit_serve.export.places import place_of


@pytest.fixture(params=["path", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "path" else f"memory:/{tmp_path}"


def replaced(at: str, **files: bytes) -> None:
    """Replaces what is at a place with files by their names, `whole` being the place itself."""
    place = place_of(at)
    scratch = place.scratch()
    paths = {}
    for name, content in files.items():
        paths["" if name == "whole" else f"day/{name}"] = scratch / name
        (scratch / name).write_bytes(content)
    try:
        place.replace(scratch, paths)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def contents(at: str) -> dict[str, bytes]:
    files, path = fsspec.core.url_to_fs(at)
    return {name.removeprefix(path): files.cat_file(name) for name in files.find(path)}


def test_a_file_and_a_folder_are_replaced(root: str) -> None:
    for content in (b"one", b"two"):
        replaced(f"{root}/file", whole=content)
        replaced(f"{root}/folder", **{content.decode(): content})
    assert contents(f"{root}/file") == {"": b"two"}
    assert contents(f"{root}/folder") == {"/day/two": b"two"}
    left = [name for name in contents(root) if ".part" in name]
    assert not left


def test_a_file_does_not_replace_a_folder(root: str) -> None:
    replaced(f"{root}/folder", a=b"a", b=b"b")
    with pytest.raises(UsageError, match="a folder at"):
        replaced(f"{root}/folder", whole=b"one")
    assert contents(f"{root}/folder") == {"/day/a": b"a", "/day/b": b"b"}


def test_what_was_there_stays_where_an_upload_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = f"memory:/{tmp_path}/out"
    replaced(at, whole=b"before")
    files = fsspec.filesystem("memory")

    def full(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(type(files), "put_file", full)
    with pytest.raises(FilesUnavailable, match="is full"):
        replaced(at, whole=b"after")
    assert contents(at) == {"": b"before"}


def test_spellings_of_a_place_have_one_location(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    spellings = ["x", "./x", str(tmp_path / "x"), f"file://{tmp_path}/x", "link/x"]
    assert {place_of(each).location for each in spellings} == {f"file://{tmp_path.resolve()}/x"}
    assert place_of("memory://a/x").location == place_of("memory:///a/x").location
    assert place_of("memory://a/x").location != place_of("memory://a/y").location


def test_a_move_that_fails_says_where_the_new_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = f"memory:/{tmp_path}/out"
    replaced(at, whole=b"before")
    files = fsspec.filesystem("memory")

    def refused(*_: Any, **__: Any) -> None:
        raise OSError("no more today")

    with monkeypatch.context() as broken:
        broken.setattr(type(files), "mv", refused)
        with pytest.raises(FilesUnavailable) as raised:
            replaced(at, whole=b"after")
    (note,) = raised.value.__notes__
    assert files.cat_file(note.rpartition(" ")[2]) == b"after"
