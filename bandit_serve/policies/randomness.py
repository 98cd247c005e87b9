"""Randomness of a policy: the state of its PCG64, as snapshots hold it."""

from __future__ import annotations

import numpy as np
from numpy.random import PCG64
from numpy.typing import ArrayLike, NDArray

from bandit_serve.errors import InvalidInput

MASK = (1 << 64) - 1


def generator_words(generator: PCG64) -> NDArray[np.uint64]:
    """Words of the generator, uint64 (4,): high and low halves of the state and of the increment."""
    state = generator.state["state"]
    words = [state["state"] >> 64, state["state"], state["inc"] >> 64, state["inc"]]
    return np.array([word & MASK for word in words], dtype=np.uint64)


def restore_generator(generator: PCG64, words: ArrayLike) -> None:
    """Goes on from what `generator_words` gave; InvalidInput for what is no state."""
    array = np.asarray(words)
    if array.dtype != np.uint64 or array.shape != (4,) or not int(array[3]) & 1:
        raise InvalidInput("randomness must be the four uint64 words of a PCG64 state")
    high, low, inc_high, inc_low = (int(word) for word in array)
    generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": high << 64 | low, "inc": inc_high << 64 | inc_low},
        "has_uint32": 0,
        "uinteger": 0,
    }
