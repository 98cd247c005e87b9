"""Offline step: what is known of a version, and of the one in production, before it has any traffic.

Beside their metrics an offline gate may ask the experiment's log what each would have earned, as the doubly robust
estimate has it. `current.` before a name is the version in production.

    off_policy.value                     mean of the objective, had the version answered everybody
    off_policy.lower, off_policy.upper   ends of its interval, valid at any time
    off_policy.gain                      what it is better by than the version in production
    off_policy.gain_lower                the least that it is better by, by the intervals of both

Both are estimated on the same decisions, those in which an arm of either had a chance: what was decided before the
version had an arm is of another time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit_serve.errors import InvalidInput, NotFound
from bandit_serve.evaluation.candidates import Candidate, of_version
from bandit_serve.evaluation.decisions import LoggedDecisions
from bandit_serve.evaluation.evaluation import CandidateValue, Evaluation, EvaluationOptions, evaluate
from bandit_serve.evaluation.sources import from_log, metric_of
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Experiment
from bandit_serve.export.reading import TimeSpan
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.node import Node
from bandit_serve.promotions.judgement import StepJudgement
from bandit_serve.registry.promotions import Promotion
from bandit_serve.registry.registry import Version
from bandit_serve.training.gates import CURRENT, Gate

OFF_POLICY = "off_policy."
OWN_FACTS = tuple(f"{OFF_POLICY}{name}" for name in ("value", "lower", "upper"))
OFF_POLICY_FACTS = (
    *OWN_FACTS,
    *(f"{CURRENT}{name}" for name in OWN_FACTS),
    f"{OFF_POLICY}gain",
    f"{OFF_POLICY}gain_lower",
)
MAX_DECISIONS = 1_000_000
"""Decisions that an estimate is made of, at most: of more, the newest."""
METHOD = "dr"


def asks_log(gate: Gate) -> bool:
    """Whether a gate asks for what a version would have earned."""
    return any(OFF_POLICY in name for name in gate.names)


def compared_metric(version: Version, former: Version) -> str | None:
    """Metric that "not worse" compares: what training searched by, or else the only one that both have."""
    training = version.metadata.get("training")
    searched_by = training.get("searched_by") if isinstance(training, dict) else None
    both = version.metrics.keys() & former.metrics.keys()
    if isinstance(searched_by, str) and searched_by in both:
        return searched_by
    return both.pop() if len(both) == 1 else None


async def judge_offline(node: Node, promotion: Promotion) -> StepJudgement:
    """Judges by the metrics of both versions, and by the experiment's log where there is one that has both."""
    registry = await node.model_changes.known()
    version = registry.version(promotion.model, promotion.version)
    former = registry.version(promotion.model, promotion.former)
    assert isinstance(promotion.plan.offline, str)
    gate = Gate(promotion.plan.offline)
    evidence: dict[str, Any] = {"gate": gate.text}
    own: dict[str, float] = dict(version.metrics)
    current: dict[str, float] = dict(former.metrics)
    if asks_log(gate):
        assert isinstance(promotion.plan.experiment, str)
        try:
            live = await node.experiment_changes.known(promotion.plan.experiment)
            found = await _off_policy(node, live, promotion)
        except NotFound:
            deleted = f"The experiment {promotion.plan.experiment} was deleted."
            return StepJudgement(False, deleted, evidence)
        if isinstance(found, str):
            evidence["off_policy"] = {"refusal": found}
        else:
            own |= _facts(found)
            current |= _of_one(found.policies[1])
            evidence["off_policy"] = _shown(found, promotion)
    compared = (compared_metric(version, former) or "") if gate.compares else ""
    verdict = gate.check(own, compared, current, strict=True)
    names = {name.removeprefix(CURRENT) for name in gate.names} | {compared}
    evidence["metrics"] = {name: own[name] for name in sorted(names) if name in own}
    evidence["current"] = {name: current[name] for name in sorted(names) if name in current}
    return StepJudgement(verdict.open, f"{verdict.reason}.", evidence)


async def _off_policy(node: Node, live: LiveExperiment, promotion: Promotion) -> Evaluation | str:
    """Values of the version and of the former one, or the sentence why the log has none."""
    metric = metric_of(live.experiment, None)
    names = [f"{promotion.model}/{name}" for name in (promotion.version, promotion.former)]
    decisions = await from_log(node, live, metric.name, _newest(live), MAX_DECISIONS)
    try:
        return await asyncio.to_thread(_evaluated, live.experiment, metric, decisions, names)
    except (InvalidInput, NotFound) as error:
        # No arm of the experiment has a version, or there are too few decisions.
        return str(error)


def _evaluated(
    experiment: Experiment, metric: Metric, decisions: LoggedDecisions, names: Sequence[str]
) -> Evaluation | str:
    candidates = [of_version(name, experiment) for name in names]
    shared = decisions.those(_open_to_all(candidates, decisions))
    if not len(shared.arms):
        return f"In no decision of {experiment.id} with a value of {metric.name} had both versions a chance."
    found = evaluate(experiment, metric, shared, candidates, EvaluationOptions())
    refused = next((each.refusal for each in found.policies if each.refusal is not None), None)
    return found if refused is None else refused


def _open_to_all(candidates: Sequence[Candidate], decisions: LoggedDecisions) -> NDArray[np.bool_]:
    """Mask, bool (n,), of the decisions whose share vector is known and gives an arm of each candidate a chance."""
    had_chance = decisions.shares > 0.0
    mask = np.ones(len(had_chance), np.bool_)
    for candidate in candidates:
        mask &= (had_chance & (candidate.probabilities(decisions, 0) > 0.0)).any(axis=1)
    return mask


def _newest(live: LiveExperiment) -> TimeSpan:
    """Span of the newest decisions, `MAX_DECISIONS` of them if they came evenly."""
    n, since_ms = float(live.exposures.sum()), live.record.started_ms
    if n <= MAX_DECISIONS or since_ms is None:
        return TimeSpan()
    span_ms = live.offset.time_ms - since_ms
    return TimeSpan(since_ms=live.offset.time_ms - round(span_ms * MAX_DECISIONS / n))


def _of_one(value: CandidateValue) -> dict[str, float]:
    estimate = value.estimates[METHOD]
    facts = {f"{OFF_POLICY}value": estimate.value}
    if estimate.interval is not None:
        facts |= {f"{OFF_POLICY}lower": estimate.interval[0], f"{OFF_POLICY}upper": estimate.interval[1]}
    return facts


def _facts(found: Evaluation) -> dict[str, float]:
    facts, current = (_of_one(value) for value in found.policies)
    maximize = found.goal == "maximize"
    sign = 1.0 if maximize else -1.0
    gain = {f"{OFF_POLICY}gain": sign * (facts[f"{OFF_POLICY}value"] - current[f"{OFF_POLICY}value"])}
    least, most = ("lower", "upper") if maximize else ("upper", "lower")
    if f"{OFF_POLICY}{least}" in facts and f"{OFF_POLICY}{most}" in current:
        difference = facts[f"{OFF_POLICY}{least}"] - current[f"{OFF_POLICY}{most}"]
        gain[f"{OFF_POLICY}gain_lower"] = sign * difference
    return facts | gain


def _shown(found: Evaluation, promotion: Promotion) -> Mapping[str, Any]:
    estimates = {
        name: {
            "value": value.estimates[METHOD].value,
            "interval": value.estimates[METHOD].interval,
            "decisions": value.decisions,
            "diagnostics": msgspec.to_builtins(value.diagnostics),
            "warnings": value.warnings,
        }
        for name, value in zip((promotion.version, promotion.former), found.policies, strict=True)
    }
    return {
        "metric": found.metric,
        "goal": found.goal,
        "n": found.n,
        "from": found.first,
        "to": found.last,
        "alpha": found.alpha,
        "versions": estimates,
    }


def arms_with(experiment: Experiment, model: str, version: str) -> list[str]:
    return [arm.name for arm in experiment.arms if (arm.model, arm.version) == (model, version)]
