"""Epoch after epoch, until there are enough or a validation set says that more would not help."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit_serve.errors import Diverged
from bandit_serve.models.hyper_parameters import whole

OnEpoch = Callable[[int, int, float], object]
MIN_PATIENCE = 3


class Schedule(NamedTuple):
    """Learning rates, which fall geometrically from the first to the last epoch."""

    epochs: int
    first_rate: float
    last_rate: float

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        return float(
            self.first_rate * (self.last_rate / self.first_rate) ** (epoch / max(1, self.epochs - 1))
        )


def descend(
    schedule: Schedule,
    run: Callable[[float], float],
    arrays: Callable[[], list[NDArray[Any]]],
    *,
    validate: Callable[[], float] | None = None,
    patience: int | None = None,
    on_epoch: OnEpoch | None = None,
) -> int:
    """Runs the epochs; returns how many the parameters are of.

    run : one epoch at a learning rate; returns the mean squared error of the training ratings
    arrays : the parameters; with `validate` they are those of the best epoch in the end
    validate : the mean squared error of ratings that are not learned from; after `patience` epochs without a
        better one the descent ends: by default a quarter of all, and 3 at least, as a rate that is still high makes the
        errors go up and down
    on_epoch : called as `on_epoch(done, epochs, rmse)`, with the RMSE of the validation set where there is one

    Raises `Diverged`.
    """
    limit = max(MIN_PATIENCE, schedule.epochs // 4)
    if patience is not None:
        limit = whole("patience", patience, 1, 2**31 - 1)
    best, best_epoch, kept = math.inf, 0, []
    for epoch in range(schedule.epochs):
        mean_square = run(schedule.rate(epoch))
        if not math.isfinite(mean_square):
            raise Diverged(f"Training diverged in epoch {epoch + 1}; a lower learning_rate would help.")
        if validate is not None:
            mean_square = validate()
        if on_epoch is not None:
            on_epoch(epoch + 1, schedule.epochs, math.sqrt(mean_square))
        if validate is None:
            continue
        if mean_square < best:
            best, best_epoch = mean_square, epoch + 1
            kept = [np.array(array) for array in arrays()]
        elif epoch + 1 - best_epoch >= limit:
            break
    if not kept:
        return schedule.epochs
    for array, best_array in zip(arrays(), kept, strict=True):
        array[...] = best_array
    return best_epoch
