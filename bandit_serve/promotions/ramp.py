"""Ramp: a version as an arm of an experiment, whose share is held at each step for a while, and watched meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from bandit_serve.changes.guardrails import asked_guardrails, missing_guardrail
from bandit_serve.errors import Conflict, InvalidInput, NotFound
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import MAX_METRICS, Arm, Experiment, Record
from bandit_serve.folds.experiment import HistoryEntry, LiveExperiment
from bandit_serve.node import Node
from bandit_serve.promotions.judgement import StepJudgement
from bandit_serve.promotions.offline import arms_with
from bandit_serve.registry.promotions import Promotion, Promotions, RampPlan, StepTaken, promotion_in
from bandit_serve.results.ending import standing_harms
from bandit_serve.results.floors import unfloored
from bandit_serve.results.fold import ResultsFold
from bandit_serve.results.guardrail import harmed
from bandit_serve.results.report import sample_ratio_of
from bandit_serve.results.tables import objective_table, table_of


async def exposures_of(node: Node, promotion: Promotion) -> dict[str, float]:
    """Decisions for the version's arm until now, for the beginning of a step."""
    try:
        live = await node.experiment_changes.known(_experiment(promotion))
    except NotFound:
        return {"exposures": 0.0}
    arm = arm_of(live, promotion)
    if arm is None:
        return {"exposures": 0.0}
    return {"exposures": float(live.exposures[live.experiment.arm_names.index(arm)])}


def arm_of(live: LiveExperiment, promotion: Promotion) -> str | None:
    """Arm of the version: the one that the promotion gave it or held, or one that it has; None where there is none.

    The one that the promotion held stays its arm after somebody has removed it.
    """
    statuses = live.record.arm_statuses
    if promotion.arm in statuses:
        return promotion.arm
    held = next((each.arm for each in live.history if _holds(each, promotion)), None)
    if held is not None:
        return held
    there = arms_with(live.experiment, promotion.model, promotion.version)
    return next((arm for arm in there if statuses[arm] != "removed"), None)


def _holds(entry: HistoryEntry, promotion: Promotion) -> bool:
    return entry.who == promotion.actor and entry.what in ("add_arm", "hold_arm")


async def judge_ramp(node: Node, promotion: Promotion) -> StepJudgement | None:
    """Gives the arm its share, and judges what came of it; None while the step goes on.

    The step has failed where a guardrail is harmed, the objective is shown to be worse than control's, the arms do not
    get the traffic that was logged, or no interval is valid. It goes on while the experiment is paused, the arm was not
    drawn, or the objective has no value of it and of control. With `missing: zero` the windows of the decisions of
    `each` have to close, too.
    """
    step, name = promotion.steps[-1], _experiment(promotion)
    assert isinstance(step.share, float)
    try:
        live = await node.experiment_changes.known(name)
    except NotFound:
        return StepJudgement(False, f"The experiment {name} was deleted.", {})
    evidence: dict[str, Any] = {"experiment": name, "share": step.share}
    arm = arm_of(live, promotion)
    ended = _ended(live, promotion, arm)
    if ended is not None:
        return StepJudgement(False, ended, evidence)
    if arm is None or (live.record.arm_statuses[arm] == "active" and live.record.held.get(arm) != step.share):
        refused = await _give_share(node, live, promotion, arm, step.share)
        return None if refused is None else StepJudgement(False, refused, evidence)
    return await _judge_arm(node, promotion, step, arm, evidence)


def _ended(live: LiveExperiment, promotion: Promotion, arm: str | None) -> str | None:
    """Sentence on what has become of the experiment so that no step can be judged in it; None where nothing has."""
    experiment = live.experiment
    if live.record.status == "stopped":
        return f"The experiment {experiment.id} was stopped."
    control = experiment.arms[experiment.control_arm]
    if (control.model, control.version) != (promotion.model, promotion.former):
        return f"The control of {experiment.id} does not serve {promotion.former}."
    if unfloored(experiment.policy):
        return f"The policy of {experiment.id} has no floor (min_share 0) any more: no interval is valid."
    if arm is not None and live.record.arm_statuses[arm] == "removed":
        return f"The arm {arm} was removed."
    return None


async def _judge_arm(
    node: Node, promotion: Promotion, step: StepTaken, arm: str, evidence: dict[str, Any]
) -> StepJudgement | None:
    """Judges the arm, which has the step's share, by the experiment's results."""
    plan = promotion.plan.ramp
    assert isinstance(plan, RampPlan)
    live = await node.replica.at_rest(_experiment(promotion))
    record, k = live.record, live.experiment.arm_names.index(arm)
    exposures = int(live.exposures[k])
    seen = await node.results.read(live, live.offset, lambda fold: _seen(fold, record, k))
    before = step.before if isinstance(step.before, dict) else {}
    since_ms = _since_ms(live, arm, step.began_ms)
    evidence |= {"arm": arm, "exposures": exposures - round(before.get("exposures", 0.0)), **seen}
    failed = _failure(record, arm, evidence)
    if failed is not None:
        return StepJudgement(False, failed, evidence)
    now_ms = await node.store.time_ms()
    waited = now_ms >= since_ms + plan.each_ms + _closing_ms(record.experiment)
    seen_some = evidence["exposures"] >= 1 and min(evidence["n"], evidence["control_n"]) > 0
    if record.status != "running" or not waited or not seen_some:
        return None
    reason = (
        f"{arm} had {100 * evidence['share']:.3g}% at most for {plan.each}, and {evidence['exposures']:,} decisions: "
        f"{_judged(evidence)}."
    )
    return StepJudgement(True, reason, evidence)


async def take_back(node: Node, promotion: Promotion) -> None:
    """Ends the hold on the arm of a promotion that has ended; the arm of one that was not promoted has no traffic.

    An arm that the promotion gave is removed. One that was there is paused where the promotion was stopped, and is as
    it was before where it was cancelled. One that somebody else has held since stays as it is.
    """
    try:
        live = await node.experiment_changes.known(_experiment(promotion))
    except NotFound:
        return
    record, changes, who = live.record, node.experiment_changes, promotion.actor
    name, arm = live.experiment.id, arm_of(live, promotion)
    if arm is None or record.status == "stopped" or record.arm_statuses[arm] == "removed":
        return
    if _holder(live, arm) != who:
        return
    reason = promotion.reason if isinstance(promotion.reason, str) else None
    if promotion.state != "production" and arm == promotion.arm:
        await changes.remove_arm(name, arm, who, reason=reason)
        return
    if promotion.state == "stopped" and record.arm_statuses[arm] == "active":
        await changes.pause_arm(name, arm, who, reason=reason)
    if arm in record.held:
        await changes.hold_arm(name, arm, UNSET, who, reason=reason)


def strays(experiments: Iterable[LiveExperiment], promotions: Promotions) -> list[Promotion]:
    """Promotions that have ended and hold an arm all the same.

    A worker that is held up just before it gives a share, and killed after it, leaves an arm so: the promotion ended in
    between, and its arm was taken back already.
    """
    holders = {
        _holder(live, arm)
        for live in experiments
        if live.record.held and live.record.status != "stopped"
        for arm in live.record.held
        if live.record.arm_statuses[arm] != "removed"
    }
    known = (each for of_model in promotions.values() for each in of_model) if holders else ()
    return [each for each in known if not each.is_open and each.actor in holders]


def _holder(live: LiveExperiment, arm: str) -> str | None:
    """Author of the last change that held an arm, or ended its hold; None where nothing did."""
    changes = (each for each in reversed(live.history) if each.arm == arm)
    return next((each.who for each in changes if each.what in ("add_arm", "hold_arm")), None)


def _experiment(promotion: Promotion) -> str:
    assert isinstance(promotion.plan.experiment, str)
    return promotion.plan.experiment


async def _give_share(
    node: Node, live: LiveExperiment, promotion: Promotion, arm: str | None, share: float
) -> str | None:
    """Gives the arm the step's share, unless something bars it; returns the sentence why it can not have it."""
    try:
        missing = _missing(live.experiment, promotion)
    except (Conflict, InvalidInput) as error:
        return str(error)
    refused = _barred(node, live, promotion, arm, missing)
    if refused is None:
        refused = await _hold(node, live, promotion, arm, share, missing)
    if refused is None:
        await _take_back_if_ended(node, promotion)
    return refused


def _barred(
    node: Node, live: LiveExperiment, promotion: Promotion, arm: str | None, missing: Sequence[Metric]
) -> str | None:
    """Sentence on what lasts and keeps the experiment from giving the arm its share; None where nothing does."""
    experiment = live.experiment
    if experiment.stopping.horizon and (arm is None or missing):
        return f"{experiment.id} is on its way to a fixed end: it can get neither an arm nor a guardrail."
    if len(experiment.metrics) + len(missing) > MAX_METRICS:
        return f"{experiment.id} has {len(experiment.metrics)} metrics, and no room for the guardrails."
    if arm is None and node.replica.registry.version(promotion.model, promotion.version).pruned:
        return f"The file of {promotion.version} of {promotion.model} was removed by retention."
    return None


async def _hold(
    node: Node,
    live: LiveExperiment,
    promotion: Promotion,
    arm: str | None,
    share: float,
    missing: Sequence[Metric],
) -> str | None:
    """Gives the arm its share; returns the sentence why the experiment does not allow it, None where it does.

    Where others change it at the same time the next look tries again.
    """
    changes, name, who = node.experiment_changes, live.experiment.id, promotion.actor
    reason = f"The promotion {promotion.id} of {promotion.model} {promotion.version} is at {share:.3g}."
    try:
        if arm is None:
            new = Arm(promotion.arm, promotion.model, promotion.version)
            await changes.add_arm(name, new, who, held=share, guardrails=missing, reason=reason)
            return None
        for metric in missing:
            await changes.add_metric(name, metric, who, reason=reason)
        await changes.hold_arm(name, arm, share, who, reason=reason)
    except Conflict:
        return None
    except InvalidInput as error:
        now = await changes.known(name)
        held = now.record.held.get(arm_of(now, promotion) or "")
        # Another holder of the lease may have been quicker.
        return None if held == share else str(error)
    return None


async def _take_back_if_ended(node: Node, promotion: Promotion) -> None:
    """Takes an arm back that came after the end, which another worker with the lease has made meanwhile."""
    registry = await node.model_changes.known()
    now = promotion_in(registry.promotions, promotion.model, promotion.id)
    if not now.is_under_way:
        await take_back(node, now)


def _missing(experiment: Experiment, promotion: Promotion) -> list[Metric]:
    assert isinstance(promotion.plan.ramp, RampPlan)
    asked = asked_guardrails(experiment, promotion.plan.ramp.guardrails)
    found = [missing_guardrail(experiment, given) for given in asked]
    return [metric for metric in found if metric is not None]


def _since_ms(live: LiveExperiment, arm: str, began_ms: int) -> int:
    """Log time since which the arm has had the step's share: not before it was given it, nor while anything paused."""
    given = (
        entry.at_ms
        for entry in reversed(live.history)
        if entry.what == "start" or (entry.arm == arm and entry.what in ("add_arm", "hold_arm", "resume_arm"))
    )
    return max(next(given, began_ms), began_ms)


def _seen(fold: ResultsFold, record: Record, arm: int) -> dict[str, Any]:
    """Evidence of the results: the objective of the arm, the sample ratio, and the guardrails that are harmed."""
    record = max(record, fold.record, key=lambda known: known.revision)
    table = objective_table(fold, record)
    row, control = table.row(arm, None), table.row(table.control, None)
    name = record.experiment.arm_names[arm]
    return {
        "metric": table.metric.name,
        "goal": table.metric.goal,
        "valid": table.valid,
        "n": row.n,
        "control_n": control.n,
        "mean": row.mean,
        "control_mean": control.mean,
        "difference": row.difference,
        "difference_interval": row.difference_interval,
        "p_value": row.p_value,
        "srm": msgspec.to_builtins(sample_ratio_of(fold, table)),
        "guardrails": _measured(fold, record, arm),
        "harms": [
            msgspec.to_builtins(harm)
            for harm in standing_harms(record, harmed(fold, record))
            if harm.arm == name
        ],
    }


def _measured(fold: ResultsFold, record: Record, arm: int) -> list[str]:
    """Names of the guardrails that have a value of the arm and of control, so that harm could be seen."""
    metrics, control = record.experiment.metrics, record.experiment.control_arm
    tables = {each.name: table_of(fold, record, k) for k, each in enumerate(metrics) if each.is_guardrail}
    return [name for name, table in tables.items() if min(table.sums.n[arm], table.sums.n[control]) > 0]


def _judged(evidence: dict[str, Any]) -> str:
    """What a step that was passed was judged by, in words, and what could not be judged."""
    guardrails, metric = evidence["guardrails"], evidence["metric"]
    return (
        (f"no harm was shown on {', '.join(guardrails)}, " if guardrails else "no guardrail was measured, ")
        + (
            f"{metric} could not be compared yet, and "
            if evidence["difference_interval"] is None
            else f"{metric} is not shown to be worse, and "
        )
        + (
            "the arms got the traffic that was logged"
            if evidence["srm"]["verdict"] == "ok"
            else "there were too few decisions to compare the traffic with the logged shares"
        )
    )


def _closing_ms(experiment: Experiment) -> int:
    """Time until decisions without a reward are analysed."""
    return experiment.attribution.window_ms if experiment.missing == "zero" else 0


def _failure(record: Record, arm: str, evidence: dict[str, Any]) -> str | None:
    """Sentence why a step has failed; None if it has not."""
    if evidence["harms"]:
        return " ".join(str(harm["sentence"]) for harm in evidence["harms"])
    if record.arm_statuses[arm] == "paused":
        return f"The arm {arm} was paused."
    if evidence["srm"]["verdict"] == "mismatch":
        return "The arms did not get the traffic that was logged (sample-ratio mismatch)."
    if not evidence["valid"]:
        return f"No interval of {evidence['metric']} is valid in {record.experiment.id}, so the arm can not be judged."
    interval = evidence["difference_interval"]
    if interval is None:
        return None
    low, high = interval
    if high < 0.0 if evidence["goal"] == "maximize" else low > 0.0:
        control = record.experiment.arm_names[record.experiment.control_arm]
        return (
            f"{evidence['metric']} of {arm} is worse than that of {control}: the difference is between {low:.3g} and "
            f"{high:.3g}."
        )
    return None
