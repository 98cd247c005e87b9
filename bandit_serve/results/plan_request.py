"""Request for a plan, and what it leaves to an experiment: baseline, shares and traffic from its own log."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta, Struct

from bandit_serve.base.mistakes import expected_one_of
from bandit_serve.base.names import Name
from bandit_serve.errors import Conflict, FieldError, InvalidInput
from bandit_serve.experiments.spec import MAX_ARMS, Record
from bandit_serve.experiments.stopping import LOOKS, MAX_EXPECTED, MAX_LOOKS, MIN_EXPECTED
from bandit_serve.metrics import METRIC_KINDS
from bandit_serve.results.estimates import MIN_OBSERVATIONS, Sums
from bandit_serve.results.fold import ResultsFold
from bandit_serve.results.planning import Design, ExperimentPlan, Law, even_shares, plan

MAX_SIZE = 1e80
MIN_SD = 1e-60
Size = Annotated[float, Meta(ge=-MAX_SIZE, le=MAX_SIZE)]


class Baseline(Struct, frozen=True, forbid_unknown_fields=True):
    """Metric in control: the `rate` of values 0 and 1, or the `mean` of any numbers and their standard deviation."""

    rate: Annotated[float, Meta(gt=0.0, lt=1.0)] | None = None
    mean: Size | None = None
    sd: Annotated[float, Meta(ge=MIN_SD, le=MAX_SIZE)] | None = None


class Effect(Struct, frozen=True, forbid_unknown_fields=True):
    """Difference of an arm to control that is to be found: in the metric's own unit, or as a part of control's mean."""

    absolute: Size | None = None
    relative: Size | None = None


class PlanRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """What is known before an experiment, by a `baseline` or from an experiment's own log; and an `effect`, or `days`.

    `arms` counts control, too; their shares are even, or those of the experiment. `traffic` is how many observations
    all arms get a day. `correlation` is that of the metric with a covariate from before, for CUPED.
    `expected_samples` is given where it is fixed already.
    """

    baseline: Baseline | None = None
    experiment: Name | None = None
    metric: Name | None = None
    effect: Effect | None = None
    days: Annotated[float, Meta(gt=0.0, le=36_500.0)] | None = None
    traffic: Annotated[float, Meta(ge=1e-3, le=1e12)] | None = None
    arms: Annotated[int, Meta(ge=2, le=MAX_ARMS)] | None = None
    alpha: Annotated[float, Meta(ge=1e-6, le=0.5)] | None = None
    power: Annotated[float, Meta(ge=0.5, le=0.999)] = 0.8
    correlation: Annotated[float, Meta(ge=-0.999, le=0.999)] | None = None
    looks: Annotated[int, Meta(ge=1, le=MAX_LOOKS)] | None = None
    expected_samples: Annotated[int, Meta(ge=MIN_EXPECTED, le=MAX_EXPECTED)] | None = None


ALPHA = 0.05


def require_complete(request: PlanRequest) -> None:
    """Raise `InvalidInput` that names every field which is missing, or one too many."""
    errors = []
    if (request.baseline is None) == (request.experiment is None):
        errors.append(FieldError("baseline", "expected a baseline or an experiment, and not both"))
    if (request.effect is None) == (request.days is None):
        errors.append(FieldError("effect", "expected an effect or days, and not both"))
    baseline, effect = request.baseline, request.effect
    if baseline is not None and (baseline.rate is None) == (baseline.mean is None or baseline.sd is None):
        errors.append(FieldError("baseline", "expected a rate, or a mean and its sd"))
    elif baseline is not None and baseline.rate is not None and (baseline.mean, baseline.sd) != (None, None):
        errors.append(FieldError("baseline", "expected a rate, or a mean and its sd, and not both"))
    if effect is not None and (effect.absolute is None) == (effect.relative is None):
        errors.append(FieldError("effect", "expected absolute or relative, and not both"))
    if request.metric is not None and request.experiment is None:
        errors.append(FieldError("metric", "only an experiment has metrics; leave it out"))
    if errors:
        raise InvalidInput(f"{errors[0].at}: {errors[0].detail}.", errors)


def design_of(request: PlanRequest) -> Design:
    """Design of a request with a baseline."""
    baseline = request.baseline or Baseline()
    law = Law(baseline.mean or 0.0, baseline.sd or 0.0)
    if baseline.rate is not None:
        law = Law(baseline.rate, 0.0, two_valued=True)
    return Design(
        law,
        even_shares(request.arms or 2),
        request.alpha or ALPHA,
        request.power,
        request.looks or LOOKS,
        request.traffic,
        request.expected_samples,
    )


class Seen(NamedTuple):
    """Numbers of control in an experiment's log, of one metric, and how much of it there is in all and a day."""

    n: int
    mean: float
    variance: float
    lost: bool
    analysed: int
    a_day: float | None

    @classmethod
    def of(cls, fold: ResultsFold, index: int) -> Seen:
        fold = fold.complete()
        experiment = fold.record.experiment
        sums, control = Sums.of(fold.sums, index), experiment.control_arm
        lost = sums.lost(METRIC_KINDS[experiment.metrics[index].kind], moving=False)
        return cls(
            int(sums.n[control]),
            float(sums.mean[control]),
            float(sums.sample_variance[control]),
            bool(lost[control]),
            int(sums.analysed),
            fold.a_day,
        )


def metric_of(request: PlanRequest, record: Record) -> int:
    """Index of the metric that a request is about.

    Raises `InvalidInput` where the experiment has no such metric, or none that can be planned.
    """
    experiment = record.experiment
    names = [metric.name for metric in experiment.metrics]
    name = request.metric or experiment.objective.name
    if name not in names:
        raise _invalid("metric", f"{expected_one_of(name, names)}, not {name!r}")
    metric = experiment.metrics[names.index(name)]
    if not metric.is_mean:
        of = "ratio of others" if metric.is_ratio else "quantile"
        raise _invalid(
            "metric", f"expected a metric that is of a mean; {name} is a {of}, of which there is no plan"
        )
    if experiment.interleaves:
        raise _invalid("experiment", "expected one that compares means; this one interleaves lists")
    return names.index(name)


def design_from(request: PlanRequest, record: Record, seen: Seen) -> Design:
    """Design of a request that names an experiment: what the request does not say is the experiment's.

    Raises `Conflict` where control has too few observations for a baseline.
    """
    experiment, stopping = record.experiment, record.experiment.stopping
    metric = experiment.metrics[metric_of(request, record)]
    if seen.n < MIN_OBSERVATIONS:
        raise Conflict(
            f"Control of {experiment.id!r} has {seen.n} observations of {metric.name}; "
            f"a baseline needs {MIN_OBSERVATIONS}."
        )
    if seen.lost or not seen.variance > MIN_SD**2:
        raise Conflict(f"The values of {metric.name} in {experiment.id!r} do not vary as far as is known.")
    two_valued = metric.traits.two_valued
    started = record.status != "draft"
    return Design(
        Law(seen.mean, 0.0 if two_valued else math.sqrt(seen.variance), two_valued),
        _shares(record) if request.arms is None else even_shares(request.arms),
        request.alpha or stopping.alpha,
        request.power,
        request.looks or stopping.n_looks,
        request.traffic or seen.a_day,
        request.expected_samples or (stopping.tuned_for if started and not stopping.horizon else None),
        seen.analysed,
    )


def planned(request: PlanRequest, design: Design) -> ExperimentPlan:
    """Plan of a complete request; raises `InvalidInput` at the field for which there is none."""
    mean, difference = design.law.mean, None
    if request.effect is not None:
        at = "effect.absolute" if request.effect.relative is None else "effect.relative"
        if request.effect.relative is None:
            difference = request.effect.absolute or 0.0
        else:
            difference = request.effect.relative * abs(mean)
        if difference == 0.0:
            raise _invalid(at, "expected a difference to control that is not 0")
        if design.law.two_valued and not 0.0 < mean + difference < 1.0:
            raise _invalid(at, f"expected an effect on {mean:g} that gives a rate between 0 and 1")
    found = plan(design, difference=difference, days=request.days, correlation=request.correlation)
    if request.experiment is None:
        return found
    return msgspec.structs.replace(
        found, experiment=request.experiment, **({} if request.metric is None else {"metric": request.metric})
    )


def _shares(record: Record) -> tuple[float, ...]:
    """Shares of the arms that are there, control's first: of a fixed split its own, even ones otherwise."""
    experiment = record.experiment
    weights = experiment.policy.shares if experiment.policy.kind == "fixed_split" else None
    of_all = weights or dict.fromkeys(experiment.arm_names, 1.0)
    control = experiment.arm_names[experiment.control_arm]
    there = {
        name: float(of_all.get(name, 0.0))
        for name, status in record.arm_statuses.items()
        if status != "removed" and (of_all.get(name, 0.0) > 0.0 or name == control)
    }
    if len(there) < 2 or not there[control] > 0.0:
        raise Conflict(f"The experiment {experiment.id!r} compares no arm with control.")
    total = sum(there.values())
    return tuple(share / total for share in (there.pop(control), *there.values()))


def _invalid(at: str, detail: str) -> InvalidInput:
    return InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])
