"""A labelled data set as a bandit: the arms are the classes, and the right one is rewarded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.random import SeedSequence, default_rng

from bandit_serve.metrics import Binary
from bandit_serve.simulation.worlds.data_set import DataSet, read_csv, shipped
from bandit_serve.simulation.worlds.environment import Block, Environment, block_rows, require


class Supervised(Environment, frozen=True, kw_only=True):
    """Each row is one visitor: its features are the context, and 1 is the reward of the arm that it is labelled with.

    Of `csv` (a path) with its column `label`, or of `dataset`, a name that scikit-learn ships. Each seed takes the
    rows in another order; when they are used up, in yet another. Regret is against always being right.
    """

    kind: ClassVar[str] = "supervised"
    objective: ClassVar[str] = Binary.name

    csv: str | None = None
    label: str | None = None
    dataset: str | None = None

    def __post_init__(self) -> None:
        require(
            (self.csv is None) != (self.dataset is None),
            "a supervised environment takes csv, with label, or else dataset.",
        )
        require(
            (self.csv is None) == (self.label is None), "csv and label (the column to predict) go together."
        )

    @property
    def data(self) -> DataSet:
        if self.csv is not None and self.label is not None:
            return read_csv(Path(self.csv), self.label)
        return shipped(self.dataset or "")

    @property
    def n_arms(self) -> int:
        return len(self.data.classes)

    @property
    def n_features(self) -> int:
        return int(self.data.features.shape[1])

    @property
    def one_pass(self) -> int | None:
        return len(self.data.labels)

    def blocks(self, horizon: int, seed: SeedSequence) -> Iterator[Block]:
        generator = default_rng(seed)
        data = self.data
        rows = block_rows(self.n_arms + self.n_features)
        right = np.eye(self.n_arms)
        left = horizon
        while left:
            order = generator.permutation(len(data.labels))[:left]
            left -= len(order)
            for start in range(0, len(order), rows):
                taken = order[start : start + rows]
                rewards = right[data.labels[taken]]
                yield Block(rewards, rewards, data.features[taken])

    def summary(self) -> str:
        data = self.data
        return f"{data.name}, {len(data.labels):,} rows, {self.n_arms} arms, {self.n_features} features"
