"""Data set out of the service's own log."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bandit_serve.errors import InvalidInput
from bandit_serve.experiments.spec import Experiment
from bandit_serve.log.offset import START
from bandit_serve.log.reader import event_of, pages
from bandit_serve.log.repairs import Repairs
from bandit_serve.store.store import Store
from bandit_serve.training.dataset import DataSet
from bandit_serve.training.learning.reward_log import Key, Rating, RewardLog
from bandit_serve.training.rating_rule import rule_of
from bandit_serve.training.ratings import Ratings


async def read_logged(
    store: Store, experiment: Experiment, n_features: int, repairs: Repairs, owner: str | None = None
) -> DataSet:
    """Rewarded predictions of an experiment that its log still holds, in its order: user, item, rating, when.

    n_features: of its context; `owner`: of its log, by default its name; `repairs` say which entries are left out.
    Ratings are rewards of the objective, as utilities where it is minimized (`rule_of`); of a reward that changed, its
    last value counts. `InvalidInput` when there are none: predictions are logged with what they were about while the
    service is set to `learn`.
    """
    owner = owner or experiment.id
    join, latest = RewardLog(experiment.attribution.window_ms, rule_of(experiment)), dict[Key, Rating]()
    async for page in pages(store, owner, START, await store.last_offset(owner)):
        for entry in page.entries:
            for rating in join.apply(entry.offset, event_of(entry, owner, repairs, n_features)):
                # In the place of its last change.
                latest.pop(rating.decision, None)
                latest[rating.decision] = rating
    ratings = [rating for rating in latest.values() if not math.isnan(rating.value)]
    if not ratings:
        raise InvalidInput(
            f"The log of {experiment.id!r} has no rewarded predictions: they are kept for learning while the "
            "service runs with --learn."
        )
    minimized = ", as utilities" if experiment.objective.goal == "minimize" else ""
    return _dataset(ratings, f"rewards of {experiment.id}{minimized}")


def _dataset(ratings: Sequence[Rating], source: str) -> DataSet:
    columns = Ratings(
        np.array([rating.user for rating in ratings]),
        np.array([rating.item for rating in ratings]),
        np.array([rating.value for rating in ratings], np.float32),
        np.array([rating.time_ms // 1000 for rating in ratings], np.int64),
    )
    features = (
        [rating.features or {} for rating in ratings] if any(each.features for each in ratings) else None
    )
    return DataSet(columns, features=features, source=source)
