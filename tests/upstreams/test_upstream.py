"""Descriptions of upstreams: which are taken, and what is said of the others."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bandit_serve.base.http_address import HttpAddress
from bandit_serve.errors import Conflict, InvalidInput
from bandit_serve.upstreams.upstream import AllowedUpstreams, Upstream

ALLOWED = AllowedUpstreams(
    [HttpAddress.parse("http://models:8080/v1"), HttpAddress.parse("https://ml.example")]
)
URL = "http://models:8080/v1/m"


def upstream(**fields: Any) -> Upstream:
    return msgspec.convert({"url": URL, "protocol": "json", **fields}, Upstream)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"url": "http://MODELS:8080/v1"},
        {"url": "https://ml.example:443/a/b"},
        {"protocol": "open-inference", "model": "m.1"},
        {"timeout": "1ms"},
        {"timeout": "60s"},
        {"timeout": "1m"},
        {"headers": {"Authorization": "env:TOKEN", "x-tenant": "file:/run/secrets/tenant"}},
    ],
)
def test_what_is_taken(fields: dict[str, Any]) -> None:
    checked = ALLOWED.checked(upstream(**fields))
    assert checked.url == str(HttpAddress.parse(fields.get("url", URL)))
    assert ALLOWED.require(checked, "m v1") == checked.address


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"url": "http://models:8080"}, "remote.url"),
        ({"url": "http://models:8080/v1x"}, "remote.url"),
        ({"url": "http://models:8080/v1/../admin"}, "remote.url"),
        ({"url": "http://models:8080/v1/%2e%2e/admin"}, "remote.url"),
        ({"url": "http://models/v1"}, "remote.url"),
        ({"url": "http://ml.example"}, "remote.url"),
        ({"url": "https://ml.example.evil"}, "remote.url"),
        ({"url": "https://ml.example@evil"}, "remote.url"),
        ({"url": "http://169.254.169.254/latest"}, "remote.url"),
        ({"timeout": "0ms"}, "remote.timeout"),
        ({"timeout": "61s"}, "remote.timeout"),
        ({"model": "m"}, "remote.model"),
        ({"headers": {"Authorization": "Bearer secret"}}, "remote.headers.Authorization"),
        ({"headers": {"Authorization": "env:"}}, "remote.headers.Authorization"),
        ({"headers": {"Authorization": "env:A B"}}, "remote.headers.Authorization"),
        ({"headers": {"Authorization": "env:BANDIT_SERVE_STORE"}}, "remote.headers.Authorization"),
        ({"headers": {"Authorization": "file:relative"}}, "remote.headers.Authorization"),
        ({"headers": {"Authorization": "file:/x\r\ny: z"}}, "remote.headers.Authorization"),
        ({"headers": {"a b": "env:X"}}, "remote.headers"),
        ({"headers": {"a\r\nb": "env:X"}}, "remote.headers"),
        ({"headers": {"": "env:X"}}, "remote.headers"),
        ({"headers": {"ä": "env:X"}}, "remote.headers"),
        ({"headers": {"Host": "env:X"}}, "remote.headers.Host"),
        ({"headers": {"content-length": "env:X"}}, "remote.headers.content-length"),
        ({"headers": {"Transfer-Encoding": "env:X"}}, "remote.headers.Transfer-Encoding"),
        ({"headers": {"Proxy-Authorization": "env:X"}}, "remote.headers.Proxy-Authorization"),
        ({"headers": {"X-A": "env:X", "x-a": "env:Y"}}, "remote.headers.X-A"),
    ],
)
def test_what_is_refused_is_named(fields: dict[str, Any], at: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        ALLOWED.checked(upstream(**fields))
    assert refused.value.errors[0].at == at
    assert "secret" not in str(refused.value)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidInput) as refused:
        ALLOWED.checked(upstream(url="http://evil", timeout="9h", headers={"Host": "env:X"}))
    assert [error.at for error in refused.value.errors] == [
        "remote.url",
        "remote.timeout",
        "remote.headers.Host",
    ]


def test_none_is_allowed_unless_the_operator_says_so() -> None:
    none = AllowedUpstreams([])
    with pytest.raises(InvalidInput, match="no upstream is allowed"):
        none.checked(upstream())
    with pytest.raises(Conflict, match="m v1 is not below any address in the setting upstreams"):
        none.require(ALLOWED.checked(upstream()), "m v1")


@pytest.mark.parametrize("url", ["http://evil", "no address", "http://models:8080/v1/../x"])
def test_what_stands_in_a_registry_is_checked_again(url: str) -> None:
    with pytest.raises(Conflict):
        ALLOWED.require(msgspec.structs.replace(upstream(), url=url), "m v1")
