"""Experiment of which results have every part: guardrails, a covariate, a cap, segments and windows that are open."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from simulated_results import START_MS, exposed, record, rewarded

from bandit_serve.experiments.metric import Margin, Metric
from bandit_serve.experiments.spec import Arm, Record
from bandit_serve.log.offset import Offset
from bandit_serve.pictures.shown import Shown, shown_of
from bandit_serve.policies.context import ContextField
from bandit_serve.policies.features import Features
from bandit_serve.results import ResultsFold, TimelineChange

STEP_MS = 60_000
METRICS = (
    Metric(name="spent", kind="continuous", role="secondary", covariate="spent_before", cap=40.0),
    Metric(name="done", kind="binary", role="objective"),
    Metric(name="ms", kind="continuous", goal="minimize", role="guardrail", margin=Margin(relative=0.1)),
)
CONTEXT = (
    ContextField(name="device", kind="categorical", values=["ios", "android", "web"]),
    ContextField(name="land", kind="categorical", values=["de", "fr"]),
)


def full_record(
    n_arms: int,
    *,
    names: Sequence[str] = (),
    dimensions: tuple[str, ...] = ("device",),
    metrics: tuple[Metric, ...] = METRICS,
    context: tuple[ContextField, ...] = CONTEXT,
) -> Record:
    made = record(n_arms, missing="zero", window="2m", metrics=metrics, context=context)
    arms = tuple(Arm(name) for name in names) or made.experiment.arms
    experiment = msgspec.structs.replace(
        made.experiment, dimensions=dimensions, arms=arms, control=arms[0].name
    )
    return msgspec.structs.replace(made, experiment=experiment)


def full_fold(
    n_arms: int, steps: int = 20, each: int = 120, *, look_up: tuple[str, ...] = (), **about: object
) -> ResultsFold:
    """Fold of `each` decisions a step and arm. Arms gain the more the later they come, most of all where the first
    field has its last value; the last arm is slow. The windows of the last two steps are open.
    """
    made = full_record(n_arms, **about)  # type: ignore[arg-type]
    fold, rng = ResultsFold(made, look_up=look_up), np.random.default_rng(3)
    fields = made.experiment.context
    features = Features(fields)
    n, shares = each * n_arms, np.full(n_arms, 1 / n_arms)
    for step in range(steps):
        at_ms = START_MS + step * STEP_MS
        arms = rng.integers(0, n_arms, n)
        values = [rng.choice([*(field.values or ()), "?"], n).tolist() for field in fields]
        contexts = [
            dict(zip([field.name for field in fields], of, strict=True)) for of in zip(*values, strict=True)
        ]
        before = rng.lognormal(2.0, 0.5, n).round(2)
        x = np.column_stack([features.vectors(contexts), before]).astype(np.float32)
        last = np.array([of[fields[0].name] == (fields[0].values or [""])[-1] for of in contexts])
        gain = arms / n_arms
        done = rng.random(n) < 0.1 + 0.05 * gain + 0.1 * last * gain
        spent = before + rng.normal(0.0, 1.5, n) + 0.4 * gain
        ms = rng.normal(20.0, 4.0, n) + np.where(arms == n_arms - 1, 6.0, 0.0)
        numbers, every = np.arange(step * n, (step + 1) * n, dtype=np.uint64), np.ones(n, bool)
        fold.apply(Offset(at_ms, 0), exposed(step * n, arms, shares[None], [n], time_ms=at_ms, x=x))
        of_metrics = ((spent, every), (done.astype(np.float64), done), (ms, every))
        for metric, (values, which) in enumerate(of_metrics):
            rows = rewarded(
                counter=numbers[which],
                time_ms=at_ms,
                value=values[which],
                propensity=shares[arms[which]],
                arm=arms[which],
                metric=metric,
                x=x[which],
            )
            fold.apply(Offset(at_ms, metric + 1), rows)
    return fold


def full_page(
    n_arms: int, steps: int = 20, *, changes: Sequence[TimelineChange] = (), **about: object
) -> Shown:
    """Reads what a page shows of `full_fold`."""
    fold = full_fold(n_arms, steps, **about)  # type: ignore[arg-type]
    shares = dict.fromkeys(fold.record.experiment.arm_names, 1 / n_arms)
    return shown_of(fold, fold.record, shares, changes, max(fold.now_ms, START_MS))
