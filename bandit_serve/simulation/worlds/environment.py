"""What every environment is: arms whose rewards are known for all of them, so that regret can be told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.random import SeedSequence
from numpy.typing import NDArray

from bandit_serve.errors import InvalidInput

# Of one block: 8 MiB of rewards, however many arms there are.
BLOCK_NUMBERS = 1 << 20
BLOCK_ROWS = 4_096

Matrix = NDArray[np.float64]


class Block(NamedTuple):
    """B consecutive decisions, with what each arm would have brought.

    means: float64 (B, K), expected rewards (given the context). rewards: float64 (B, K), potential outcomes.
    contexts: float64 (B, d), or None where there is none.
    """

    means: Matrix
    rewards: Matrix
    contexts: Matrix | None = None


class Environment(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A described world. InvalidInput, when it is made, where the description can not be.

    One `seed` is one sequence of potential outcomes: every policy that is run on it meets the same.
    """

    kind: ClassVar[str]
    # The kind of objective that its rewards are of.
    objective: ClassVar[str]

    @property
    def n_arms(self) -> int:
        raise NotImplementedError

    @property
    def n_features(self) -> int:
        """d, the length of a context; 0 where there is none."""
        return 0

    @property
    def one_pass(self) -> int | None:
        """How many decisions there are before any repeats, where they are limited."""
        return None

    @property
    def change_points(self) -> tuple[int, ...]:
        """Decisions, counted from 0, before which the world becomes another."""
        return ()

    @property
    def moves(self) -> bool:
        """Whether what is best may change."""
        return bool(self.change_points)

    def blocks(self, horizon: int, seed: SeedSequence) -> Iterator[Block]:
        """The first `horizon` decisions."""
        raise NotImplementedError

    def summary(self) -> str:
        """A few words for a title."""
        raise NotImplementedError


def block_rows(numbers_a_row: int) -> int:
    return max(1, min(BLOCK_ROWS, BLOCK_NUMBERS // max(numbers_a_row, 1)))


def spans(horizon: int, rows: int, cuts: tuple[int, ...] = ()) -> Iterator[tuple[int, int]]:
    """(start, end) of blocks of at most `rows` that no cut lies within."""
    start = 0
    for cut in (*sorted(cut for cut in cuts if 0 < cut < horizon), horizon):
        while start < cut:
            end = min(start + rows, cut)
            yield start, end
            start = end


def require_that(holds: bool, sentence: str) -> None:
    if not holds:
        raise InvalidInput(sentence)
