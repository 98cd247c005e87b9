"""Notices of an experiment, as its log and its results have them: in every worker the same, under the same names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import UNSET

from bandit_serve.base.clock import rfc3339
from bandit_serve.experiments.spec import Record
from bandit_serve.folds.experiment import HistoryEntry, LiveExperiment
from bandit_serve.notices.notice import DAY_MS, Notice
from bandit_serve.results.fold import ResultsFold
from bandit_serve.results.guardrail import harmed
from bandit_serve.results.report import sample_ratio_of
from bandit_serve.results.tables import objective_table


def of_log(live: LiveExperiment, now_ms: int) -> Iterator[Notice]:
    """Notices of entries of the last day: winners, harm that had a consequence, and alarms."""
    for entry in reversed(live.history):
        if entry.at_ms <= now_ms - DAY_MS:
            break
        if entry.what == "stop" and live.record.winner is not None and live.record.status == "stopped":
            yield _winner(live, entry)
        if entry.who == "guardrail":
            yield from _harms(live, entry)
    if live.alarms is not None:
        first = live.alarms.count - len(live.alarms.alarms)
        for number, alarm in enumerate(live.alarms.alarms, first):
            if alarm.at_ms > now_ms - DAY_MS:
                data = {
                    "arm": live.experiment.arm_names[alarm.arm],
                    "metric": live.experiment.objective.name,
                    "since": rfc3339(alarm.since_ms),
                    "before": alarm.before,
                    "after": alarm.after,
                }
                yield Notice("alarm", f"alarm:{live.owner}:{number}", alarm.at_ms, data, live.experiment.id)


def _winner(live: LiveExperiment, entry: HistoryEntry) -> Notice:
    data: dict[str, Any] = {"winner": live.record.winner, "who": entry.who, "reason": entry.reason}
    if entry.evidence is not UNSET:
        data["evidence"] = entry.evidence
    return Notice("winner", f"winner:{live.owner}:{entry.revision}", entry.at_ms, data, live.experiment.id)


def _harms(live: LiveExperiment, entry: HistoryEntry) -> Iterator[Notice]:
    evidence = {} if entry.evidence is UNSET else entry.evidence
    for harm in evidence.get("harms", ()):
        data = {**harm, "reason": entry.reason, "action": entry.what}
        yield _harm(live.owner, live.experiment.id, harm["arm"], harm["metric"], entry.at_ms, data)


def _harm(owner: str, name: str, arm: str, metric: str, at_ms: int, data: dict[str, Any]) -> Notice:
    return Notice("harm", f"harm:{owner}:{arm}:{metric}", at_ms, data, name, for_ever=True)


def of_results(fold: ResultsFold, owner: str, record: Record, now_ms: int) -> list[Notice]:
    """Notices of what the results say now: harm on guardrails, and traffic that is not as it was logged."""
    name, record = record.experiment.id, max(record, fold.record, key=lambda known: known.revision)
    found = []
    for harm in harmed(fold, record):
        data = {
            "arm": harm.arm,
            "metric": harm.metric,
            "difference": harm.difference,
            "bound": harm.bound,
            "n": harm.n,
            "reason": harm.sentence,
        }
        found.append(_harm(owner, name, harm.arm, harm.metric, now_ms, data))
    ratio = sample_ratio_of(fold, objective_table(fold, record))
    if ratio.verdict == "mismatch":
        data = {"p_value": ratio.p_value, "verdict": ratio.verdict}
        found.append(Notice("srm", f"srm:{owner}", now_ms, data, name, for_ever=True))
    return found
