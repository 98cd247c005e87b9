"""Offset: a place in a log, the id of a stream's entry. Its first number is the log's time, in Unix milliseconds."""

from __future__ import annotations

from typing import NamedTuple

LAST_SEQUENCE = 2**64 - 1


class Offset(NamedTuple):
    time_ms: int
    sequence: int

    @classmethod
    def parse(cls, text: bytes | str) -> Offset:
        time_ms, _, sequence = (text.decode() if isinstance(text, bytes) else text).partition("-")
        return cls(int(time_ms), int(sequence or 0))

    def __str__(self) -> str:
        return f"{self.time_ms}-{self.sequence}"

    @property
    def former(self) -> Offset:
        """Last offset before this one."""
        if self.sequence:
            return Offset(self.time_ms, self.sequence - 1)
        return Offset(self.time_ms - 1, LAST_SEQUENCE)

    @property
    def next(self) -> Offset:
        """First offset after this one."""
        if self.sequence < LAST_SEQUENCE:
            return Offset(self.time_ms, self.sequence + 1)
        return Offset(self.time_ms + 1, 0)


START = Offset(0, 0)
