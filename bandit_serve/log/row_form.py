"""Form of the rows in an experiment's log: how wide they are, and which keys of the store count them."""

from __future__ import annotations

from typing import NamedTuple

from bandit_serve.experiments.logged import n_logged
from bandit_serve.experiments.spec import Experiment
from bandit_serve.log.events import REVISION, REWARD
from bandit_serve.log.times import COUNTED_MS


class RowForm(NamedTuple):
    """Form of a log's rows, from which the marks that they leave are known.

    period_ms: length of a period of events by unit; 0 where events are known by decision.
    """

    reward_bytes: int
    revision_bytes: int
    period_ms: int
    two_valued: tuple[bool, ...]
    metrics: tuple[str, ...]

    @classmethod
    def of(cls, experiment: Experiment) -> RowForm:
        """Form of the rows in an experiment's log."""
        x_bytes = 4 * n_logged(experiment)
        by_unit = experiment.unit == "user"
        return cls(
            REWARD.itemsize + x_bytes,
            REVISION.itemsize + x_bytes,
            experiment.attribution.window_ms + COUNTED_MS if by_unit else 0,
            tuple(bool(metric.traits.two_valued) for metric in experiment.metrics),
            tuple(metric.name for metric in experiment.metrics),
        )


NO_ROWS = RowForm(0, 0, 0, (), ())
