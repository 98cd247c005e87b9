"""Bodies: read with a limit and a time-out, as JSON or MessagePack in and out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import msgspec
from aiohttp import hdrs, web

from bandit_serve.errors import InvalidInput, TooLarge, UnsupportedMedia
from bandit_serve.server.arrival import arriving
from bandit_serve.validation import invalid

T = TypeVar("T")

JSON, MSGPACK = "application/json", "application/msgpack"
# What a browser lets a page of another site send without asking us first.
SENT_BY_ANY_PAGE = frozenset({"text/plain", "application/x-www-form-urlencoded", "multipart/form-data"})
JSON_HEADERS = {"Content-Type": JSON}

encode_json = msgspec.json.Encoder().encode
encode_msgpack = msgspec.msgpack.Encoder().encode


class Reply(NamedTuple):
    """A 200 with its body."""

    body: bytes
    content_type: str


class Body(Generic[T]):
    """What one route takes: decodes to `kind`, from JSON and, where the contract says so, from MessagePack."""

    def __init__(
        self, kind: type[T], *, timeout_s: float, msgpack: bool = False, optional: bool = False
    ) -> None:
        self.kind = kind
        self.msgpack = msgpack
        self.optional = optional
        self._timeout_s = timeout_s
        self._json = msgspec.json.Decoder(kind).decode
        self._msgpack = msgspec.msgpack.Decoder(kind).decode

    async def read(self, request: web.Request) -> T:
        """`InvalidInput` that names the field, `UnsupportedMedia`, `TooLarge`, or `TooSlow`."""
        return self.decode(request.headers, await read_bytes(request, self._timeout_s))

    def decode(self, headers: Mapping[str, str], body: bytes) -> T:
        """`InvalidInput` that names the field, or `UnsupportedMedia`."""
        content_type = headers.get(hdrs.CONTENT_TYPE, "")
        essence = content_type if content_type == JSON else _essence(content_type)
        if not body and self.optional and essence not in SENT_BY_ANY_PAGE:
            body, essence = b"{}", JSON
        try:
            if essence == JSON:
                return self._json(body)
            if self.msgpack and essence == MSGPACK:
                return self._msgpack(body)
        except msgspec.ValidationError as error:
            raise invalid(error) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInput(f"The body can not be read: {_sentence(str(error))}") from None
        spoken = f"{JSON} or {MSGPACK}" if self.msgpack else JSON
        found = f"not {content_type[:80]!r}" if content_type else "and there is none"
        raise UnsupportedMedia(f"Expected a Content-Type of {spoken}, {found}.")


class Entries(Generic[T]):
    """The entries of a batch that is not valid as a whole, each read alone: one refusal costs the others nothing.

    `field` is the batch's only field, a list of at most `most` of `kind`.
    """

    def __init__(self, kind: type[T], field: str, most: int) -> None:
        self._field = field
        many = Annotated[list[msgspec.Raw], msgspec.Meta(max_length=most)]
        batch = msgspec.defstruct("Batch", [(field, many)], forbid_unknown_fields=True)
        self._read = {
            JSON: (msgspec.json.Decoder(batch).decode, msgspec.json.Decoder(kind).decode),
            MSGPACK: (msgspec.msgpack.Decoder(batch).decode, msgspec.msgpack.Decoder(kind).decode),
        }

    def after(self, error: InvalidInput, headers: Mapping[str, str], body: bytes) -> list[T | InvalidInput]:
        """Each entry or what is wrong with it; raises `error`, for which the batch was refused, if it is none."""
        form = self._read.get(_essence(headers.get(hdrs.CONTENT_TYPE, "")))
        if form is None:
            raise error
        decode_batch, decode = form
        try:
            raws: list[msgspec.Raw] = getattr(decode_batch(body), self._field)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise error from None
        return [_read_entry(decode, raw) for raw in raws]


def _read_entry(decode: Callable[[msgspec.Raw], T], raw: msgspec.Raw) -> T | InvalidInput:
    try:
        return decode(raw)
    except msgspec.ValidationError as error:
        return invalid(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return InvalidInput(f"The entry can not be read: {_sentence(str(error))}")


async def read_bytes(request: web.Request, timeout_s: float) -> bytes:
    """The whole body. One that is here already costs no timer."""
    if request.content.is_eof() and request.content.exception() is None:
        return await request.read()
    if (request.content_length or 0) > request.client_max_size:
        raise TooLarge("The request's body is larger than this service accepts.")
    async with arriving(timeout_s):
        return await request.read()


def answer(request: web.Request, content: Any, status: int = 200, etag: int | None = None) -> web.Response:
    """`content` as JSON, with its revision as its ETag."""
    headers = JSON_HEADERS if etag is None else {"Content-Type": JSON, "ETag": f'"{etag}"'}
    return web.Response(status=status, body=encode_json(content), headers=headers)


def negotiated(headers: Mapping[str, str], content: Any) -> Reply:
    """`content` in the form that `Accept` asks for; without a wish, in the form of the request."""
    accept = headers.get(hdrs.ACCEPT)
    if accept is None or accept == "*/*" or ("json" not in accept and "msgpack" not in accept):
        wanted = headers.get(hdrs.CONTENT_TYPE, JSON)
    else:
        wanted = accept
    if "msgpack" in wanted and not ("json" in wanted and wanted.index("json") < wanted.index("msgpack")):
        return Reply(encode_msgpack(content), MSGPACK)
    return Reply(encode_json(content), JSON)


def revision(request: web.Request) -> int | None:
    """The revision that `If-Match` names; None where any will do; −1, which none has, where it is not ours."""
    header = request.headers.get("If-Match")
    if header is None or header.strip() == "*":
        return None
    text = header.strip().removeprefix("W/").strip('"')
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1


def actor(request: web.Request) -> str:
    """Who is asking, for the history."""
    return f"http:{request.remote or 'unix'}"


def _essence(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."
