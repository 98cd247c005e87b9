"""MessagePack as JSON, and JSON as MessagePack: ordinary routes know one form, and speak both."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

import msgspec

from bandit_serve.base.mistakes import MAX_MISTAKES
from bandit_serve.base.nesting import MAX_LEVELS
from bandit_serve.base.turns import Turn
from bandit_serve.base.validation import as_invalid_input
from bandit_serve.errors import FieldError, InvalidInput, TooLarge

# JSON of this size is packed in less than a millisecond.
PIECE_BYTES = 64 * 1024
# MessagePack of this size is read in less than a millisecond, even if each byte is a value.
STEP_BYTES = 2 * 1024
# So many are written in less than a millisecond, control characters too, of which each takes ten times as long.
STEP_CHARACTERS = 8 * 1024
NOT_FINITE = "expected a finite number"
NOT_IN_JSON = "expected a value that JSON has, not bytes or an extension of MessagePack"
NO_TEXT = "expected an object whose keys are all texts"

_encode_json = msgspec.json.Encoder().encode
_encode_msgpack = msgspec.msgpack.Encoder().encode
_objects = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_lists = msgspec.json.Decoder(list[msgspec.Raw]).decode
_any = msgspec.json.Decoder().decode


def _forms(first: int, letters: str) -> dict[int, struct.Struct]:
    """Forms of the numbers behind so many first bytes, counted from `first`."""
    return {first + i: struct.Struct(">" + letter) for i, letter in enumerate(letters)}


# First bytes of values (https://github.com/msgpack/msgpack/blob/master/spec.md).
_WORDS: Mapping[int, bytes] = {0xC0: b"null", 0xC2: b"false", 0xC3: b"true"}
_NUMBERS = _forms(0xCA, "fdBHIQbhiq")
# Of bytes, of extensions; of texts, of lists, of objects.
_LENGTHS = _forms(0xC4, "BHIBHI") | _forms(0xD9, "BHIHIHI")
_FIXED_EXTENSIONS: Mapping[int, int] = {0xD4 + i: 2**i for i in range(5)}
ARRAY, MAP = b"\xdd", b"\xdf"
"""First bytes of lists and objects whose length follows in 32 bits."""


async def messagepack_of(text: bytes) -> bytes:
    """MessagePack of a document in JSON that we wrote: the same document, so that null stays null.

    A large one is made in turns of the event loop.
    """
    pieces: list[bytes] = []
    turn = Turn()
    for piece in _pieces(text):
        pieces.append(piece)
        if turn.over:
            await turn.give_way()
    return b"".join(pieces)


def _pieces(text: bytes) -> Iterator[bytes]:
    if len(text) > PIECE_BYTES and text.startswith(b"{"):
        fields = _objects(text)
        yield MAP + len(fields).to_bytes(4, "big")
        for name, each in fields.items():
            yield _encode_msgpack(name)
            yield from _pieces(bytes(each))
    elif len(text) > PIECE_BYTES and text.startswith(b"["):
        entries = _lists(text)
        yield ARRAY + len(entries).to_bytes(4, "big")
        for each in entries:
            yield from _pieces(bytes(each))
    else:
        yield _encode_msgpack(_any(text))


async def json_of(body: bytes, max_values: int, max_bytes: int) -> bytes:
    """JSON of a body in MessagePack, a repeated key as often as it is there; a large one is read in turns.

    What is nested too deep is written up to there, so that it is refused for that when it is read.

    Raises `InvalidInput` at the fields of what JSON has not: numbers that are not finite, bytes, extensions, keys that
    are no texts. Raises `TooLarge` before more is read than `max_values` lists and objects, or so many values as JSON
    has commas between; and for more than `max_bytes` of JSON.
    """
    reading, turn = _Reading(body, max_values, max_bytes), Turn()
    try:
        for _ in reading.steps():
            if turn.over:
                await turn.give_way()
    except UnicodeDecodeError:
        raise _unreadable("a text in it is not UTF-8") from None
    except (struct.error, IndexError):
        raise _unreadable("the MessagePack is cut off") from None
    return bytes(reading.json)


class _Holder:
    """List or object that is being read: how many entries it has, and which of them is next."""

    __slots__ = ("is_object", "key", "n", "next")

    def __init__(self, n: int, is_object: bool) -> None:
        self.n = n
        self.is_object = is_object
        self.next = 0
        self.key = ""

    @property
    def step(self) -> str:
        """Step into the entry that was begun last, as paths have it."""
        return f".{self.key[:60]}" if self.is_object else f"[{self.next - 1}]"


class _Reading:
    """MessagePack that is read from left to right, without recursion, while its JSON is written."""

    def __init__(self, body: bytes, max_values: int, max_bytes: int) -> None:
        self._body = body
        self._at = 0
        self._max_values = max_values
        self._n_holders = 0
        self._n_commas = 0
        self._max_bytes = max_bytes
        self.json = bytearray()
        self._holders: list[_Holder] = []
        self._errors: list[FieldError] = []

    def steps(self) -> Iterator[None]:
        """Reads all of it, and yields after each step."""
        yield from self._write_rest(self._read_value())
        until = self._at
        while self._holders:
            if len(self._holders) > MAX_LEVELS:
                return
            if self._at >= until:
                until = self._at + STEP_BYTES
                self._check_size()
                yield
            holder = self._holders[-1]
            if holder.next == holder.n:
                self.json += b"}" if holder.is_object else b"]"
                self._holders.pop()
                continue
            if holder.next:
                self.json += b","
            holder.next += 1
            if holder.is_object:
                rest = self._read_key(holder)
                if rest:
                    yield from self._write_rest(rest)
                self.json += b":"
            rest = self._read_value()
            if rest:
                yield from self._write_rest(rest)
        self._check_size()
        if self._at < len(self._body):
            raise _unreadable(f"its MessagePack ends after {self._at} bytes, and there are more")
        if self._errors:
            raise as_invalid_input(self._errors)

    def _read_value(self) -> str:
        """Reads a value, or opens what holds others; gives the rest of a text that is too long for one step."""
        head = self._body[self._at]
        self._at += 1
        if head < 0x80:
            self.json += b"%d" % head
        elif head >= 0xE0:
            self.json += b"%d" % (head - 0x100)
        elif head < 0xA0:
            self._open(head & 0x0F, is_object=head < 0x90)
        elif head < 0xC0:
            return self._write(self._text(head & 0x1F))
        elif head in _WORDS:
            self.json += _WORDS[head]
        elif head in _NUMBERS:
            number = self._unpacked(_NUMBERS[head])
            if not isfinite(number):
                self._note(NOT_FINITE)
            self.json += _encode_json(number)
        elif head in _FIXED_EXTENSIONS:
            self._skip(1 + _FIXED_EXTENSIONS[head])
        elif head in _LENGTHS:
            n = self._unpacked(_LENGTHS[head])
            if head >= 0xDC:
                self._open(n, is_object=head >= 0xDE)
            elif head >= 0xD9:
                return self._write(self._text(n))
            else:
                self._skip(n if head < 0xC7 else 1 + n)
        else:
            raise _unreadable(f"it has the byte {head:#x}, which begins nothing in MessagePack")
        return ""

    def _read_key(self, holder: _Holder) -> str:
        head = self._body[self._at]
        self._at += 1
        if 0xA0 <= head < 0xC0:
            n = head & 0x1F
        elif 0xD9 <= head < 0xDC:
            n = self._unpacked(_LENGTHS[head])
        else:
            # What else a key may be has no end that we know.
            self._holders.pop()
            self._note(NO_TEXT)
            raise as_invalid_input(self._errors)
        holder.key = self._text(n)
        return self._write(holder.key)

    def _open(self, n: int, is_object: bool) -> None:
        self._n_holders += 1
        self._n_commas += max(0, n - 1)
        if max(self._n_holders, self._n_commas) > self._max_values:
            raise TooLarge(f"The body has more than {self._max_values} values; send it in parts.")
        self.json += b"{" if is_object else b"["
        self._holders.append(_Holder(n, is_object))

    def _unpacked(self, form: struct.Struct) -> Any:
        """Number at the place where we are, of any kind; what counts bytes or entries is an integer."""
        (number,) = form.unpack_from(self._body, self._at)
        self._at += form.size
        return number

    def _text(self, n: int) -> str:
        return self._bytes(n).decode()

    def _skip(self, n: int) -> None:
        self._bytes(n)
        self._note(NOT_IN_JSON)
        self.json += b"null"

    def _bytes(self, n: int) -> bytes:
        start, self._at = self._at, self._at + n
        if self._at > len(self._body):
            raise IndexError
        return self._body[start : self._at]

    def _write(self, text: str) -> str:
        """Writes a text, or gives it back if it is too long for one step."""
        if len(text) > STEP_CHARACTERS:
            return text
        self.json += _encode_json(text)
        return ""

    def _write_rest(self, text: str) -> Iterator[None]:
        """Writes what `_write` gave back, a step for each piece, as each character may become six."""
        if text:
            self.json += b'"'
            for start in range(0, len(text), STEP_CHARACTERS):
                self.json += _encode_json(text[start : start + STEP_CHARACTERS])[1:-1]
                self._check_size()
                yield
            self.json += b'"'

    def _check_size(self) -> None:
        if len(self.json) > self._max_bytes:
            raise TooLarge(
                f"As JSON, the request's body is larger than the {self._max_bytes} bytes that are accepted here."
            )

    def _note(self, detail: str) -> None:
        if len(self._errors) < MAX_MISTAKES:
            at = "".join(holder.step for holder in self._holders)
            self._errors.append(FieldError(at.removeprefix("."), detail))


def _unreadable(why: str) -> InvalidInput:
    return InvalidInput(f"The body can not be read: {why}.")
