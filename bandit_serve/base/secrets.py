"""Passwords that this process knows, and texts without them: the one place that strips them.

A library's error may quote a whole URL, a piece of it, or a header made from it. So what is kept is not how a URL is
written but the secret pieces themselves, as they stand in it and decoded.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, unquote_plus

MASK = "***"
# Shorter ones would blank out ordinary words, and are no secrets.
MIN_SECRET_CHARS = 3

_url = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^?#]*)((?:[?#].*)?)", re.DOTALL)
_ends = re.compile(r"[/?#]")
_secret_name = re.compile(r"pass|secret|token|key|sig|cred|auth", re.IGNORECASE)
_secrets: set[str] = set()


def know_secrets_of(*urls: str | None) -> None:
    """Takes note of the passwords, keys and tokens in URLs: from now on `concealed` hides them."""
    for url in urls:
        for piece in () if url is None else _pieces(url):
            spellings = {piece, unquote(piece), quote(unquote(piece), safe="")}
            _secrets.update(each for each in spellings if len(each) >= MIN_SECRET_CHARS)


def concealed(text: str) -> str:
    """`text` without the secrets that are known. For errors and logs: data may hold the same letters by chance."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def shown_url(url: str) -> str:
    """A URL without user, password and query; where it is malformed, any piece may be of the password."""
    found = _url.search(url)
    if found is None:
        return MASK if "@" in url else url
    before, place, query = f"{url[: found.start()]}{found[1]}", found[2].rpartition("@")[2], found[3]
    # A password as it was typed may have a ? or # in it, and then the place comes after that.
    return before + (MASK if "@" in query else f"{place}?{MASK}" if query else place)


def _pieces(url: str) -> set[str]:
    found = _url.search(url)
    if found is None:
        return set()
    pieces = set()
    for rest in (found[2], found[2] + found[3]):
        user, at, _ = rest.rpartition("@")
        name, colon, password = user.partition(":")
        pieces.add((password if colon else name) if at else "")
        # Whoever reads it as a URL takes what comes first for a port, and the rest for a path.
        parts = _ends.split(password)
        if not parts[0].isdigit():
            pieces.update(parts)
    for field in _ends.sub("&", found[3]).split("&"):
        name, _, value = field.partition("=")
        if _secret_name.search(unquote_plus(name)):
            pieces.update((value, unquote_plus(value)))
    return pieces
