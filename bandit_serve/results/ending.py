"""Ending of an experiment, or of an arm's traffic, by itself: by time, by a rule, or for a guardrail that is harmed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, Struct
from numpy.typing import NDArray

from bandit_serve.base.clock import rfc3339
from bandit_serve.experiments.spec import Record
from bandit_serve.experiments.stopping import StoppingRule
from bandit_serve.results.best_arm import best_arm
from bandit_serve.results.fold import ResultsFold
from bandit_serve.results.guardrail import Harm, harmed
from bandit_serve.results.metric_result import Interval, MetricTable
from bandit_serve.results.report import sample_ratio_of
from bandit_serve.results.tables import objective_table

MAX_EVIDENCE_ARMS = 20
"""Arms whose numbers go into the evidence: control, the winner, and others in their order."""


class Ending(Struct, frozen=True):
    """Change that the service makes by itself, decided on the record at `revision`.

    `stop` is of the experiment, with its `winner` if there is one; `pause_arm` is of `arm`, for which the guardrails
    `metrics` are harmed. `evidence` has names and numbers, as JSON.
    """

    what: Literal["stop", "pause_arm"]
    who: Literal["schedule", "stopping", "guardrail"]
    revision: int
    reason: str
    evidence: dict[str, Any]
    winner: str | None = None
    arm: str | None = None
    metrics: tuple[str, ...] = ()


class Objective(NamedTuple):
    """Objective of an experiment that is to end.

    active: bool (K,), the arms that are neither paused nor removed. unharmful: bool (K,), those that harm no guardrail
    and so may win. trusted: the arms got the traffic that was logged, as far as is known.
    """

    table: MetricTable
    active: NDArray[np.bool_]
    unharmful: NDArray[np.bool_]
    trusted: bool

    @property
    def others(self) -> list[int]:
        return [int(arm) for arm in np.flatnonzero(self.active) if arm != self.table.control]

    @property
    def winner(self) -> str | None:
        """Winner as the results name it, of the arms that are active; None where the traffic is not to be trusted."""
        arm = self.table.winner(self.unharmful, self.active) if self.trusted else None
        return None if arm is None else self.table.experiment.arm_names[arm]


def ending(fold: ResultsFold, record: Record, now_ms: int) -> Ending | None:
    """What is to happen at `now_ms`, Unix time of the log; None while nothing is.

    A harmed guardrail comes before the end by time, and that before the rule. A paused experiment ends by time only.
    Where the fold has a later record than `record`, that is what is judged.
    """
    record = max(record, fold.record, key=lambda known: known.revision)
    if record.status not in ("running", "paused"):
        return None
    harms = standing_harms(record, harmed(fold, record))
    if record.status == "running":
        broken = _broken(record, harms)
        if broken is not None:
            return broken
    due_ms = record.experiment.stopping.ends_ms(record.started_ms)
    if due_ms is not None and due_ms <= now_ms:
        return _by_time(record, _objective_of(fold.complete(), record, harms), harms, due_ms)
    if record.status == "running" and record.experiment.stopping.rule is not UNSET:
        return _by_rule(fold, record, _objective_of(fold, record, harms))
    return None


def needs_results(record: Record) -> bool:
    """Whether something of the experiment may change by itself when its results do."""
    experiment = record.experiment
    acts = any(metric.on_harm is not UNSET for metric in experiment.metrics)
    return record.status == "running" and (acts or experiment.stopping.rule is not UNSET)


def standing_harms(record: Record, harms: Sequence[Harm]) -> list[Harm]:
    """Harms of arms that are there, without those that a person has overridden."""
    overridden, statuses = record.overridden, record.arm_statuses
    return [
        harm
        for harm in harms
        if statuses[harm.arm] != "removed" and harm.metric not in overridden.get(harm.arm, ())
    ]


def _broken(record: Record, harms: Sequence[Harm]) -> Ending | None:
    """Change that a harmed guardrail asks for."""
    acts = {metric.name: metric.on_harm for metric in record.experiment.metrics}
    statuses = record.arm_statuses
    active = [harm for harm in harms if statuses[harm.arm] == "active"]
    stopping = [harm for harm in active if acts[harm.metric] == "stop"]
    if stopping:
        return Ending("stop", "guardrail", record.revision, _sentences(stopping), _evidence_of(stopping))
    pausing = [harm for harm in active if acts[harm.metric] == "pause_arm"]
    if not pausing:
        return None
    arm = pausing[0].arm
    those = [harm for harm in pausing if harm.arm == arm]
    return Ending(
        "pause_arm",
        "guardrail",
        record.revision,
        _sentences(those),
        _evidence_of(those),
        arm=arm,
        metrics=tuple(harm.metric for harm in those),
    )


def _objective_of(fold: ResultsFold, record: Record, harms: Sequence[Harm]) -> Objective:
    experiment = record.experiment
    table = objective_table(fold, record)
    hurt = {harm.arm for harm in harms}
    active = np.array([status == "active" for status in record.arm_statuses.values()])
    unharmful = np.array([name not in hurt for name in experiment.arm_names])
    return Objective(table, active, unharmful, sample_ratio_of(fold, table).verdict != "mismatch")


def _by_time(record: Record, objective: Objective, harms: Sequence[Harm], due_ms: int) -> Ending:
    names = record.experiment.arm_names
    reason = [f"Its time was over at {rfc3339(due_ms)}.", _winning(objective)]
    if not objective.trusted:
        reason.append("The arms did not get the traffic that was logged (sample-ratio mismatch).")
    ahead = objective.table.winner()
    reason += [harm.sentence for harm in harms if ahead is not None and harm.arm == names[ahead]]
    evidence = {"due": rfc3339(due_ms), **_numbers(objective)}
    return Ending("stop", "schedule", record.revision, " ".join(reason), evidence, objective.winner)


def _by_rule(fold: ResultsFold, record: Record, objective: Objective) -> Ending | None:
    table, rule = objective.table, record.experiment.stopping.rule
    if not objective.trusted or not objective.others or not table.sampled(objective.active):
        return None
    if not isinstance(rule, StoppingRule):
        if objective.winner is None:
            return None
        return _stopped_by(record, objective, _winning(objective), objective.winner)
    if rule.best_arm is not UNSET:
        best = best_arm(fold, record, rule.best_arm)
        if best is None or not best.decided:
            return None
        if not (objective.active & objective.unharmful)[best.arm]:
            return None
        name = record.experiment.arm_names[best.arm]
        reason = (
            f"{name} is the best arm on {table.metric.name}, but for a chance of {rule.best_arm:g} at most."
        )
        return _stopped_by(record, objective, reason, name, z=best.least, threshold=best.threshold)
    intervals = [table.difference_interval(arm) for arm in objective.others]
    known = [interval for interval in intervals if interval is not None]
    reached = None if len(known) < len(intervals) else _reached(rule, table, known)
    if reached is None:
        return None
    return _stopped_by(record, objective, f"{reached} {_winning(objective)}", objective.winner)


def _stopped_by(
    record: Record, objective: Objective, reason: str, winner: str | None, **more: float
) -> Ending:
    """Stop by the experiment's rule, with the numbers for it."""
    evidence = {"rule": msgspec.to_builtins(record.experiment.stopping.rule), **more, **_numbers(objective)}
    return Ending("stop", "stopping", record.revision, reason, evidence, winner)


def _reached(rule: StoppingRule, table: MetricTable, intervals: Sequence[Interval]) -> str | None:
    """Sentence that the rule is met, by the intervals of all differences to control; None while it is not."""
    name, control = table.metric.name, table.experiment.arm_names[table.control]
    if rule.precision is not UNSET:
        if all((high - low) / 2 <= rule.precision for low, high in intervals):
            return f"On {name} every difference to {control} is known to within {rule.precision:g}."
        return None
    assert rule.futility is not UNSET
    gains = [high if table.metric.goal == "maximize" else -low for low, high in intervals]
    if all(gain < rule.futility for gain in gains):
        return f"On {name} no arm can gain {rule.futility:g} on {control} any more."
    return None


def _winning(objective: Objective) -> str:
    table, winner = objective.table, objective.winner
    names, level = table.experiment.arm_names, f"at level {table.alpha:g}"
    control = names[table.control]
    if winner is None:
        return f"No winner is named on {table.metric.name}, {level}."
    if winner == control:
        return f"{control} is better on {table.metric.name} than every other arm, {level}."
    return f"{winner} is better on {table.metric.name} than {control}, {level}."


def _numbers(objective: Objective) -> dict[str, Any]:
    """Evidence on the objective: its name and level, and some arms' numbers as in the results."""
    table, names = objective.table, objective.table.experiment.arm_names
    first = [names[table.control], *([] if objective.winner is None else [objective.winner])]
    shown = list(dict.fromkeys([*first, *names]))[:MAX_EVIDENCE_ARMS]
    arms = {}
    for name in shown:
        row = table.row(names.index(name), None)
        arms[name] = {
            "n": row.n,
            "mean": row.mean,
            "difference": row.difference,
            "difference_interval": row.difference_interval,
            "p_value": row.p_value,
        }
    return {"metric": table.metric.name, "alpha": table.alpha, "arms": arms}


def _sentences(harms: Sequence[Harm]) -> str:
    return " ".join(harm.sentence for harm in harms)


def _evidence_of(harms: Sequence[Harm]) -> dict[str, Any]:
    harmed_ones = [
        {
            "arm": harm.arm,
            "metric": harm.metric,
            "difference": harm.difference,
            "bound": harm.bound,
            "n": harm.n,
        }
        for harm in harms
    ]
    return {"harms": harmed_ones[:MAX_EVIDENCE_ARMS]}
