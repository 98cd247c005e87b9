"""Decision that an experiment's objective and guardrails come to together, and since when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from msgspec import UNSET, Struct, UnsetType
from numpy.typing import NDArray

from bandit_serve.base.clock import rfc3339
from bandit_serve.experiments.spec import Record
from bandit_serve.results.metric_result import MetricTable
from bandit_serve.results.tables import objective_table, table_of

if TYPE_CHECKING:
    from bandit_serve.results.fold import ResultsFold

DecisionState = Literal["undecided", "winner", "harm", "no_difference"]
_STATES: tuple[DecisionState, ...] = get_args(DecisionState)
_NO_ARM = -1


class Decision(Struct, frozen=True):
    """Decision so far. `arm` is the winner, or the arm that harms a guardrail.

    `winner`: an arm is named the winner, and harms no guardrail. `harm`: an arm that still gets traffic is shown to
    make a guardrail worse, or no other is left. `no_difference`: the experiment was stopped, and none was shown.
    `since`, where it is not undecided: the time of the log at which that was first seen, without a break until now.
    """

    state: DecisionState
    arm: str | UnsetType = UNSET
    since: str | UnsetType = UNSET
    samples_to_go: int | UnsetType = UNSET
    days_to_go: float | UnsetType = UNSET


@dataclass(frozen=True)
class Judgement:
    """State of the decision, with the index of its arm, and of the arm that is `best` on the objective if it is shown.

    harmed: bool (K,), the arms that harm a guardrail.
    """

    state: DecisionState
    arm: int | None
    best: int | None
    harmed: NDArray[np.bool_]

    @property
    def winner(self) -> int | None:
        return self.arm if self.state == "winner" else None


def judge(fold: ResultsFold, record: Record) -> Judgement:
    """Judges by what the fold has seen. `record` has as many arms as the fold."""
    experiment = record.experiment
    guards = [
        table_of(fold, record, index)
        for index, metric in enumerate(experiment.metrics)
        if metric.is_guardrail
    ]
    return judged(record, objective_table(fold, record), guards)


def judged(record: Record, objective: MetricTable, guards: Sequence[MetricTable]) -> Judgement:
    """Judges by the table of the objective and those of the guardrails.

    The winner is the best arm of those that harm no guardrail; one that is overridden for an arm does not count. Of
    several that harm one, `arm` is the one that would be the winner, or else the one of the most evidence.
    """
    there = objective.there
    harmed = np.zeros(len(there), bool)
    log_e = np.zeros(len(there))
    for table in guards:
        harm = table.guard.harm & there & ~_overridden(record, table.metric.name)
        harmed |= harm
        log_e = np.maximum(log_e, np.where(harm, table.guard.log_e, 0.0))
    best, winner = objective.winner(), objective.winner(~harmed)
    names = record.experiment.arm_names
    if record.status == "stopped":
        winner = None if record.winner is None else names.index(record.winner)
    if winner is not None:
        return Judgement("winner", winner, best, harmed)
    active = there & np.array([status == "active" for status in record.arm_statuses.values()])
    active[objective.control] = False
    of = harmed & active if active.any() else harmed
    if of.any():
        arm = best if best is not None and of[best] else int(np.argmax(np.where(of, log_e, -np.inf)))
        return Judgement("harm", arm, best, harmed)
    if record.status == "stopped" and best is None:
        return Judgement("no_difference", None, best, harmed)
    return Judgement("undecided", None, best, harmed)


def _overridden(record: Record, metric: str) -> NDArray[np.bool_]:
    """True, bool (K,), for arms that were resumed in spite of this guardrail."""
    overridden = record.overridden
    return np.array([metric in overridden.get(name, ()) for name in record.experiment.arm_names])


@dataclass(frozen=True)
class Noted:
    """Decision as a fold noted it at a look: its state, its arm, and since when, Unix time."""

    state: DecisionState
    arm: int | None
    since_ms: int

    def holds(self, judgement: Judgement) -> bool:
        return (self.state, self.arm) == (judgement.state, judgement.arm)

    def columns(self) -> dict[str, NDArray[np.int64]]:
        arm = _NO_ARM if self.arm is None else self.arm
        return {"noted": np.array([_STATES.index(self.state), arm, self.since_ms])}

    @classmethod
    def from_columns(cls, columns: dict[str, NDArray[Any]], n_arms: int) -> Noted:
        """Noted decision of a state; `ValueError` unless it is of one of `n_arms` arms or of none."""
        state, arm, since_ms = columns["noted"].tolist()
        if not (0 <= state < len(_STATES) and _NO_ARM <= arm < n_arms):
            raise ValueError("the snapshot's decision is none that there is")
        return cls(_STATES[state], None if arm == _NO_ARM else arm, since_ms)


def noted(former: Noted | None, judgement: Judgement, now_ms: int) -> Noted | None:
    """Decision to keep after a look at `now_ms`; None while there is none."""
    if judgement.state == "undecided":
        return None
    if former is not None and former.holds(judgement):
        return former
    return Noted(judgement.state, judgement.arm, now_ms)


def decision_of(judgement: Judgement, former: Noted | None, now_ms: int, names: Sequence[str]) -> Decision:
    """Decision as callers see it, `former` being what the fold noted at its last look before `now_ms`."""
    now = noted(former, judgement, now_ms)
    return Decision(
        state=judgement.state,
        arm=UNSET if judgement.arm is None else names[judgement.arm],
        since=UNSET if now is None else rfc3339(now.since_ms),
    )
