"""Snapshot files of a host: whole, private, bounded, of one store, and enough to start with."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from bandit_serve.log.offset import START, Offset
from bandit_serve.replication import local_snapshots as module
from bandit_serve.replication.local_snapshots import LocalSnapshots
from bandit_serve.store.keys import COMMON

ID = b"1" * 32
OTHER = b"2" * 32
AT = Offset(17, 3)


@pytest.fixture
def files(tmp_path: Path) -> LocalSnapshots:
    made = LocalSnapshots(tmp_path, "n")
    assert made.is_mine()
    made.write(ID, COMMON, AT, b"registry")
    made.write(ID, "e", AT, b"state")
    made.write_token_keys(ID, {0: b"secret"})
    return made


def test_what_is_written_is_read(tmp_path: Path, files: LocalSnapshots) -> None:
    local = LocalSnapshots(tmp_path, "n").read()
    assert local is not None
    assert local.identity == ID
    assert local.states == {COMMON: (AT, b"registry"), "e": (AT, b"state")}
    assert local.token_keys == {0: b"secret"}


def test_files_are_their_owners_alone(tmp_path: Path, files: LocalSnapshots) -> None:
    directory = tmp_path / "snapshots" / "n"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert len(list(directory.iterdir())) == 4
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_one_process_writes(tmp_path: Path, files: LocalSnapshots) -> None:
    other = LocalSnapshots(tmp_path, "n")
    assert not other.is_mine()
    assert files.is_mine()
    files.close()
    assert other.is_mine()
    other.close()


def test_nothing_without_a_registry_and_keys_of_one_store(tmp_path: Path) -> None:
    made = LocalSnapshots(tmp_path, "n")
    assert not made.exist()
    assert made.read() is None
    assert made.is_mine()
    made.write(ID, COMMON, START, b"registry")
    assert made.read() is None
    made.write_token_keys(OTHER, {0: b"secret"})
    assert made.read() is None
    made.write_token_keys(ID, {0: b"secret"})
    assert made.exist()
    assert made.read() is not None


def test_what_is_of_another_store_or_namespace_is_passed_over(tmp_path: Path, files: LocalSnapshots) -> None:
    files.write(OTHER, "f", AT, b"other")
    directory = tmp_path / "snapshots"
    os.rename(directory / "n", directory / "m")
    assert LocalSnapshots(tmp_path, "m").read() is None
    os.rename(directory / "m", directory / "n")
    local = files.read()
    assert local is not None
    assert set(local.states) == {COMMON, "e"}


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "renamed", "linked", "directory"])
def test_a_damaged_file_is_passed_over(tmp_path: Path, files: LocalSnapshots, damage: str) -> None:
    path = tmp_path / "snapshots" / "n" / "e.snapshot"
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "flipped":
        path.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "renamed":
        path.rename(path.with_name("f.snapshot"))
    elif damage == "linked":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.unlink()
        path.mkdir()
    local = files.read()
    assert local is not None
    assert set(local.states) == {COMMON}


def test_files_of_experiments_that_are_gone_are_swept(tmp_path: Path, files: LocalSnapshots) -> None:
    files.write(ID, "f", AT, b"state")
    half = tmp_path / "snapshots" / "n" / ".writing-1"
    half.touch()
    files.sweep(["f"])
    local = files.read()
    assert local is not None
    assert set(local.states) == {COMMON, "f"}
    assert not half.exists()


def test_their_size_is_bounded(files: LocalSnapshots, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 10_000)
    files.write(ID, "f", AT, bytes(8_000))
    with pytest.raises(OSError, match="more than 10000 bytes"):
        files.write(ID, "g", AT, bytes(8_000))
    files.write(ID, "f", AT, bytes(9_000))
    files.sweep([])
    files.write(ID, "g", AT, bytes(8_000))
    local = files.read()
    assert local is not None
    assert set(local.states) == {COMMON, "g"}
