"""A data set out of the service's own log."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandit_serve.errors import InvalidInput
from bandit_serve.experiments.spec import Experiment
from bandit_serve.log import events
from bandit_serve.log.offset import START
from bandit_serve.log.repairs import Repairs
from bandit_serve.store.store import Store
from bandit_serve.training.dataset import DataSet
from bandit_serve.training.learning.reward_log import Rating, RewardLog
from bandit_serve.training.rating_rule import rule_of
from bandit_serve.training.ratings import Ratings

READ_COUNT = 500


async def read_logged(
    store: Store, experiment: Experiment, n_features: int, repairs: Repairs, owner: str | None = None
) -> DataSet:
    """Rewarded predictions of an experiment that its log still holds, in its order: user, item, rating, when.

    n_features: of its context; `owner`: of its log, by default its name; `repairs` say which entries are left out.
    Ratings are rewards of the objective, as utilities where it is minimized (`rule_of`).
    `InvalidInput` when there are none: predictions are logged with what they were about while the service is set to
    `learn`.
    """
    owner = owner or experiment.id
    join, found = RewardLog(experiment.attribution.window_ms, rule_of(experiment)), list[Rating]()
    at, end = START, await store.last_offset(owner)
    while at < end:
        entries = await store.read(owner, at, READ_COUNT)
        if not entries:
            break
        for entry in entries:
            if repairs.omission(owner, entry.offset) is None:
                event = events.decode(entry.kind, entry.data, n_features)
                found += join.apply(entry.offset.time_ms, event)
        at = entries[-1].offset
    if not found:
        raise InvalidInput(
            f"The log of {experiment.id!r} has no rewarded predictions: they are kept for learning while the "
            "service runs with --learn."
        )
    minimized = ", as utilities" if experiment.objective.goal == "minimize" else ""
    return _dataset(found, f"rewards of {experiment.id}{minimized}")


def _dataset(found: Sequence[Rating], source: str) -> DataSet:
    ratings = Ratings(
        np.array([rating.user for rating in found]),
        np.array([rating.item for rating in found]),
        np.array([rating.value for rating in found], np.float32),
        np.array([rating.time_ms // 1000 for rating in found], np.int64),
    )
    described = any(rating.features for rating in found)
    return DataSet(
        ratings, features=[rating.features or {} for rating in found] if described else None, source=source
    )
