"""Forms of a request's body and of its answer, as its headers say: JSON or MessagePack (RFC 9110, 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from aiohttp import hdrs
from msgspec import Struct

JSON, MSGPACK = "application/json", "application/msgpack"
JSON_NAMES = frozenset({JSON})
MSGPACK_NAMES = frozenset({MSGPACK, "application/x-msgpack", "application/vnd.msgpack"})


class WireForm(Struct, frozen=True):
    """Forms of one request.

    `content_type` is what was said of the body, "" for nothing; `media` is its media type, without parameters.
    `is_msgpack` says that the answer is MessagePack.
    """

    content_type: str
    media: str
    is_msgpack: bool


def form_of(headers: Mapping[str, str]) -> WireForm:
    """Forms of a request with these headers."""
    return _form_of(headers.get(hdrs.CONTENT_TYPE), headers.get(hdrs.ACCEPT))


def wants_msgpack(headers: Mapping[str, str]) -> bool:
    """Whether the answer to a request with these headers is MessagePack."""
    return form_of(headers).is_msgpack


@lru_cache(64)
def _form_of(content_type: str | None, accept: str | None) -> WireForm:
    """Forms by the two headers. Without an `Accept`, the answer has the form of the body."""
    came_as_msgpack = "msgpack" in (content_type or JSON)
    is_msgpack = came_as_msgpack if accept is None else prefers_msgpack(accept, came_as_msgpack)
    return WireForm(content_type or "", essence(content_type or ""), is_msgpack)


def prefers_msgpack(accept: str, came_as_msgpack: bool) -> bool:
    """Whether the answer is MessagePack, by the request's `Accept`.

    The higher q wins; of equal ones, the form that comes first. If `Accept` has neither form, or both in one range, the
    answer has the form of the request.
    """
    json, msgpack = (_preference(accept, names) for names in (JSON_NAMES, MSGPACK_NAMES))
    if json.q != msgpack.q:
        return msgpack.q > json.q
    if json.q == 0.0 or json.place == msgpack.place:
        return came_as_msgpack
    return msgpack.place < json.place


class _Preference(NamedTuple):
    """Preference for a form: its q by the most specific matching range, and the place of that range in the list."""

    q: float = 0.0
    place: int = 0


def _preference(accept: str, names: frozenset[str]) -> _Preference:
    preferences: dict[int, _Preference] = {}
    for place, text in enumerate(accept.lower().split(",")):
        media, *parameters = (part.strip() for part in text.split(";"))
        specific = 2 if media in names else {"application/*": 1, "*/*": 0}.get(media)
        if specific is not None:
            q = next((_q(p[2:]) for p in parameters if p.startswith("q=")), 1.0)
            preferences.setdefault(specific, _Preference(q, place))
    return preferences[max(preferences)] if preferences else _Preference()


def _q(text: str) -> float:
    """Value of a q; 1 if it is no number from 0 to 1."""
    return float(text) if re.fullmatch(r"[01](\.\d{0,3})?", text) and float(text) <= 1.0 else 1.0


def essence(content_type: str) -> str:
    """Media type without its parameters."""
    return content_type.partition(";")[0].strip().lower()
