"""Text from users and files, made safe to show: characters that would control a terminal are spelled out.

A reason, a payload or a file may hold anything. ESC begins sequences that write the clipboard or the window's title,
and so does U+009B on some terminals. A carriage return overwrites the line. Directional overrides show one text and
mean another.
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
    """Spells out control characters, as `\\x1b` or `\\u202e`. Tabs and newlines stay."""
    return _steering.sub(_spelled, text)


def printable_line(text: str) -> str:
    """As `printable`, but tabs and newlines are spelled out, too: the result is always one line."""
    return _steering_or_break.sub(_spelled, text)


def printable_json(document: bytes) -> bytes:
    """Escapes control characters in JSON without a change of meaning. JSON itself escapes only those below U+0020."""
    if document.isascii() and b"\x7f" not in document:
        return document
    text = document.decode("utf-8", "surrogatepass")
    return _steering.sub(_escaped, text).encode()


def _spelled(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return {"\t": "\\t", "\n": "\\n"}.get(match[0], f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _escaped(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
