"""Passwords that this process knows, and texts without them: the one place that strips them.

A library's error may quote a whole URL, a piece of it, or a header made from it. So what is kept is not how a URL is
written but the secret pieces themselves, as they stand in it and decoded.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, unquote

MASK = "***"
# Shorter ones would blank out ordinary words, and are no secrets.
LEAST_CHARACTERS = 3

_url = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^?#]*)((?:[?#].*)?)", re.DOTALL)
_secret_name = re.compile(r"pass|secret|token|key|sig|cred|auth", re.IGNORECASE)
_secrets: set[str] = set()


def know_secrets_of(*urls: str | None) -> None:
    """Takes note of the passwords, keys and tokens in URLs: from now on `concealed` hides them."""
    for url in urls:
        for piece in () if url is None else _pieces(url):
            spellings = {piece, unquote(piece), quote(unquote(piece), safe="")}
            _secrets.update(each for each in spellings if len(each) >= LEAST_CHARACTERS)


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
    place = found[2].rpartition("@")[2]
    return f"{url[: found.start()]}{found[1]}{place}{f'?{MASK}' if found[3] else ''}"


def _pieces(url: str) -> list[str]:
    found = _url.search(url)
    if found is None:
        return []
    user, at, _ = found[2].rpartition("@")
    name, colon, password = user.partition(":")
    pieces = ([password] if colon else [name]) if at else []
    query = parse_qsl(found[3].lstrip("?#"), keep_blank_values=True)
    return pieces + [value for name, value in query if _secret_name.search(name)]
