"""Sticky assignment as in the papers, in plain Python."""

from __future__ import annotations

import math
from collections.abc import Sequence

WORD = 2**64 - 1


def siphash(key: bytes, text: bytes) -> int:
    """SipHash-2-4 (Aumasson and Bernstein 2012, section 2)."""
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]
    padded = text + bytes(7 - len(text) % 8) + bytes([len(text) % 256])
    for start in range(0, len(padded), 8):
        word = int.from_bytes(padded[start : start + 8], "little")
        v[3] ^= word
        _rounds(v, 2)
        v[0] ^= word
    v[2] ^= 0xFF
    _rounds(v, 4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def _rounds(v: list[int], n: int) -> None:
    for _ in range(n):
        v[0] = (v[0] + v[1]) & WORD
        v[2] = (v[2] + v[3]) & WORD
        v[1] = _rotated(v[1], 13) ^ v[0]
        v[3] = _rotated(v[3], 16) ^ v[2]
        v[0] = _rotated(v[0], 32)
        v[2] = (v[2] + v[1]) & WORD
        v[0] = (v[0] + v[3]) & WORD
        v[1] = _rotated(v[1], 17) ^ v[2]
        v[3] = _rotated(v[3], 21) ^ v[0]
        v[2] = _rotated(v[2], 32)


def _rotated(word: int, bits: int) -> int:
    return ((word << bits) | (word >> (64 - bits))) & WORD


def splitmix(x: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014, figure 13 with the constants of section 5)."""
    x = (x + 0x9E3779B97F4A7C15) & WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def nearest(unit: int, arm_keys: Sequence[int], shares: Sequence[float]) -> int:
    """argmin −ln(u_k) / w_k over the arms with a share."""
    distances = {}
    for k, (key, share) in enumerate(zip(arm_keys, shares, strict=True)):
        if share > 0:
            uniform = ((splitmix(unit ^ key) >> 11) + 0.5) / 2**53
            distances[k] = -math.log(uniform) / share
    return min(distances, key=lambda k: distances[k])
