"""Headers of proxies: believed from those that the settings name, and from nobody else."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_calls import check_problem, experiment, running
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from raw_http import post, send_all
from services import ThrowawayService
from stores import wait_until

from bandit_serve.errors import UsageError
from bandit_serve.server.forwarded import MAX_FORWARDED_CHARS, NOTHING, Forwarded, Proxies
from bandit_serve.settings import Settings, load_settings

PROXY, EDGE, CLIENT, FORGED = "10.0.0.1", "10.9.9.9", "203.0.113.7", "198.51.100.66"
PROXIES = Proxies(Settings(forwarded_allow="10.0.0.0/8,2001:db8::1"))


def read(*lines: tuple[str, str], peer: str | None = PROXY) -> Forwarded:
    return PROXIES.read(peer, CIMultiDictProxy(CIMultiDict(lines)))


READINGS = {
    "no header": ([], NOTHING),
    "one hop": ([("X-Forwarded-For", CLIENT)], Forwarded(CLIENT)),
    "what the caller wrote first": ([("X-Forwarded-For", f"{FORGED}, {CLIENT}")], Forwarded(CLIENT)),
    "in a line of its own": ([("X-Forwarded-For", FORGED), ("X-Forwarded-For", CLIENT)], Forwarded(CLIENT)),
    "two proxies": ([("X-Forwarded-For", f"{FORGED}, {CLIENT}, {EDGE}")], Forwarded(CLIENT)),
    "proxies only": ([("X-Forwarded-For", f"10.1.1.1, {EDGE}")], Forwarded("10.1.1.1")),
    "a port": ([("X-Forwarded-For", f"{CLIENT}:4711")], Forwarded(CLIENT)),
    "IPv6": ([("X-Forwarded-For", "2001:DB8:0::2")], Forwarded("2001:db8::2")),
    "IPv6 with a port": ([("X-Forwarded-For", "[2001:db8::2]:4711")], Forwarded("2001:db8::2")),
    "IPv4 within IPv6": ([("X-Forwarded-For", f"{CLIENT}, ::ffff:{EDGE}")], Forwarded(CLIENT)),
    "no address": ([("X-Forwarded-For", f"{FORGED}, unknown")], NOTHING),
    "no address before a proxy": ([("X-Forwarded-For", f"{FORGED}, <script>, {EDGE}")], Forwarded(EDGE)),
    "scheme and host": (
        [
            ("X-Forwarded-For", CLIENT),
            ("X-Forwarded-Proto", "HTTPS"),
            ("X-Forwarded-Host", "shop.example:8443"),
        ],
        Forwarded(CLIENT, "https", "shop.example:8443"),
    ),
    "one scheme for two hops": (
        [("X-Forwarded-For", f"{CLIENT}, {EDGE}"), ("X-Forwarded-Proto", "https")],
        Forwarded(CLIENT, "https"),
    ),
    "the client's of two schemes": (
        [("X-Forwarded-For", f"{CLIENT}, {EDGE}"), ("X-Forwarded-Proto", "https, http")],
        Forwarded(CLIENT, "https"),
    ),
    "not the one that the caller wrote": (
        [("X-Forwarded-For", f"{FORGED}, {CLIENT}"), ("X-Forwarded-Proto", "https, http")],
        Forwarded(CLIENT, "http"),
    ),
    "scheme and host alone": (
        [("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "shop.example")],
        Forwarded(None, "https", "shop.example"),
    ),
    "another scheme": ([("X-Forwarded-For", CLIENT), ("X-Forwarded-Proto", "javascript")], Forwarded(CLIENT)),
    "no host": ([("X-Forwarded-For", CLIENT), ("X-Forwarded-Host", "a b/c")], Forwarded(CLIENT)),
    "RFC 7239": (
        [("Forwarded", f'for={FORGED};proto=http, For="{CLIENT}:80"; proto=https;host="shop.example:8443"')],
        Forwarded(CLIENT, "https", "shop.example:8443"),
    ),
    "RFC 7239, IPv6": ([("Forwarded", 'for="[2001:db8::2]:4711"')], Forwarded("2001:db8::2")),
    "RFC 7239, two proxies": (
        [("Forwarded", f"for={CLIENT};proto=https"), ("Forwarded", f"for={EDGE};by={PROXY}")],
        Forwarded(CLIENT, "https"),
    ),
    "RFC 7239, hidden": ([("Forwarded", f"for={FORGED}, for=_hidden;proto=https")], Forwarded(None, "https")),
    "RFC 7239, a comma in quotes": ([("Forwarded", f'for="{FORGED},for={CLIENT}"')], NOTHING),
    "RFC 7239, a quote left open": ([("Forwarded", f'for={CLIENT}, for="{FORGED}')], NOTHING),
    "RFC 7239, twice": ([("Forwarded", f"for={FORGED};for={CLIENT}")], NOTHING),
    "both agree": (
        [("Forwarded", f"for={CLIENT};proto=https"), ("X-Forwarded-For", CLIENT), ("X-Forwarded-Host", "a")],
        Forwarded(CLIENT, "https", "a"),
    ),
    "both disagree": ([("Forwarded", f"for={FORGED};host=evil.test"), ("X-Forwarded-For", CLIENT)], NOTHING),
    "long": ([("X-Forwarded-For", f"{FORGED}, " * 9_000 + CLIENT)], Forwarded(CLIENT)),
    "long, one element": ([("X-Forwarded-For", "1" * 90_000)], NOTHING),
    "RFC 7239, long": ([("Forwarded", f"for={FORGED}, " * 9_000 + f"for={CLIENT}")], NOTHING),
}


@pytest.mark.parametrize("name", READINGS)
def test_what_is_read(name: str) -> None:
    lines, expected = READINGS[name]
    assert read(*lines) == expected
    assert read(*lines, peer="192.0.2.1") == NOTHING
    assert read(*lines, peer=None) == NOTHING
    assert read(*lines, peer="2001:db8::1%eth0") == expected
    assert read(*lines, peer=f"::ffff:{PROXY}") == expected


LISTS = st.text(
    st.sampled_from(f'{CLIENT}{EDGE}[]:;,="\\ \t=forprothsbyFÄ\x7f\x00') | st.characters(codec="latin-1"),
    max_size=200,
) | st.lists(st.sampled_from([CLIENT, EDGE, FORGED, "unknown", "", "[::1]:9", "for=" + CLIENT])).map(
    ", ".join
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded"]), LISTS
        ),
        max_size=6,
    )
)
@example([("Forwarded", 'for="' + "\\" * 2_000)])
@example([("Forwarded", "a=" * (MAX_FORWARDED_CHARS // 2))])
def test_no_header_raises_or_says_what_is_no_client(lines: list[tuple[str, str]]) -> None:
    said = read(*lines)
    assert said.client is None or str(ipaddress.ip_address(said.client)) == said.client
    assert said.proto in (None, "http", "https")
    assert said.host is None or set(said.host) <= set("[]:.-_") | set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    )


@given(LISTS)
def test_what_a_caller_wrote_before_the_proxy_changes_nothing(written: str) -> None:
    assert read(("X-Forwarded-For", written), ("X-Forwarded-For", CLIENT)).client == CLIENT
    assert read(("X-Forwarded-For", written + "," + CLIENT)).client == CLIENT


@pytest.mark.parametrize("value", ["10.0.0.0/33", "10.0.0.1/8", "1.2.3", "fe80::/129", "10.0.0.1,"])
def test_what_is_no_network_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match="forwarded_allow"):
        load_settings({"forwarded_allow": value}, environ={})


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    """A service that believes a proxy on this machine, by its name, and logs each request."""
    flags = ("--forwarded-allow", "localhost", "--allowed-hosts", "shop.example", "--access-log")
    with ThrowawayService(tmp_path_factory.mktemp("data"), *flags) as running:
        yield running


def test_the_log_and_the_history_name_the_client(service: ThrowawayService) -> None:
    body = experiment()
    headers = {"X-Forwarded-For": f"{FORGED}, {CLIENT}"}
    assert service.call("POST", "/v1/experiments", body, headers).status == 201
    wait_until(lambda: any(f'{CLIENT} "POST /v1/experiments' in line for line in service.output))
    history = service.call("GET", f"/v1/experiments/{body['id']}/history").body
    assert f"http:{CLIENT}" in str(history)
    assert not [line for line in service.output if FORGED in line]


def test_a_page_is_of_the_host_that_the_proxy_says(service: ThrowawayService) -> None:
    page = {"Origin": "https://shop.example", "Sec-Fetch-Site": "same-origin"}
    check_problem(service.call("GET", "/v1/stats", None, page), 403)
    through = {**page, "X-Forwarded-Host": "shop.example", "X-Forwarded-Proto": "https"}
    assert service.call("GET", "/v1/stats", None, through).status == 200
    described = service.call("GET", "/openapi.json", None, through).body
    assert described["servers"] == [{"url": "https://shop.example"}]
    evil = {"Host": "evil.test", "X-Forwarded-Host": "shop.example"}
    check_problem(service.call("GET", "/v1/stats", None, evil), 403)


def test_without_a_proxy_the_description_names_the_address(service: ThrowawayService) -> None:
    assert service.call("GET", "/openapi.json").body["servers"] == [{"url": service.url}]


@pytest.mark.parametrize("believed", [True, False])
def test_the_lane_heeds_the_host_of_a_proxy(tmp_path: Path, believed: bool) -> None:
    import asyncio

    flags = ("--forwarded-allow", "127.0.0.0/8" if believed else "192.0.2.0/24")
    with ThrowawayService(tmp_path, *flags) as service:
        path = f"/v1/experiments/{running(service)}/decide"
        lines = ["X-Forwarded-Host: localhost", "X-Forwarded-Host: evil.test", "Forwarded: host=evil.test"]
        statuses: dict[bytes, int] = {}
        requests = [post(path, {"unit": "u"}, line, "X-Forwarded-For: 1.2.3.4") for line in lines]

        def note(request: bytes, answer: object) -> None:
            assert answer is not None
            statuses[request] = answer.status  # type: ignore[attr-defined]

        asyncio.run(send_all(service.port, lambda i: requests[i % 3], 60, note, in_flight=1))
        # The last names another client than the others, so that none is believed.
        expected = [200, 403, 200] if believed else [200, 200, 200]
        assert [statuses[request] for request in requests] == expected
        alone = post(path, {"unit": "u"}, "Forwarded: for=1.2.3.4;host=evil.test")
        asyncio.run(send_all(service.port, lambda i: alone, 2, note, in_flight=1))
        assert statuses[alone] == (403 if believed else 200)
