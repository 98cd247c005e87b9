"""Evaluation of candidates by every estimator, with what says how far each is to be believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct, field

from bandit_serve.base.clock import rfc3339
from bandit_serve.errors import InvalidInput
from bandit_serve.evaluation.candidates import Candidate
from bandit_serve.evaluation.decision_folds import FOLDS, folds_of
from bandit_serve.evaluation.decisions import LoggedDecisions
from bandit_serve.evaluation.withholding import closed_to_all
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Experiment
from bandit_serve.results.off_policy import (
    Crossed,
    Diagnostics,
    Estimate,
    Overlap,
    Ridge,
    cross_fitted,
    diagnostics,
    dm,
    dr,
    dros,
    ips,
    overlap,
    snips,
    switch,
)
from bandit_serve.results.off_policy.crossing import Regressor
from bandit_serve.results.off_policy.estimate import Interval
from bandit_serve.results.off_policy.overlap import MAX_UNTRIED
from bandit_serve.results.sequence import Floats

MIN_DECISIONS = 2
METHODS = ("ips", "snips", "dr", "switch", "dros", "dm")


class EvaluationOptions(Struct, frozen=True, kw_only=True):
    """Options of an evaluation. alpha: of all intervals together; tau: of `switch`, and its square is `dros`' lam."""

    interval: Interval = "anytime"
    alpha: float = 0.05
    tau: float = 10.0
    seed: int = 0
    model: Callable[[], Regressor] = Ridge


class CandidateValue(Struct, frozen=True, kw_only=True):
    """Estimates of one candidate by method; empty where there is a `refusal`.

    `decisions` is the number of those in which one of its arms had a chance. `warnings` are sentences. `shares` are the
    mean probabilities with which it would have chosen the arms.
    """

    name: str
    policy: Mapping[str, Any]
    decisions: int
    shares: Mapping[str, float]
    estimates: Mapping[str, Estimate]
    diagnostics: Diagnostics | None
    overlap: Overlap | None
    warnings: list[str]
    refusal: str | None = None


class Tried(Struct, frozen=True, kw_only=True):
    """Candidate that a search tried, with its doubly robust value on the half that the best was chosen on."""

    name: str
    value: float | None
    standard_error: float | None


class Evaluation(Struct, frozen=True, kw_only=True):
    """Values of candidates on one metric. `logged` is that of the policy that made the decisions.

    After a search `policies` has the best alone, on the half of the decisions that had no say in its choice, and
    `searched` has all, on the other.

    With several candidates each interval is at the level 1 - alpha/m of m, so that all hold together (Bonferroni).
    """

    experiment: str
    metric: str
    goal: str
    missing: str
    unit: str
    n: int
    first: str | None = field(name="from")
    last: str | None = field(name="to")
    interval: str
    alpha: float
    alpha_each: float
    logged: Estimate
    policies: list[CandidateValue]
    searched: list[Tried] = []


def evaluate(
    experiment: Experiment,
    metric: Metric,
    decisions: LoggedDecisions,
    candidates: Sequence[Candidate],
    options: EvaluationOptions,
) -> Evaluation:
    """Estimates what the candidates would have earned. Raises `InvalidInput` for fewer than two decisions."""
    n = len(decisions.arms)
    bounds = range_of(experiment, metric, n, options)
    alpha_each = options.alpha / len(candidates)
    features = decisions.x if decisions.x.shape[1] else None
    model = cross_fitted(
        decisions.value,
        decisions.arms,
        len(experiment.arms),
        features,
        model=options.model,
        folds=FOLDS,
        fold=folds_of(decisions.key, options.seed),
    )
    every = np.ones(n)
    logged = ips(decisions.value, every, every, **_options(options, alpha_each, bound_of(bounds, 1.0)))
    values = [
        _value(experiment, bounds, decisions, candidate, model, options, alpha_each)
        for candidate in candidates
    ]
    return Evaluation(
        experiment=experiment.id,
        metric=metric.name,
        goal=metric.goal,
        missing=experiment.missing,
        unit=experiment.unit,
        n=n,
        first=rfc3339(int(decisions.time_ms.min())),
        last=rfc3339(int(decisions.time_ms.max())),
        interval=options.interval,
        alpha=options.alpha,
        alpha_each=alpha_each,
        logged=logged,
        policies=values,
    )


def search(
    experiment: Experiment,
    metric: Metric,
    decisions: LoggedDecisions,
    candidates: Sequence[Candidate],
    options: EvaluationOptions,
) -> Evaluation:
    """Chooses the best candidate on one half of the decisions, and estimates it on the other.

    On the half that it was chosen on it would look better than it is. Raises `InvalidInput` where the log has no answer
    for any, or too few decisions.
    """
    half = np.random.default_rng(options.seed).permutation(len(decisions.arms)) % 2 == 0
    on_one = evaluate(experiment, metric, decisions.those(half), candidates, options)
    tried = [(each.name, each.estimates.get("dr")) for each in on_one.policies]
    able = [place for place, (_, estimate) in enumerate(tried) if estimate is not None]
    if not able:
        raise InvalidInput(on_one.policies[0].refusal or "The log has no answer.")
    sign = 1.0 if metric.goal == "maximize" else -1.0
    best = max(able, key=lambda place: sign * on_one.policies[place].estimates["dr"].value)
    on_other = evaluate(experiment, metric, decisions.those(~half), [candidates[best]], options)
    searched = [
        Tried(
            name=name,
            value=estimate.value if estimate else None,
            standard_error=estimate.standard_error if estimate else None,
        )
        for name, estimate in tried
    ]
    return msgspec.structs.replace(on_other, searched=searched)


def _value(
    experiment: Experiment,
    bounds: tuple[float, float] | None,
    decisions: LoggedDecisions,
    candidate: Candidate,
    model: Crossed,
    options: EvaluationOptions,
    alpha: float,
) -> CandidateValue:
    target = candidate.probabilities(decisions, options.seed)
    closed = ~decisions.eligible & ~decisions.withheld
    warnings = closed_to_all(experiment.arm_names, (closed & (target > MAX_UNTRIED)).sum(axis=0), len(target))
    target = np.where(closed, 0.0, target)
    mass = target.sum(axis=1)
    open_ = mass > 0.0
    if not open_.all():
        n_shut = int((~open_).sum())
        warnings.append(f"In {n_shut:,} decisions none of its arms could be chosen: they are left out.")
    shares = dict(zip(experiment.arm_names, (0.0,) * len(experiment.arms), strict=True))
    if not open_.any():
        return refused(candidate, shares, warnings, None, None, "None of its arms ever had a chance.")
    decisions, target, outcomes = decisions.those(open_), target[open_], Crossed(model.outcomes[open_])
    target = target / target.sum(axis=1, keepdims=True)
    shares = dict(zip(experiment.arm_names, target.mean(axis=0).tolist(), strict=True))
    known = np.where(np.isnan(decisions.shares), 1.0, decisions.shares)
    missed = overlap(known, target)
    chosen = target[np.arange(len(target)), decisions.arms]
    weights = diagnostics(decisions.propensity, chosen)
    refusal = missed.refusal(experiment.arm_names) or weights.refusal
    if refusal is not None:
        return refused(candidate, shares, warnings, weights, missed, refusal)
    return CandidateValue(
        name=candidate.name,
        policy=candidate.about,
        decisions=len(target),
        shares=shares,
        estimates=_estimates(bounds, decisions, target, chosen, outcomes, options, alpha),
        diagnostics=weights,
        overlap=missed,
        warnings=[*warnings, *weights.warnings],
    )


def refused(
    candidate: Candidate,
    shares: Mapping[str, float],
    warnings: list[str],
    weights: Diagnostics | None,
    missed: Overlap | None,
    refusal: str,
) -> CandidateValue:
    return CandidateValue(
        name=candidate.name,
        policy=candidate.about,
        decisions=0 if weights is None else weights.n,
        shares=shares,
        estimates={},
        diagnostics=weights,
        overlap=missed,
        warnings=warnings,
        refusal=refusal,
    )


def _estimates(
    bounds: tuple[float, float] | None,
    decisions: LoggedDecisions,
    target: Floats,
    chosen: Floats,
    outcomes: Crossed,
    options: EvaluationOptions,
    alpha: float,
) -> dict[str, Estimate]:
    plain = (decisions.value, decisions.propensity, chosen)
    q, q_target = outcomes.of(decisions.arms), outcomes.under(target)
    doubly = (*plain, q, q_target)
    # A weight that some arm might have had, not only those that were drawn.
    with np.errstate(divide="ignore", invalid="ignore"):
        largest = float(np.nanmax(np.where(target > 0.0, target / decisions.shares, 0.0)))
    largest = max(largest, float((chosen / decisions.propensity).max()))
    shared = _options(options, alpha, bound_of(bounds, largest))
    around = _options(options, alpha, residual_bound(bounds, outcomes, largest))
    normalised = {**shared, "interval": "normal"} if options.interval == "bernstein" else shared
    normalised.pop("bound", None)
    return {
        "ips": ips(*plain, **shared),
        "snips": snips(*plain, **normalised),
        "dr": dr(*doubly, **around),
        "switch": switch(*doubly, tau=options.tau, **around),
        "dros": dros(*doubly, lam=options.tau**2, **around),
        "dm": dm(q_target),
    }


def _options(options: EvaluationOptions, alpha: float, bound: float | None) -> dict[str, Any]:
    return {"interval": options.interval, "seed": options.seed, "bound": bound, "alpha": alpha}


def range_of(
    experiment: Experiment, metric: Metric, n: int, options: EvaluationOptions
) -> tuple[float, float] | None:
    """Lowest and highest value of a decision, or of a unit; None without bounds.

    Raises `InvalidInput` for n decisions that are too few, and for an interval that needs bounds.
    """
    if n < MIN_DECISIONS:
        raise InvalidInput(
            f"Of {experiment.id} there are {n} decisions with a value of {metric.name}: too few to say."
        )
    traits = metric.traits
    bounds = (traits.floor, traits.ceiling) if traits.has_bounds(experiment.unit) else None
    if options.interval == "bernstein" and bounds is None:
        raise InvalidInput(f"{metric.name} has no bounds, which Bernstein's interval needs.")
    return bounds


def bound_of(bounds: tuple[float, float] | None, largest: float) -> float | None:
    """Range of weight x reward."""
    if bounds is None:
        return None
    low, high = bounds
    return largest * (max(high, 0.0) - min(low, 0.0))


def residual_bound(bounds: tuple[float, float] | None, outcomes: Crossed, largest: float) -> float | None:
    """Range of q_target + weight x (reward - q)."""
    if bounds is None:
        return None
    low, high = bounds
    lowest, highest = float(outcomes.outcomes.min()), float(outcomes.outcomes.max())
    return (highest - lowest) + largest * (max(high - lowest, 0.0) - min(low - highest, 0.0))
