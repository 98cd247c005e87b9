"""Values of headers for upstreams: from where, which can be sent, and that none is shown."""

from __future__ import annotations

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
