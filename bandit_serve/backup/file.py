"""File of a backup: parts one after another, each with a checksum that covers all before it.

    "bandit_serve backup\\n"
    part   length of the body, 4 bytes, little-endian | first 16 bytes of the SHA-256 of the former part's checksum and
           the body | the body: MessagePack of a part (`parts.py`), compressed by zlib
    …

The first part is the header, as JSON that is not compressed: so that every build can tell the version. The last is an
`End`. A checksum finds damage; whoever can write the file can make another one.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from bandit_serve.backup.parts import End, Header, Part
from bandit_serve.errors import InvalidInput

MAGIC = b"bandit_serve backup\n"
VERSION = 1
MAX_PART_BYTES = 128 * 2**20
"""Bytes of a part, as it is in memory: a mark is never cut, and one of the largest may have some ten MiB."""
_CHECKSUM = 16
_LEVEL = 1

_decode = msgspec.msgpack.Decoder(Part).decode
_encode = msgspec.msgpack.Encoder().encode


class DamagedBackup(InvalidInput):
    """File that is no backup, not a whole one, or not as it was written."""


class BackupWriter:
    """Writes a backup to `file`. `parts` and `bytes_written` count what was written."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file = file
        self._checksum = b""
        self.parts = 0
        self.bytes_written = 0
        self._put(MAGIC)
        self._frame(msgspec.json.encode(header))

    def write(self, part: Part) -> None:
        """Writes one part."""
        self._frame(zlib.compress(_encode(part), _LEVEL))
        self.parts += 1

    def _frame(self, body: bytes) -> None:
        self._checksum = _next(self._checksum, body)
        self._put(len(body).to_bytes(4, "little") + self._checksum)
        self._put(body)

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self.bytes_written += len(data)


class BackupReader:
    """Reads a backup from `file`, from its first byte on. `checksum` is that of the last part that was read.

    Raises `DamagedBackup`, also for a version that this build does not know.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.checksum = b""
        file.seek(0)
        if file.read(len(MAGIC)) != MAGIC:
            raise DamagedBackup("This is no backup of bandit-serve.")
        self.header = self._header()

    def _header(self) -> Header:
        body = self._body()
        try:
            fields = msgspec.json.decode(body)
            version = fields["version"]
        except (msgspec.DecodeError, TypeError, LookupError):
            raise self._damaged() from None
        if version != VERSION:
            raise DamagedBackup(
                f"The backup is of version {version!r}, and this build reads version {VERSION}: restore it with the "
                "build that wrote it."
            )
        try:
            return msgspec.convert(fields, Header)
        except msgspec.ValidationError:
            raise self._damaged() from None

    def __iter__(self) -> Iterator[Part]:
        """Parts up to and with the `End`, behind which nothing may follow."""
        while True:
            part = self._part(self._body())
            yield part
            if isinstance(part, End):
                if self._file.read(1):
                    raise DamagedBackup("The backup goes on behind its end.")
                return

    def _body(self) -> bytes:
        head = self._file.read(4 + _CHECKSUM)
        length = int.from_bytes(head[:4], "little")
        if len(head) < 4 + _CHECKSUM:
            raise DamagedBackup("The backup ends in the middle: it is not whole.")
        if length > MAX_PART_BYTES:
            raise self._damaged()
        body = self._file.read(length)
        if len(body) < length:
            raise DamagedBackup("The backup ends in the middle: it is not whole.")
        checksum = _next(self.checksum, body)
        if checksum != head[4:]:
            raise self._damaged()
        self.checksum = checksum
        return body

    def _part(self, body: bytes) -> Part:
        unpacker = zlib.decompressobj()
        try:
            content = unpacker.decompress(body, MAX_PART_BYTES)
            if not unpacker.eof or unpacker.unused_data:
                raise self._damaged()
            return _decode(content)
        except (zlib.error, msgspec.DecodeError):
            raise self._damaged() from None

    def _damaged(self) -> DamagedBackup:
        return DamagedBackup(f"The backup is damaged before its byte {self._file.tell():,}.")


def _next(former: bytes, body: bytes) -> bytes:
    return hashlib.sha256(former + body).digest()[:_CHECKSUM]
