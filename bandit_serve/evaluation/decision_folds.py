"""Folds of decisions by what they are called, so that whoever reads them, in any order, has the same folds.

A decision's key is a sum of the halves of its worker's and its own number, each times an odd constant, modulo 2³². The
fold is that key, shifted by the seed, mixed as MurmurHash3 ends (Appleby 2011).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FOLDS = 5
LOW_BITS = 0xFFFF_FFFF
OF_WORKER, OF_NUMBER = (0x9E37_79B1, 0x85EB_CA77), (0xC2B2_AE3D, 0x27D4_EB2F)
"""Factors of the low and the high half."""
OF_SEED = 0x1656_67B1
MIXING = ((16, 0x85EB_CA6B), (13, 0xC2B2_AE35))
LAST_SHIFT = 16


def decision_keys(workers: NDArray[np.uint64], numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Keys below 2³², uint64 (n,), of decisions: of the incarnations (n,) of their workers, and their numbers (n,)."""
    key = np.zeros(len(numbers), np.uint64)
    for whole, factors in ((workers, OF_WORKER), (numbers, OF_NUMBER)):
        low, high = (half * np.uint64(factor) for half, factor in zip(_halves(whole), factors, strict=True))
        key = (key + (low & np.uint64(LOW_BITS)) + (high & np.uint64(LOW_BITS))) & np.uint64(LOW_BITS)
    return key


def folds_of(keys: NDArray[np.uint64], seed: int, folds: int = FOLDS) -> NDArray[np.intp]:
    """Folds from 0, intp (n,), of decisions with these keys (n,)."""
    mixed = (keys + np.uint64(_shift(seed))) & np.uint64(LOW_BITS)
    for shift, factor in MIXING:
        mixed = ((mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)) & np.uint64(LOW_BITS)
    return ((mixed ^ (mixed >> np.uint64(LAST_SHIFT))) % np.uint64(folds)).astype(np.intp)


def fold_in_sql(decisions: str, seed: int, folds: int = FOLDS) -> str:
    """Query of a query's rows, which have `incarnation` (16 hex digits) and `number`, with their `fold`."""
    halves = (f"w & {LOW_BITS}", "w >> 32", f"n & {LOW_BITS}", "n >> 32")
    terms = " + ".join(
        f"((({half}) * {factor}) & {LOW_BITS})"
        for half, factor in zip(halves, (*OF_WORKER, *OF_NUMBER), strict=True)
    )
    parsed = f"SELECT *, ('0x' || incarnation)::UBIGINT AS w, number::UBIGINT AS n FROM ({decisions})"
    mixed = f"SELECT * EXCLUDE (w, n), ({terms} + {_shift(seed)}::UBIGINT) & {LOW_BITS} AS h FROM ({parsed})"
    for shift, factor in MIXING:
        mixed = f"SELECT * REPLACE ((xor(h, h >> {shift}) * {factor}) & {LOW_BITS} AS h) FROM ({mixed})"
    return f"SELECT * EXCLUDE (h), (xor(h, h >> {LAST_SHIFT}) % {folds})::INTEGER AS fold FROM ({mixed})"


def _halves(numbers: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    return numbers & np.uint64(LOW_BITS), numbers >> np.uint64(32)


def _shift(seed: int) -> int:
    return seed * OF_SEED & LOW_BITS
