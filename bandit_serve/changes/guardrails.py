"""Guardrails by which an arm that is new is watched: a metric and the loss that it allows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from bandit_serve.base.validation import as_invalid_input
from bandit_serve.errors import Conflict, FieldError, InvalidInput
from bandit_serve.experiments.checks import with_metric
from bandit_serve.experiments.metric import SERVED, Margin, Metric
from bandit_serve.experiments.spec import Experiment

PAUSES = ("pause_arm", "stop")
DEFAULT_GUARDRAIL = "error=0.05"
"""What watches a new arm where nothing else is asked for, and the experiment has no guardrail `error`."""


def guards(experiment: Experiment) -> list[str]:
    """Names of the guardrails that pause an arm of the experiment."""
    return [metric.name for metric in experiment.metrics if metric.is_guardrail and metric.on_harm in PAUSES]


def asked_guardrails(
    experiment: Experiment, given: Sequence[str | Metric] | UnsetType
) -> Sequence[str | Metric]:
    """Guardrails that were asked for; where none were, the default one, unless the experiment has one of its name."""
    if given is not UNSET:
        return given
    return () if "error" in guards(experiment) else (DEFAULT_GUARDRAIL,)


def missing_guardrail(experiment: Experiment, given: str | Metric, at: str = "guardrail") -> Metric | None:
    """Guardrail that the experiment does not have yet; None if it has one of this name that pauses an arm.

    given: a metric and its margin, as `error=0.05` or `latency_ms=20%` of control's mean, or a whole metric.

    Raises `Conflict` where the metric of this name is another, and `InvalidInput` that names the field for what is no
    guardrail, or measured by nobody.
    """
    name, margin = guardrail_of(given, at) if isinstance(given, str) else (given.name, given.margin)
    for metric in experiment.metrics:
        if metric.name == name:
            if metric.is_guardrail and metric.on_harm in PAUSES:
                if not _is_as_strict(metric.margin, margin):
                    raise Conflict(
                        f"{experiment.id!r} has the guardrail {name!r} with the margin {_told(metric.margin)} "
                        f"already, which is looser than {_told(margin)} or of another kind: name that, or another."
                    )
                return None
            raise Conflict(
                f"The metric {name!r} of {experiment.id!r} is no guardrail that pauses an arm; "
                "name another one, or declare it so in the experiment."
            )
    if not isinstance(given, str):
        return _declared(experiment, given, at)
    if name not in SERVED:
        raise _mistake(
            at, f"expected error, latency_ms or a guardrail that {experiment.id!r} has, not {name[:128]!r}"
        )
    return Metric(
        name=name,
        kind=SERVED[name],
        goal="minimize",
        role="guardrail",
        source="served",
        margin=margin,
        on_harm="pause_arm",
    )


def _is_as_strict(margin: Margin | UnsetType, asked: Margin | UnsetType) -> bool:
    """Whether a margin allows no more than the asked one, of its kind."""
    if not (isinstance(margin, Margin) and isinstance(asked, Margin)):
        return margin == asked
    pairs = ((margin.relative, asked.relative), (margin.absolute, asked.absolute))
    return any(isinstance(own, float) and isinstance(most, float) and own <= most for own, most in pairs)


def _told(margin: Margin | UnsetType) -> str:
    if not isinstance(margin, Margin):
        return "of none"
    return (
        f"{margin.relative:.4g} of control's mean"
        if isinstance(margin.relative, float)
        else f"{margin.absolute:.4g}"
    )


def guardrail_of(text: str, at: str = "guardrail") -> tuple[str, Margin]:
    """Name of a metric and its margin, of `error=0.05` or `latency_ms=20%`; raises `InvalidInput` at the field."""
    name, equals, number = text.partition("=")
    relative = number.endswith("%")
    try:
        allowed = float(number.removesuffix("%")) / (100.0 if relative else 1.0)
    except ValueError:
        allowed = math.nan
    if not (name and equals and 0.0 <= allowed < 1_000.0):
        raise _mistake(at, "expected a metric and the loss that it allows, as error=0.05 or latency_ms=20%")
    return name, Margin(relative=allowed) if relative else Margin(absolute=allowed)


def _declared(experiment: Experiment, metric: Metric, at: str) -> Metric:
    """Guardrail as it is to be added, after every check that adding it makes."""
    if metric.role not in (None, "guardrail"):
        raise _mistake(f"{at}.role", f"expected guardrail, not {metric.role}")
    on_harm = "pause_arm" if metric.on_harm is UNSET else metric.on_harm
    if on_harm not in PAUSES:
        raise _mistake(f"{at}.on_harm", f"expected pause_arm or stop, not {on_harm}")
    metric = msgspec.structs.replace(metric, role="guardrail", on_harm=on_harm)
    try:
        with_metric(experiment, metric)
    except InvalidInput as error:
        places = (FieldError(f"{at}.{each.at}".removesuffix("."), each.detail) for each in error.errors)
        raise as_invalid_input(list(places)) from None
    return metric


def _mistake(at: str, detail: str) -> InvalidInput:
    return InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])
