"""Training pipeline: search, measure, fit on everything, and ask the gates."""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from bandit_serve import __version__
from bandit_serve.errors import InvalidInput
from bandit_serve.models.family import BASELINES, FAMILIES
from bandit_serve.models.model import Model
from bandit_serve.training.dataset import DataSet
from bandit_serve.training.metrics import RATING_METRICS, Metrics, is_better
from bandit_serve.training.plan import Plan, check_plan
from bandit_serve.training.pool import Work, run
from bandit_serve.training.ratings import Ratings
from bandit_serve.training.record import MAX_TRIED, DataRecord, RunRecord, TriedParameters
from bandit_serve.training.space import grid, sample
from bandit_serve.training.splits import Rows, latest_of_each_user, random_folds, random_split
from bandit_serve.training.trial import NOT_FITTED, Measure, Trial, fit, measure, new_model, stop_early

Status = Literal["failed", "staged", "production"]


class TrainingProgress(NamedTuple):
    """Progress of a run: of `planned` fits, in this stage of it, `done`; and what the last one gave."""

    stage: Literal["search", "measure", "final"]
    done: int
    planned: int
    trial: Trial | None = None


class Trained(NamedTuple):
    """Family's best model, fitted on all ratings, and all that is known of it.

    `errors`: standard errors of metrics over folds. `status` is what the gates give it.
    """

    model: Model
    record: RunRecord
    errors: Metrics
    status: Status


class TrainingResult(NamedTuple):
    """Result of a training run.

    baseline, popular: metrics of the biases alone and of the most popular items, on the same splits, and their
    standard errors. dropped: families without a model, and why.
    """

    trained: list[Trained]
    baseline: Metrics
    baseline_errors: Metrics
    popular: Metrics
    popular_errors: Metrics
    seconds: float
    dropped: dict[str, str]


def train(
    data: DataSet,
    plan: Plan | None = None,
    *,
    current: Mapping[str, float] | None = None,
    on_progress: Callable[[TrainingProgress], object] = lambda progress: None,
) -> TrainingResult:
    """Searches hyper-parameters of each family, measures the best on splits, and fits it on all ratings.

    current : metrics of the version that is in production, for gates
    on_progress : called after each fit

    A combination that diverges, or is too large, is the worst of its family; a family of which nothing else is left is
    dropped. The same
    data and plan give the same models and metrics. Raises `InvalidInput` for a plan that does not go with the data, or
    of which no family is left, `UsageError` where a library that it needs is not installed.
    """
    plan = plan or Plan()
    check_plan(plan)
    if plan.relevant_from is None:
        plan = msgspec.structs.replace(plan, relevant_from=data.ratings.liked_from)
    started_s = time.perf_counter()
    pairs = data.ratings.pairs
    dropped: dict[str, str] = {}
    best, tried = _search(data, pairs, plan, dropped, on_progress)
    measured = _measure(data, pairs, plan, best, dropped, on_progress)
    baselines = {name: measured[family] for name, family in BASELINES.items()}
    baseline, popular = baselines["baseline"], baselines["popular"]
    trained = []
    for number, (family, parameters) in enumerate(best.items()):
        if family in dropped:
            continue
        fit_s = time.perf_counter()
        try:
            model = fit(new_model(family, parameters, plan.seed), data)
        except NOT_FITTED as error:
            dropped[family] = f"fitted on all ratings: {error}"
            continue
        seconds = time.perf_counter() - fit_s
        metrics, errors = measured[family]
        metrics |= _advantage(measured[family])
        status, reason = judge(
            plan, family, metrics, {name: each.metrics for name, each in baselines.items()}, current
        )
        trained.append(
            Trained(
                model,
                RunRecord(
                    family=family,
                    parameters=dict(model.parameters),
                    metrics=metrics,
                    baseline=baseline.metrics,
                    popular=popular.metrics,
                    data=_describe(data, pairs),
                    code=_code(),
                    seed=plan.seed,
                    split=msgspec.to_builtins(plan.split),
                    trials=len(tried[family]),
                    seconds=seconds,
                    gates={
                        str(status): gate.text
                        for status in plan.gates
                        if (gate := plan.gate(status)) is not None
                    },
                    status=status,
                    reason=reason,
                    relevant_from=plan.relevant_from,
                    searched_by=plan.measured(family),
                    search=_best_first(tried[family], plan.measured(family)),
                ),
                errors,
                status,
            )
        )
        on_progress(
            TrainingProgress("final", number + 1, len(best), Trial(family, parameters, metrics, seconds))
        )
    if not trained:
        failures = "; ".join(f"{family}: {why}" for family, why in dropped.items())
        raise InvalidInput(f"No model came of it. {failures}")
    return TrainingResult(trained, *baseline, *popular, time.perf_counter() - started_s, dropped)


def _best_first(trials: list[Trial], metric: str) -> list[TriedParameters]:
    """Trials for the record, those without a value last."""
    sign = 1.0 if is_better(metric, 0.0, 1.0) else -1.0
    ordered = sorted(trials, key=lambda trial: sign * trial.metrics.get(metric, sign * math.inf))
    return [
        TriedParameters(trial.parameters, trial.metrics.get(metric), round(trial.seconds, 3), trial.failure)
        for trial in ordered[:MAX_TRIED]
    ]


def judge(
    plan: Plan,
    family: str,
    metrics: Metrics,
    baselines: Mapping[str, Metrics],
    current: Mapping[str, float] | None,
) -> tuple[Status, str]:
    """Status that the gates give a family's model, and why. Production needs both gates, where there are both."""
    known = dict(metrics)
    for baseline, own in baselines.items():
        known |= {f"{baseline}.{name}": value for name, value in own.items()}
    measured = plan.measured(family)
    staging, production = plan.gate("staging"), plan.gate("production")
    reasons, status = [], "staged"
    if staging is not None:
        verdict = staging.check(known, measured, current)
        reasons.append(f"staging: {verdict.reason}")
        if not verdict.open:
            return "failed", reasons[0]
    if production is not None:
        verdict = production.check(known, measured, current)
        reasons.append(f"production: {verdict.reason}")
        status = "production" if verdict.open else "staged"
    return ("production" if status == "production" else "staged"), "; ".join(reasons) or "no gates"


class _Measured(NamedTuple):
    metrics: Metrics
    errors: Metrics


def _search(
    data: DataSet,
    pairs: Rows,
    plan: Plan,
    dropped: dict[str, str],
    on_progress: Callable[[TrainingProgress], object],
) -> tuple[dict[str, dict[str, Any]], dict[str, list[Trial]]]:
    """Best parameters of each family, and all that were tried; families in which all diverged are `dropped`."""
    train_rows, test_rows = (
        random_split(len(data), plan.search.share, plan.seed, pairs)
        if plan.split.kind == "random"
        else latest_of_each_user(data.ratings.users, data.ratings.timestamps, plan.search.share, pairs)
    )
    train_part, test_part = data.take(train_rows), data.take(test_rows)
    candidates: list[tuple[str, dict[str, Any]]] = []
    for family in plan.families:
        space = plan.space(family)
        by_grid = plan.search.kind == "grid"
        combinations = grid(space) if by_grid else sample(space, plan.search.trials, plan.seed)
        # What the family itself thinks best is tried first.
        if not plan.families[family] and space and not by_grid:
            combinations = [{}, *combinations[: plan.search.trials - 1]]
        candidates += [(family, parameters) for parameters in combinations]
    for family, parameters in candidates:
        new_model(family, parameters, plan.seed)  # refuses what can not be made, before anything is fitted
    works: list[Work] = []
    for family, parameters in candidates:
        if plan.measured(family) not in RATING_METRICS:
            what = _measured_by(plan)
            works.append((measure, (family, parameters, plan.seed, train_part, test_part, what)))
        else:
            works.append((stop_early, (family, parameters, plan.seed, train_part, test_part)))
    done = 0

    def report(index: int, trial: Trial) -> None:
        nonlocal done
        done += 1
        on_progress(TrainingProgress("search", done, len(works), trial))

    best: dict[str, Trial] = {}
    tried: dict[str, list[Trial]] = {}
    for trial in run(works, plan.search, report):
        tried.setdefault(trial.family, []).append(trial)
        if trial.failure is not None:
            dropped.setdefault(trial.family, trial.failure)
            continue
        metric = plan.measured(trial.family)
        value = trial.metrics.get(metric)
        if value is None and plan.measures_rankings:
            raise InvalidInput(f"The metric {metric} can not be measured: no user liked anything held out.")
        before = best.get(trial.family)
        # Where nothing held out was liked, a family that ranks keeps what it is tried with first.
        if before is None or (value is not None and is_better(metric, value, before.metrics[metric])):
            best[trial.family] = trial
    for family in best:
        dropped.pop(family, None)
    return {family: best[family].parameters for family in plan.families if family in best}, tried


def _measure(
    data: DataSet,
    pairs: Rows,
    plan: Plan,
    best: Mapping[str, dict[str, Any]],
    dropped: dict[str, str],
    on_progress: Callable[[TrainingProgress], object],
) -> dict[str, _Measured]:
    """Metrics of the best of each family, and of the baselines, on the plan's splits and by time.

    A family that diverged on one of them is `dropped`.
    """
    ratings = data.ratings
    splits: list[tuple[Rows, Rows]] = []
    if plan.split.kind == "random":
        splits = random_folds(len(data), plan.split.folds, plan.seed, pairs)
    n_random = len(splits)
    try:
        splits.append(_latest(ratings, plan.split.share, pairs))
    except InvalidInput:
        if not splits:
            raise
    everyone: dict[str, dict[str, Any]] = {**{family: {} for family in BASELINES.values()}, **best}
    works: list[Work] = []
    for number, (train_rows, test_rows) in enumerate(splits):
        parts = data.take(train_rows), data.take(test_rows)
        in_time = number >= n_random
        what = _measured_by(plan)
        works += [
            (
                measure,
                (
                    family,
                    parameters,
                    plan.seed,
                    *parts,
                    what._replace(errors=in_time and FAMILIES[family].scores_are_ratings),
                ),
            )
            for family, parameters in everyone.items()
        ]
    done = 0

    def report(index: int, trial: Trial) -> None:
        nonlocal done
        done += 1
        on_progress(TrainingProgress("measure", done, len(works), trial))

    trials = run(works, plan.search, report)
    by_time = {trial.family: trial for trial in trials[n_random * len(everyone) :]}
    measured = {}
    for place, family in enumerate(everyone):
        failure = next((trial.failure for trial in trials[place :: len(everyone)] if trial.failure), None)
        if failure is not None:
            dropped[family] = f"measured on a part: {failure}"
            continue
        folds = trials[place : n_random * len(everyone) : len(everyone)] or [by_time[family]]
        names = [name for name in folds[0].metrics if all(name in fold.metrics for fold in folds)]
        values = {name: np.array([fold.metrics[name] for fold in folds]) for name in names}
        metrics = {name: float(each.mean()) for name, each in values.items()}
        errors = {
            name: float(each.std(ddof=1) / np.sqrt(each.size))
            for name, each in values.items()
            if each.size > 1
        }
        if family in by_time:
            metrics |= {f"time.{name}": value for name, value in by_time[family].metrics.items()}
        own = by_time[family].errors if family in by_time else None
        if own is not None and family not in BASELINES.values():
            against = by_time[BASELINES["baseline"]].errors
            assert against is not None
            gain = against - own
            metrics["time.gain"] = float(gain.mean())
            errors["time.gain"] = float(gain.std(ddof=1) / np.sqrt(gain.size))
        measured[family] = _Measured(metrics, errors)
    return measured


def _latest(ratings: Ratings, share: float, pairs: Rows) -> tuple[Rows, Rows]:
    if np.unique(ratings.timestamps).size == 1:
        raise InvalidInput("A split by time needs ratings with times.")
    return latest_of_each_user(ratings.users, ratings.timestamps, share, pairs)


def _advantage(own: _Measured) -> Metrics:
    """Standard errors by which the mean squared error is below the baseline's, on the latest ratings."""
    error = own.errors.get("time.gain")
    return {} if not error else {"time.gain_z": own.metrics["time.gain"] / error}


def _measured_by(plan: Plan) -> Measure:
    assert plan.relevant_from is not None
    return Measure(plan.k, plan.relevant_from)


def _describe(data: DataSet, pairs: Rows) -> DataRecord:
    counts = np.bincount(pairs)
    return DataRecord(
        source=data.source,
        ratings=len(data),
        users=int(np.unique(data.ratings.users).size),
        items=int(np.unique(data.ratings.items).size),
        sha256=data.fingerprint,
        repeated=int(counts[counts > 1].sum()),
    )


def _code() -> dict[str, str]:
    """Package's version and, in a checkout, the commit."""
    code = {"bandit_serve": __version__}
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        answered = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return code
    if answered.returncode == 0:
        code["commit"] = answered.stdout.strip()
    return code
