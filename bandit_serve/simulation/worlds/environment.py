"""Base of environments. The rewards of all arms are known at each decision, so that regret can be measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.random import SeedSequence
from numpy.typing import NDArray

from bandit_serve.errors import InvalidInput

MAX_BLOCK_NUMBERS = 1 << 20
"""Numbers in a block: 8 MiB, however many arms there are."""
MAX_BLOCK_ROWS = 4_096

Matrix = NDArray[np.float64]


class Block(NamedTuple):
    """B consecutive decisions, with the reward that each arm would have had.

    means: float64 (B, K), expected rewards, given the context. rewards: float64 (B, K), potential outcomes. contexts:
    float64 (B, d), or None without context.
    """

    means: Matrix
    rewards: Matrix
    contexts: Matrix | None = None


class Environment(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Environment as it is described in a file. Raises `InvalidInput` for an invalid description.

    A `seed` determines the sequence of potential outcomes, so every policy that runs on it meets the same.
    """

    kind: ClassVar[str]
    # Kind of the objective metric that the rewards belong to.
    objective: ClassVar[str]

    @property
    def n_arms(self) -> int:
        """K, the number of arms."""
        raise NotImplementedError

    @property
    def n_features(self) -> int:
        """d, the length of a context; 0 without context."""
        return 0

    @property
    def one_pass(self) -> int | None:
        """Number of decisions before any is repeated; None if there is no limit."""
        return None

    @property
    def change_points(self) -> tuple[int, ...]:
        """Decisions, counted from 0, before which the environment changes."""
        return ()

    @property
    def moves(self) -> bool:
        """Whether the best arm may change."""
        return bool(self.change_points)

    def blocks(self, horizon: int, seed: SeedSequence) -> Iterator[Block]:
        """Yields the first `horizon` decisions."""
        raise NotImplementedError

    def summary(self) -> str:
        """Few words for a title."""
        raise NotImplementedError


def block_rows(numbers_a_row: int) -> int:
    """Decisions in a block whose decisions take so many numbers each."""
    return max(1, min(MAX_BLOCK_ROWS, MAX_BLOCK_NUMBERS // max(numbers_a_row, 1)))


def spans(horizon: int, rows: int, cuts: tuple[int, ...] = ()) -> Iterator[tuple[int, int]]:
    """Yields (start, end) of blocks of at most `rows` decisions, none of which has a cut inside."""
    start = 0
    for cut in (*sorted(cut for cut in cuts if 0 < cut < horizon), horizon):
        while start < cut:
            end = min(start + rows, cut)
            yield start, end
            start = end


def require_that(holds: bool, sentence: str) -> None:
    """Raises `InvalidInput` with the sentence unless the condition holds."""
    if not holds:
        raise InvalidInput(sentence)
