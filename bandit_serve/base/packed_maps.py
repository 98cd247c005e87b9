"""Maps in MessagePack, in as few bytes as they take."""

from __future__ import annotations

# First bytes of maps: of up to 15 fields, with their number in it, and of up to 65,535, whose number follows.
_SHORT, _LONG = 0x80, 0xDE


def with_short_header(packed: bytes) -> bytes:
    """Same map, its header as short as can be.

    A struct of 16 fields or more gets a long header however few of them are written, and former builds may have had
    fewer: so the same bytes come from every build that knows the fields.
    """
    n_fields = int.from_bytes(packed[1:3], "big")
    if packed[0] != _LONG or n_fields >= 16:
        return packed
    return bytes([_SHORT | n_fields]) + packed[3:]
