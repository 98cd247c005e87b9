"""Passwords that this process knows, and their removal from text. No other module strips secrets.

A library's error may quote a whole URL, a piece of it, or a header made from it. So what is remembered is each secret
piece of a URL, in its encoded and its decoded spelling, and not the URL.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, unquote_plus

MASK = "***"
# Shorter pieces would blank out ordinary words.
MIN_SECRET_CHARS = 3
# Of a header's value, whose first word is often the name of a scheme.
MIN_WORD_CHARS = 8

_url = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^?#]*)((?:[?#].*)?)", re.DOTALL)
_ends = re.compile(r"[/?#]")
_secret_name = re.compile(r"pass|secret|token|key|sig|cred|auth", re.IGNORECASE)
# A caller's key (`registry/api_keys.py`), which may stand where none belongs, as in a query. Its id is no secret.
_key = re.compile(r"(bsk_[a-z2-7]{16}_)[A-Za-z0-9_-]{43}")
_secrets: set[str] = set()


def know_secrets_of(*urls: str | None) -> None:
    """Remembers the passwords, keys and tokens in URLs: from now on `concealed` hides them."""
    for url in urls:
        for piece in () if url is None else _pieces(url):
            spellings = {piece, unquote(piece), quote(unquote(piece), safe="")}
            _secrets.update(each for each in spellings if len(each) >= MIN_SECRET_CHARS)


def know_secrets(*values: str) -> None:
    """Remembers values that are secrets, each as a whole and by its words, as in `Bearer TOKEN`."""
    for value in values:
        _secrets.update(each for each in value.split(" ") if len(each) >= MIN_WORD_CHARS)
        if len(value) >= MIN_SECRET_CHARS:
            _secrets.add(value)


def concealed(text: str) -> str:
    """Masks the known secrets in `text`, and callers' keys.

    For errors and logs only: in data, the same letters may occur by chance.
    """
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _key.sub(rf"\1{MASK}", text)


def shown_url(url: str) -> str:
    """Strips user, password and query from a URL. In a malformed one any piece may belong to the password, and goes."""
    match = _url.search(url)
    if match is None:
        return MASK if "@" in url else url
    before, place, query = f"{url[: match.start()]}{match[1]}", match[2].rpartition("@")[2], match[3]
    # An unencoded password may contain ? or #, and then the host comes after it.
    return before + (MASK if "@" in query else f"{place}?{MASK}" if query else place)


def shown_place(place: str) -> str:
    """Path as it is, or a URL without user, password and query."""
    return shown_url(place) if "://" in place else place


def _pieces(url: str) -> set[str]:
    match = _url.search(url)
    if match is None:
        return set()
    pieces = set()
    for rest in (match[2], match[2] + match[3]):
        user, at, _ = rest.rpartition("@")
        name, colon, password = user.partition(":")
        pieces.add((password if colon else name) if at else "")
        # A URL parser takes the first part for a port and the rest for a path, and may quote either.
        parts = _ends.split(password)
        if not parts[0].isdigit():
            pieces.update(parts)
    for field in _ends.sub("&", match[3]).split("&"):
        name, _, value = field.partition("=")
        if _secret_name.search(unquote_plus(name)):
            pieces.update((value, unquote_plus(value)))
    return pieces
