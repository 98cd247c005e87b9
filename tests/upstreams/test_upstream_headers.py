"""Values of headers for upstreams: from where, which can be sent, and that none is shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bandit_serve.base import secrets
from bandit_serve.base.secrets import concealed
from bandit_serve.errors import UpstreamFailed, in_full
from bandit_serve.upstreams.headers import MAX_VALUE_BYTES, header_values


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_secrets", set())


def test_values_come_from_variables_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_M", "Bearer abc-def-ghi")
    file = tmp_path / "secret"
    for end in (b"", b"\n", b"\r\n"):
        file.write_bytes(b"t0k3n:with:colons" + end)
        values = header_values({"Authorization": "env:TOKEN_OF_M", "X-Key": f"file:{file}"}, "m v1")
        assert values == {"Authorization": "Bearer abc-def-ghi", "X-Key": "t0k3n:with:colons"}


def test_values_are_concealed_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_M", "Bearer abc-def-ghi")
    header_values({"Authorization": "env:TOKEN_OF_M"}, "m v1")
    for text in ("Authorization: Bearer abc-def-ghi", "token=abc-def-ghi", "{'a': 'Bearer abc-def-ghi'}"):
        assert "abc-def" not in concealed(text)


@pytest.mark.parametrize(
    "value",
    [
        b"a\r\nX-Injected: 1",
        b"a\nb",
        b"a\rb",
        b"a\x00b",
        b"a\x7fb",
        b" a",
        b"a ",
        b"\t",
        "ä".encode(),
        b"\xff",
        b"",
    ],
)
def test_a_value_that_is_no_line_is_not_sent(value: bytes, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(value)
    with pytest.raises(UpstreamFailed, match="The header X-Key of m v1 can not be sent") as refused:
        header_values({"X-Key": f"file:{file}"}, "m v1")
    assert not value or value.decode("latin-1") not in in_full(refused.value)
    assert str(file) not in str(refused.value), "answers name no path of ours"


def test_a_value_that_is_too_long_is_not_sent(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"x" * MAX_VALUE_BYTES)
    assert len(header_values({"X": f"file:{file}"}, "m v1")["X"]) == MAX_VALUE_BYTES
    file.write_bytes(b"x" * (MAX_VALUE_BYTES + 1))
    with pytest.raises(UpstreamFailed):
        header_values({"X": f"file:{file}"}, "m v1")


@pytest.mark.parametrize("source", ["env:NOT_SET_ANYWHERE", "file:/not/there", "file:/"])
def test_a_value_that_is_not_there_is_said_to_the_operator(source: str) -> None:
    with pytest.raises(UpstreamFailed, match=r"The header X of m v1 has no value here\.") as refused:
        header_values({"X": source}, "m v1")
    assert source.partition(":")[2] in in_full(refused.value)


def refusal(path: Path) -> str:
    with pytest.raises(UpstreamFailed) as refused:
        header_values({"X": f"file:{path}"}, "m v1")
    return in_full(refused.value)


@pytest.mark.timeout(20)
def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """A pipe would be waited for, and a device may never end."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), Path("/dev/tty"), tmp_path):
        assert "has no value here" in refusal(path)
    assert "is no regular file" in refusal(pipe)


def test_a_file_that_others_may_say_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, link = tmp_path / "secret", tmp_path / "link"
    file.write_bytes(b"abc-def-ghi")
    link.symlink_to(file)
    file.chmod(0o646)
    assert "is writable for everybody" in refusal(link)
    file.chmod(0o640)
    assert header_values({"X": f"file:{link}"}, "m v1") == {"X": "abc-def-ghi"}
    owner = file.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    if owner != 0:
        assert "is of another user" in refusal(file)
    else:
        os.chown(file, 65_534, -1)
        assert "is of another user" in refusal(file)
