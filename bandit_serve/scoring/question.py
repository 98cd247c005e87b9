"""Question that a batch asks of a model about each of its rows."""

from __future__ import annotations

from msgspec import Struct

from bandit_serve.api.inference import ITEM, USER

EXCLUDE, FEATURES = "exclude", "features"
MAX_ITEMS = 1_000_000
"""Items that each user is scored with, at most."""
CHUNK_ROWS = 65_536
FEATURE_ROWS = 8_192
MAX_CHUNK_USERS = 4_096
EXCLUDING_USERS = 256
"""Users of a chunk that may each exclude 10,000 items."""


class BatchQuestion(Struct, frozen=True):
    """With `k`, the best items of each row's user, among `items` where they are given; with `items` alone, the scores
    of all of them; with neither, the score of the row's own pair.

    features: columns that are features, beside those in the column `features`. confidence: with the score of a pair,
    how much is known of it.
    """

    k: int | None = None
    items: tuple[str, ...] | None = None
    features: tuple[str, ...] = ()
    confidence: bool = False

    @property
    def of_pairs(self) -> bool:
        """Whether rows have the item."""
        return self.k is None and self.items is None

    @property
    def columns(self) -> set[str]:
        """Names of the columns that may be read."""
        own = {ITEM} if self.of_pairs else {EXCLUDE} if self.k is not None else set()
        return {USER, FEATURES, *self.features} | own

    def chunk_rows(self, *, with_features: bool, with_excluded: bool) -> int:
        """Rows that are scored at a time, so that their answers have about `CHUNK_ROWS` rows."""
        if self.of_pairs:
            return FEATURE_ROWS if with_features else CHUNK_ROWS
        given = self.k if self.k is not None else len(self.items or ())
        most = EXCLUDING_USERS if with_excluded and self.k is not None else MAX_CHUNK_USERS
        return max(1, min(most, CHUNK_ROWS // max(1, given)))
