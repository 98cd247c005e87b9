"""Figures of an experiment as `/v1/stats` has them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import UNSET, Struct, UnsetType

from bandit_serve.api.views import AlarmView, alarm_view
from bandit_serve.experiments.spec import Status
from bandit_serve.folds.experiment import LiveExperiment


class ContextStats(Struct, frozen=True):
    """Values in contexts of requests that the features could not use, in the answering worker.

    `missing` and `unknown` count, by field, values that were absent or not among those of the schema. `unexpected`
    counts values without a field. `far` counts, by numeric field, decisions in the log with a value so far outside the
    field's others that a contextual policy clipped it.
    """

    missing: dict[str, int]
    unknown: dict[str, int]
    far: dict[str, int]
    unexpected: int


class DelayStats(Struct, frozen=True):
    """Seconds within which half, and nine in ten, of an arm's rewards of the objective came after their decisions.

    They are of the rewards so far, of which slow ones are still missing, and up to a fifth above the delay itself.
    """

    half_s: float
    most_s: float


class ExperimentStats(Struct, frozen=True):
    """Figures of an experiment by arm: current shares, and logged exposures and rewards of the objective.

    The mean reward is the policy's estimate, null while nothing is known of it. Missing rewards that count as zero are
    in it; those of open decisions count by how likely a reward would have come by now. `alarms` lists the last 100
    changes of means that were noticed; it is null with a contextual policy, under which an arm's mean changes by
    itself. `ejected` lists the arms that the answering worker leaves out now because their model failed in it.
    `context` is null without a schema. `delays` has the arms with a reward, where a missing one counts as zero and the
    policy knows no context.
    """

    status: Status
    policy: str
    shares: dict[str, float]
    exposures: dict[str, int]
    rewards: dict[str, int]
    ejected: list[str]
    means: dict[str, float | None]
    alarms: list[AlarmView] | None
    context: ContextStats | None
    delays: dict[str, DelayStats] | UnsetType = UNSET


def experiment_stats(
    live: LiveExperiment, arms: Sequence[str], shares: Sequence[float], ejected: Sequence[str]
) -> ExperimentStats:
    """Figures of an experiment, with the names of its arms, their shares and those that are left out here."""
    exposures, rewards = (
        dict(zip(arms, column.tolist(), strict=True)) for column in (live.exposures, live.rewards)
    )
    means = [None if math.isnan(mean) else mean for mean in live.means().tolist()]
    return ExperimentStats(
        live.record.status,
        live.experiment.policy.kind,
        dict(zip(arms, shares, strict=True)),
        exposures,
        rewards,
        list(ejected),
        dict(zip(arms, means, strict=True)),
        None if live.alarms is None else [alarm_view(alarm, arms) for alarm in live.alarms.alarms],
        _context_stats(live),
        _delay_stats(live, arms),
    )


def _delay_stats(live: LiveExperiment, arms: Sequence[str]) -> dict[str, DelayStats] | UnsetType:
    if live.pending is None:
        return UNSET
    half, most = (live.pending.delays.within_ms(part).tolist() for part in (0.5, 0.9))
    return {
        arm: DelayStats(half_ms / 1_000, most_ms / 1_000)
        for arm, half_ms, most_ms in zip(arms, half, most, strict=True)
        if half_ms
    }


def _context_stats(live: LiveExperiment) -> ContextStats | None:
    features = live.features
    if features is None:
        return None
    return ContextStats(dict(features.missing), dict(features.unknown), dict(live.far), features.unexpected)
