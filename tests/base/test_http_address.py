"""HTTP addresses: what is one, its canonical form, and what lies below another."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from bandit_serve.base.http_address import HttpAddress

CANONICAL = {
    "http://a": "http://a",
    "HTTP://Models.Internal:80/V1/x": "http://models.internal/V1/x",
    "https://a:443/": "https://a/",
    "https://a:80": "https://a:80",
    "http://a:8080/m/predict/": "http://a:8080/m/predict/",
    "http://under_score:1/x": "http://under_score:1/x",
    "http://127.0.0.1:9/x": "http://127.0.0.1:9/x",
    "http://[::1]:9/x": "http://[::1]:9/x",
    "http://[0:0:0:0:0:0:0:1]/x": "http://[::1]/x",
    "http://[2001:DB8::0:1]": "http://[2001:db8::1]",
    "http://a/m%6fdels/%7Ex": "http://a/models/~x",
    "http://a/x.y_z~1!$&'()*+=:2": "http://a/x.y_z~1!$&'()*+=:2",
    "http://a/...": "http://a/...",
}

NO_ADDRESS = [
    "",
    "a",
    "//a",
    "ftp://a",
    "file:///etc/passwd",
    "http:",
    "http://",
    "http:///x",
    "http:/a",
    "http:a",
    "http://a b",
    " http://a",
    "http://a\n",
    "http://a/x\n",
    "http://a\t/x",
    "http://user@a",
    "http://user:password@a/x",
    "http://a@b.evil/x",
    "http://a:80@b.evil",
    "http://a\\@b.evil",
    "http://a\\.b.evil",
    "http://a/@b",
    "http://a%00.evil",
    "http://a%2eb",
    "http://a%40b",
    "http://a?x",
    "http://a/x?token=1",
    "http://a/x#f",
    "http://a#@b.evil",
    "http://a/..",
    "http://a/../x",
    "http://a/./x",
    "http://a/%2e%2e/x",
    "http://a/%2E./x",
    "http://a/.%2e",
    "http://a/x%2f..%2fy",
    "http://a/x%5c..",
    "http://a/x\\..",
    "http://a/%252e%252e/x",
    "http://a/x%00",
    "http://a/x%0d%0aHost:b",
    "http://a/%20",
    "http://a/x%3fy",
    "http://a/x%23",
    "http://a/x;y",
    "http://a/x%3by",
    "http://a//x",
    "http://a/x//",
    "http://a/%zz",
    "http://a/%2",
    "http://a/ä",
    "http://a/%c3%a4",
    "http://ä",
    "http://a..b",
    "http://.a",
    "http://a.",
    "http://-a",
    "http://a-",
    "http://" + "a" * 64,
    "http://" + "a." * 127 + "a",
    "http://a:",
    "http://a:/x",
    "http://a:0",
    "http://a:65536",
    "http://a:080000",
    "http://a:-1",
    "http://a:8o",
    "http://[::1",
    "http://::1",
    "http://[::1]]",
    "http://[::1%25eth0]/x",
    "http://[::1%eth0]",
    "http://[v1.x]",
    "http://[127.0.0.1]",
    "http://127.1",
    "http://2130706433",
    "http://0x7f000001",
    "http://0x7f.0.0.1",
    "http://0177.0.0.1",
    "http://127.0.0.01",
    "http://1.2.3.4.5",
    "http://127.0.0.256",
    "http://a.1",
    "http://a.0x",
    "http://a/" + "x" * 2_048,
]


@pytest.mark.parametrize(("text", "canonical"), CANONICAL.items())
def test_the_canonical_form(text: str, canonical: str) -> None:
    address = HttpAddress.parse(text)
    assert str(address) == canonical
    assert HttpAddress.parse(canonical) == address


@pytest.mark.parametrize("text", NO_ADDRESS)
def test_what_may_be_read_in_two_ways_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        HttpAddress.parse(text)


BELOW = [
    ("http://a", "http://a"),
    ("http://a", "http://a/"),
    ("http://a", "http://a/x/y"),
    ("http://a/", "http://a/x"),
    ("http://a/", "http://a"),
    ("http://a/x", "http://a/x"),
    ("http://a/x", "http://a/x/"),
    ("http://a/x/", "http://a/x/y"),
    ("http://A:80/x", "http://a/x"),
    ("http://a/%78", "http://a/x/y"),
    ("https://a:443", "https://a/x"),
    ("http://[::1]", "http://[0:0::1]:80/x"),
]
NOT_BELOW = [
    ("http://a", "https://a"),
    ("https://a", "http://a"),
    ("http://a", "http://a:8080"),
    ("http://a:8080", "http://a"),
    ("https://a", "https://a:444"),
    ("http://a.b", "http://a.b.evil"),
    ("http://a.b", "http://xa.b"),
    ("http://a.b", "http://b"),
    ("http://a.b", "http://a"),
    ("http://a:80", "http://a:8"),
    ("http://a:8", "http://a:80"),
    ("http://a/models", "http://a"),
    ("http://a/models", "http://a/model"),
    ("http://a/models", "http://a/models2"),
    ("http://a/models", "http://a/Models"),
    ("http://a/models", "http://a/x/models"),
    ("http://a/x/y", "http://a/x"),
    ("http://127.0.0.1", "http://localhost"),
    ("http://127.0.0.1", "http://[::ffff:127.0.0.1]"),
    ("http://[::1]", "http://127.0.0.1"),
    ("http://[::1]", "http://[::2]"),
]


@pytest.mark.parametrize(("prefix", "address"), BELOW)
def test_an_address_lies_below_another(prefix: str, address: str) -> None:
    assert HttpAddress.parse(prefix).covers(HttpAddress.parse(address))


@pytest.mark.parametrize(("prefix", "address"), NOT_BELOW)
def test_an_address_that_only_looks_like_it_does_not(prefix: str, address: str) -> None:
    assert not HttpAddress.parse(prefix).covers(HttpAddress.parse(address))


def test_further_segments_are_below_an_address() -> None:
    for base in ("http://a", "http://a/"):
        assert HttpAddress.parse(base).below("v2", "models") == "http://a/v2/models"
    base = HttpAddress.parse("http://a/x/")
    assert base.below("v2") == "http://a/x/v2"
    assert base.covers(HttpAddress.parse(base.below("v2", "models", "m.1", "infer")))


TEXTS = st.text(
    st.sampled_from(string.ascii_letters + string.digits + ":/@\\.%?#[]-_;,&~ \t\n\r\x00é"), max_size=30
)


@given(TEXTS)
def test_what_is_sent_goes_where_the_address_says(rest: str) -> None:
    """The client's own reading of the canonical form is the same, so what was checked is what is called."""
    try:
        address = HttpAddress.parse(f"http://{rest}")
    except ValueError:
        return
    read = URL(str(address), encoded=True)
    assert (read.scheme, read.port) == (address.scheme, address.port)
    assert read.raw_host == address.host.strip("[]")
    assert (read.user, read.password, read.query_string, read.fragment) == (None, None, "", "")
    assert [part for part in read.path.split("/") if part] == list(address.segments)
    assert URL(str(address)).raw_path == read.raw_path
