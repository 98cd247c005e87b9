"""Bodies of requests and answers: JSON or MessagePack, read with a size limit and a time-out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, cast

import msgspec
from aiohttp import hdrs, web
from multidict import istr

from bandit_serve.base.filled import Fill
from bandit_serve.base.mistakes import MAX_MISTAKES
from bandit_serve.base.nesting import TOO_DEEP, nesting_error, nesting_error_of_json
from bandit_serve.base.request_tags import REQUEST_ID, TRACEPARENT, TRACESTATE, RequestTags, request_tags
from bandit_serve.base.turns import Turn
from bandit_serve.base.validation import FindMistakes, as_invalid_input, convert_or_explain, invalid
from bandit_serve.errors import FieldError, InvalidInput, TooLarge, UnsupportedMedia
from bandit_serve.server.arrival import arriving
from bandit_serve.server.forwarded import client_of
from bandit_serve.server.messagepack import ARRAY, MAP, json_of, messagepack_of
from bandit_serve.server.repeated import repeated_keys
from bandit_serve.server.wire_form import JSON, MSGPACK, WireForm, form_of, wants_msgpack

T = TypeVar("T")

EITHER = (JSON, MSGPACK)
# What a browser lets a page of another site send without asking us first.
SENT_BY_ANY_PAGE = frozenset({"text/plain", "application/x-www-form-urlencoded", "multipart/form-data"})
JSON_HEADERS = {"Content-Type": JSON}
JSON_FORM = form_of(JSON_HEADERS)

MAX_ANSWER_BYTES = 32 * 2**20
# Each value of JSON costs some tenths of a microsecond, in one piece, before anything can be said of it.
MAX_VALUES = 200_000
# Up to this size, nothing that a body may hold takes long to be read.
LARGE_BYTES = 256 * 1024
# Up to this size, looking for every mistake takes not much longer than for one.
PATIENT_BYTES = 8 * 1024
# What a request's route takes at most, where that is less than what the service does.
MAX_BODY: web.RequestKey[int] = web.RequestKey("max_body", int)
# Name of the key that a request came with.
CALLER: web.RequestKey[str] = web.RequestKey("caller", str)
# Name of the tenant whose key that is.
TENANT: web.RequestKey[str] = web.RequestKey("tenant", str)
TAGS: web.RequestKey[RequestTags] = web.RequestKey("tags", RequestTags)

encode_json = msgspec.json.Encoder().encode
encode_msgpack = msgspec.msgpack.Encoder().encode


class Reply(msgspec.Struct, frozen=True):
    """Body of an answer with status 200, and its content type."""

    body: bytes
    content_type: str


class Body(Generic[T]):
    """Decoder of a route's body to `kind`, from JSON or, unless a standard has only that (`msgpack`), from MessagePack.

    Bodies are read as `usual` where they fit, a part of what `kind` takes that is read sooner.

    Nesting is bounded, and an object with a repeated key is refused; MessagePack is read as the JSON that says the
    same. Routes of decisions and rewards take what is `flat`: either form is decoded at once, and the last value of a
    repeated key counts, because a check would need a second pass over the body.
    """

    def __init__(
        self,
        kind: type[T],
        *,
        timeout_s: float,
        msgpack: bool = True,
        flat: bool = False,
        optional: bool = False,
        usual: Any = None,
    ) -> None:
        self.kind = kind
        self.msgpack = msgpack
        self.flat = flat
        self.optional = optional
        self._timeout_s = timeout_s
        self._json = _first_fit(msgspec.json.Decoder, kind, usual)
        self._msgpack = _first_fit(msgspec.msgpack.Decoder, kind, usual)

    async def read(
        self, request: web.Request, every: FindMistakes | None = None, fill: Fill | None = None
    ) -> T:
        """Reads and decodes a request's body.

        Raises `InvalidInput` that names the field, `UnsupportedMedia`, `TooLarge` or `TooSlow`. `every` as
        `find_mistakes` in `convert_or_explain`. A body in JSON that is not valid is tried again as `fill` makes it.
        """
        form = form_of(request.headers)
        body = await read_bytes(request, self._timeout_s)
        if self.flat:
            return self.decode(form, body, every)
        if self.msgpack and body and form.media == MSGPACK:
            form, body = JSON_FORM, await json_of(body, MAX_VALUES, max_bytes_of(request))
        await require_shallow(body)
        try:
            content = self.decode(form, body, every, fill)
        except InvalidInput as error:
            if error.errors:
                await require_once(body, error.errors)
            raise
        await require_once(body)
        return content

    def decode(
        self,
        form: WireForm,
        body: bytes,
        every: FindMistakes | None = None,
        fill: Fill | None = None,
    ) -> T:
        """Decodes a body, one in MessagePack only where bodies are flat; `every` and `fill` as in `read`.

        Raises `InvalidInput` that names the field, or `UnsupportedMedia`.
        """
        media = form.media
        if not body and self.optional and media not in SENT_BY_ANY_PAGE:
            body, media = b"{}", JSON
        try:
            if media == JSON:
                if len(body) > LARGE_BYTES:
                    _check_values(body)
                return self._json(body)
            if self.flat and media == MSGPACK:
                return self._msgpack(body)
        except msgspec.ValidationError as error:
            if fill is not None and media == JSON:
                return self._decode_filled(body, fill, error, every)
            return reread_body(body, media, self.kind, error, every=every)
        except RecursionError:
            raise as_invalid_input([_too_deep(body, media)]) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidInput(f"The body can not be read: {_sentence(str(error))}") from None
        spoken = f"{JSON} or {MSGPACK}" if self.msgpack else JSON
        given = f"not {form.content_type[:80]!r}" if form.content_type else "and there is none"
        raise UnsupportedMedia(f"Expected a Content-Type of {spoken}, {given}.")

    def _decode_filled(
        self, body: bytes, fill: Fill, error: msgspec.ValidationError, every: FindMistakes | None
    ) -> T:
        filled = fill(body)
        if filled.body is not body and not filled.errors:
            try:
                return self._json(filled.body)
            except msgspec.ValidationError as still:
                error = still
        return reread_body(filled.body, JSON, self.kind, error, every=every, others=filled.errors)


def _first_fit(decoder: Callable[[Any], Any], kind: type[T], usual: Any) -> Callable[[bytes], T]:
    """Decoding to `usual`, unless that is None or does not take a body, and else to `kind`."""
    decode: Callable[[bytes], T] = decoder(kind).decode
    if usual is None:
        return decode
    decode_usual: Callable[[bytes], T] = decoder(usual).decode

    def decode_either(body: bytes) -> T:
        try:
            return decode_usual(body)
        except msgspec.ValidationError:
            return decode(body)

    return decode_either


class Entries(Generic[T]):
    """Decoder for a batch that is invalid as a whole: each entry is decoded alone, so that the valid ones still count.

    `field` is the batch's only field, a list of at most `most` entries of type `kind`.
    """

    def __init__(self, kind: Any, field: str, most: int) -> None:
        self._field = field
        many = Annotated[list[msgspec.Raw], msgspec.Meta(max_length=most)]
        batch = msgspec.defstruct("Batch", [(field, many)], forbid_unknown_fields=True)
        self._kind = kind
        self._read = {
            JSON: (msgspec.json.Decoder(batch).decode, msgspec.json.Decoder(kind).decode),
            MSGPACK: (msgspec.msgpack.Decoder(batch).decode, msgspec.msgpack.Decoder(kind).decode),
        }

    async def after(self, error: InvalidInput, form: WireForm, body: bytes) -> list[T | InvalidInput]:
        """Decodes each entry, or gives its mistakes, after the batch was refused with `error`.

        Raises `error` if the body is no batch.
        """
        entries = None if isinstance(error, TooLarge) else await self.each(form, body)
        if entries is None:
            raise error
        return entries

    async def each(self, form: WireForm, body: bytes) -> list[T | InvalidInput] | None:
        """Decodes each entry, or gives its mistakes, in turns of the event loop; None if the body is no batch."""
        decoders = self._read.get(form.media)
        if decoders is None:
            return None
        if form.media == JSON and len(body) > LARGE_BYTES:
            _check_values(body)
        decode_batch, _ = decoders
        try:
            raws: list[msgspec.Raw] = getattr(decode_batch(body), self._field)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return await self.each_of(form, raws)

    async def each_of(self, form: WireForm, raws: Iterable[msgspec.Raw]) -> list[T | InvalidInput]:
        """Decodes each of `raws`, or gives its mistakes, in turns of the event loop."""
        read = self._reader(form)
        return await _in_turns(raws, lambda i, raw: _entry_or_refusal(read, raw))

    async def read(self, form: WireForm, raws: Iterable[msgspec.Raw]) -> list[T]:
        """Decodes each of `raws` in turns of the event loop; raises the mistakes of the first that is invalid."""
        read = self._reader(form)
        return await _in_turns(raws, lambda i, raw: read(raw, f"{self._field}[{i}]"))

    def _reader(self, form: WireForm) -> Callable[[msgspec.Raw, str], T]:
        """Makes the decoder of entries. It looks for every mistake only in the first invalid ones, as all may be
        invalid.
        """
        media, left = form.media, MAX_MISTAKES
        _, decode = self._read[media]

        def read(raw: msgspec.Raw, within: str) -> T:
            nonlocal left
            try:
                return cast(T, decode(raw))
            except msgspec.ValidationError as error:
                left -= 1
                return cast(
                    T, reread_body(bytes(raw), media, self._kind, error, within, most=1 if left < 0 else None)
                )
            except RecursionError:
                raise as_invalid_input([_too_deep(bytes(raw), media, within)]) from None
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                detail = f"The entry can not be read: {_sentence(str(error))}"
                if not within:
                    raise InvalidInput(detail) from None
                raise InvalidInput(f"{within}: {detail}", [FieldError(within, detail)]) from None

        return read


async def _in_turns(raws: Iterable[msgspec.Raw], read: Callable[[int, msgspec.Raw], T]) -> list[T]:
    entries, turn = [], Turn()
    for i, raw in enumerate(raws):
        entries.append(read(i, raw))
        if turn.over:
            await turn.give_way()
    return entries


def _entry_or_refusal(read: Callable[[msgspec.Raw, str], T], raw: msgspec.Raw) -> T | InvalidInput:
    try:
        return read(raw, "")
    except InvalidInput as refusal:
        return refusal


def reread_body(
    body: bytes,
    media: str,
    kind: type[T],
    error: msgspec.ValidationError,
    within: str = "",
    most: int | None = None,
    every: FindMistakes | None = None,
    others: Sequence[FieldError] = (),
) -> T:
    """Decodes a refused body again, if it is not large, to collect up to `most` mistakes beside the `others`."""
    if len(body) > PATIENT_BYTES:
        raise as_invalid_input(others) if others else invalid(error, within)
    decode = msgspec.json.decode if media == JSON else msgspec.msgpack.decode
    try:
        document = decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise invalid(error, within) from None
    too_deep = nesting_error(document, within)
    if too_deep is not None:
        raise as_invalid_input([too_deep])
    return convert_or_explain(document, kind, error, within, most, every, others)


async def require_shallow(body: bytes) -> None:
    """Raises `InvalidInput` for JSON that is nested too deep to be read."""
    here = len(body) <= PATIENT_BYTES
    too_deep = nesting_error_of_json(body) if here else await asyncio.to_thread(nesting_error_of_json, body)
    if too_deep is not None:
        raise as_invalid_input([too_deep])


def _too_deep(body: bytes, media: str, within: str = "") -> FieldError:
    """Error of a body that no decoder has the depth for."""
    error = nesting_error_of_json(body, within) if media == JSON else None
    return FieldError(within, TOO_DEEP) if error is None else error


async def require_once(body: bytes, others: Sequence[FieldError] = (), within: str = "") -> None:
    """Raises `InvalidInput` where a JSON object has a key twice; its error lists the `others` as well."""
    here = len(body) <= PATIENT_BYTES
    repeated = repeated_keys(body, within) if here else await asyncio.to_thread(repeated_keys, body, within)
    if repeated:
        raise as_invalid_input([*others, *repeated])


def _check_values(body: bytes) -> None:
    """Raises `TooLarge` for JSON with too many values to decode without a turn. (MessagePack has their number.)"""
    if body.count(b",") > MAX_VALUES:
        raise TooLarge(f"The body has more than {MAX_VALUES} values, by its commas; send it in parts.")


def max_bytes_of(request: web.Request) -> int:
    """Size of the largest body that the route takes."""
    most: int = min(request.get(MAX_BODY, request.client_max_size), request.client_max_size)
    return most


async def read_bytes(request: web.Request, timeout_s: float) -> bytes:
    """Reads the whole body, at most as many bytes as the route takes. A body that is here already needs no timer."""
    most = max_bytes_of(request)
    if (request.content_length or 0) > most:
        raise too_large(most)
    if request.content.is_eof() and request.content.exception() is None:
        return await _read_up_to(request, most)
    async with arriving(timeout_s):
        return await _read_up_to(request, most)


async def _read_up_to(request: web.Request, most: int) -> bytes:
    body = bytearray()
    while chunk := await request.content.readany():
        body += chunk
        if len(body) > most:
            raise too_large(most)
    return bytes(body)


def too_large(most: int) -> TooLarge:
    return TooLarge(f"The request's body is larger than the {most} bytes that are accepted here.")


def answer(request: web.Request, content: Any, status: int = 200, etag: int | None = None) -> web.Response:
    """Answer with `content` as JSON, with its ETag; `in_wanted_form` makes MessagePack of it."""
    headers = JSON_HEADERS if etag is None else {"Content-Type": JSON, "ETag": f'"{etag}"'}
    return web.Response(status=status, body=encode_json(content), headers=headers)


async def in_wanted_form(request: web.Request, response: web.StreamResponse) -> None:
    """Makes MessagePack of an answer in JSON where that is wanted, as `form_of` says.

    Caches are told what the form depends on. The ETag stays: it is the revision of what is told, in either form.
    """
    if request.method in (hdrs.METH_GET, hdrs.METH_HEAD):
        response.headers[hdrs.VARY] = f"{hdrs.ACCEPT}, {hdrs.CONTENT_TYPE}"
    if not isinstance(response, web.Response) or response.content_type != JSON:
        return
    text = response.body
    if isinstance(text, bytes) and wants_msgpack(request.headers):
        response.body = await messagepack_of(text)
        response.headers[hdrs.CONTENT_TYPE] = MSGPACK


class Pairs(NamedTuple):
    """Entries of an object that are made one by one."""

    entries: Iterator[tuple[str, Any]]


class _Writer:
    """JSON of an object that is written entry by entry."""

    media = JSON

    def __init__(self) -> None:
        self.body = bytearray()

    async def write(self, content: Any) -> None:
        self.body += encode_json(content)

    def open(self, is_object: bool) -> int:
        self.body += b"{" if is_object else b"["
        return len(self.body)

    def begin_entry(self, i: int, name: str | None = None) -> None:
        """Begins entry i, counted from 0, of the list or object that is open, there with its `name`."""
        if i:
            self.body += b","
        if name is not None:
            self.body += encode_json(name) + b":"

    def close(self, opened: int, n: int, is_object: bool) -> None:
        """Closes the list or object of n entries for which `open` gave the place `opened`."""
        self.body += b"}" if is_object else b"]"


class _PackedWriter(_Writer):
    """As `_Writer`, in MessagePack, which has the number of entries before the first of them."""

    media = MSGPACK

    async def write(self, content: Any) -> None:
        self.body += await messagepack_of(encode_json(content))

    def open(self, is_object: bool) -> int:
        self.body += (MAP if is_object else ARRAY) + bytes(4)
        return len(self.body)

    def begin_entry(self, i: int, name: str | None = None) -> None:
        if name is not None:
            self.body += encode_msgpack(name)

    def close(self, opened: int, n: int, is_object: bool) -> None:
        self.body[opened - 4 : opened] = n.to_bytes(4, "big")


async def answer_in_turns(request: web.Request, fields: Mapping[str, Any], instead: str) -> web.Response:
    """Answer with an object of `fields`, made and encoded in turns of the event loop, in the form that `form_of` says.

    An iterator among them becomes a list, and `Pairs` become an object. Raises `TooLarge` when they are too many;
    `instead` is the advice in its sentence.
    """
    writer = _PackedWriter() if wants_msgpack(request.headers) else _Writer()
    turn = Turn()
    whole = writer.open(is_object=True)
    for i, (name, content) in enumerate(fields.items()):
        writer.begin_entry(i, name)
        is_object = isinstance(content, Pairs)
        if not is_object and not isinstance(content, Iterator):
            await writer.write(content)
            continue
        entries = content.entries if is_object else ((None, each) for each in content)
        opened, n = writer.open(is_object), 0
        for key, each in entries:
            writer.begin_entry(n, key)
            await writer.write(each)
            n += 1
            if len(writer.body) > MAX_ANSWER_BYTES:
                raise TooLarge(f"The answer is larger than {MAX_ANSWER_BYTES} bytes; {instead}.")
            if turn.over:
                await turn.give_way()
        writer.close(opened, n, is_object)
    writer.close(whole, len(fields), is_object=True)
    return web.Response(body=bytes(writer.body), headers={"Content-Type": writer.media})


def encoded(form: WireForm, content: Any) -> Reply:
    """Encodes `content` in the form of the answer."""
    return Reply(encode_msgpack(content), MSGPACK) if form.is_msgpack else Reply(encode_json(content), JSON)


class Responses:
    """Answer to a batch, `{"responses": [ … ]}`, encoded entry by entry in the form of the answer."""

    def __init__(self, form: WireForm) -> None:
        self._is_msgpack = form.is_msgpack
        self._encode = encode_msgpack if self._is_msgpack else encode_json
        self._entries: list[bytes] = []
        self._nbytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, response: Any) -> None:
        """Encodes and adds an entry. Raises `TooLarge` when the answer becomes too large."""
        entry = self._encode(response)
        self._entries.append(entry)
        self._nbytes += len(entry)
        if self._nbytes > MAX_ANSWER_BYTES:
            raise answer_too_large()

    def reply(self) -> Reply:
        if self._is_msgpack:
            # A map of one, and an array of 32 bits' length.
            head = b"\x81" + encode_msgpack("responses") + b"\xdd" + len(self._entries).to_bytes(4, "big")
            return Reply(b"".join([head, *self._entries]), MSGPACK)
        return Reply(b'{"responses":[' + b",".join(self._entries) + b"]}", JSON)


def answer_too_large() -> TooLarge:
    return TooLarge(f"The answer could be larger than {MAX_ANSWER_BYTES} bytes; send fewer requests at once.")


def revision(request: web.Request) -> int | None:
    """Revision in the ETag of `If-Match`; None without a condition, −1, which never matches, for any other text."""
    header = request.headers.get("If-Match")
    if header is None or header.strip() == "*":
        return None
    text = header.strip().removeprefix("W/").strip('"')
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1


def actor(request: web.Request) -> str:
    """Name of the caller, for the history: that of its key, or where it called from."""
    return request.get(CALLER) or f"http:{client_of(request)}"


# Names of this type cost a quarter to look up, as they are not folded each time.
_ID_HEADER, _TRACE_HEADER, _STATE_HEADER = istr(REQUEST_ID), istr(TRACEPARENT), istr(TRACESTATE)


def tags_of(headers: Mapping[str, str]) -> RequestTags | None:
    """Tags that a request came with."""
    id, parent = headers.get(_ID_HEADER), headers.get(_TRACE_HEADER)
    return None if id is None and parent is None else request_tags(id, parent, headers.get(_STATE_HEADER))


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."
