"""Text from anywhere, made fit to be shown: what would steer a terminal or turn a line around is spelled out.

A reason, a payload or a file may hold anything. ESC begins sequences that write the clipboard or the window's title,
so does U+009B alone on some terminals; a carriage return writes over what stands there; directional overrides show
one text and mean another.
"""

from __future__ import annotations

import re

# Controls but tab and newline, directional marks, line and paragraph separators, annotations, lone surrogates, tags.
_STEERING = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f"
)
_steering = re.compile(f"[{_STEERING}]")
_steering_or_break = re.compile(f"[\t\n{_STEERING}]")


def printable(text: str) -> str:
    """`text` with such characters as `\\x1b` or `\\u202e`; tabs and newlines stay."""
    return _steering.sub(_spelled, text)


def printable_line(text: str) -> str:
    """As `printable`, with tabs and newlines spelled out, too: one line, whatever is in it."""
    return _steering_or_break.sub(_spelled, text)


def printable_json(document: bytes) -> bytes:
    """JSON with the same meaning, and such characters escaped. JSON itself escapes only those below U+0020."""
    if document.isascii() and b"\x7f" not in document:
        return document
    text = document.decode("utf-8", "surrogatepass")
    return _steering.sub(_escaped, text).encode()


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x100:
        return {"\t": "\\t", "\n": "\\n"}.get(found[0], f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _escaped(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
