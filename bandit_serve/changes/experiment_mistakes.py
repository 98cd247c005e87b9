"""Lists all mistakes of an experiment at once.

Later checks rely on earlier ones: no policy can be made for an invalid metric. So each round reports the mistakes that
it sees, replaces the wrong values by valid stand-ins, and checks again. A mistake that a stand-in may have caused is
not reported.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from bandit_serve.base.mistakes import mistakes
from bandit_serve.base.validation import field_error
from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.experiments.checks import OTHER_ARMS, validated
from bandit_serve.experiments.policy import from_experiment, kind_error, require_pseudo_means
from bandit_serve.experiments.policy_spec import OWN, PolicySpec
from bandit_serve.experiments.spec import Experiment
from bandit_serve.experiments.stopping import EXPECTED_SAMPLES
from bandit_serve.metrics import KINDS, MetricKind, Ratio
from bandit_serve.policies import FixedSplit, Thompson

ExperimentCheck = Callable[[Experiment], object]
"""Raises `InvalidInput` for a well-formed experiment that can not be served."""

MAX_ROUNDS = 8
MAX_EXPLAINED_BYTES = 64 * 1024
"""Size as JSON up to which all mistakes of an experiment are listed; of a larger one, only the first."""

# Of a metric that stands in for another: it needs nothing else.
_PLAIN_KIND = next(name for name, kind in KINDS.items() if not kind.takes_bounds and not kind.asks_missing)
# Pairs of patterns of paths: a mistake at the first may be caused by one at the second. {} is the first group.
_ARMS, _NAMES = r"arms(\[\d+\])?", r"arms(\[\d+\](\.name)?)?"
_METRICS = r"metrics(\[\d+\](\.(kind|role|goal|low|high))?)?"
_CAUSES = [
    (r"metrics", r"metrics(\[\d+\](\.role)?)?"),
    (r"(metrics\[\d+\])(\.\w+)?", r"{}(\.(kind|low|high))?"),
    (r"(metrics\[\d+\])\.(margin|on_harm)", r"{}\.(role|margin\..*)"),
    (r"arms", r"arms\[\d+\](\.features.*)?|policy\.kind"),
    (r"(arms\[\d+\])(\.version)?", r"{}\.(model|version)"),
    (r"control", _NAMES),
    (r"context", rf"policy\.kind|context.*|{_ARMS}|arms\[\d+\]\.features.*"),
    (r"(context\[\d+\])(\.\w+)?", r"{}\..*"),
    (r"context\[\d+\]\.interactions.*", r"context\[\d+\](\.name)?"),
    (r"audience\b.*", r"context.*"),
    (r"(weights|constraints)\b.*", r"metrics.*|attribution\.missing"),
    (r"keep_assigned", r"unit|policy\.kind"),
    (r"slots", _ARMS),
    (r"dimensions\[\d+\]", r"context(\[\d+\](\.(name|kind|values|buckets))?)?"),
    (r"dimensions", rf"context.*|{_ARMS}|metrics(\[\d+\])?|dimensions.*"),
    (r"attribution\.missing", r"metrics(\[\d+\](\.(kind|role|low|high))?)?"),
    (r"stopping\.rule\.best_arm", r"policy\.kind"),
    (r"stopping\.(looks|expected_samples)", r"stopping\.mode"),
    (r"policy\.kind", rf"{_METRICS}|unit"),
    (r"policy\.(min_share|max_share)", r"arms|policy\.(min_share|max_share)"),
    (r"policy\.(prior|pseudo_history)\b.*", _METRICS),
    (r"(policy\.(shares|prior|pseudo_history))", r"{}\..*"),
    (rf"policy\.({'|'.join(OWN)})\b.*", r"policy\.kind"),
]


def every_mistake(document: Any, further: Sequence[ExperimentCheck] = ()) -> list[FieldError]:
    """Lists what keeps a document from being an experiment that can be served, each mistake at its field.

    `further` checks are made when the experiment is well-formed.
    """
    checks = (from_experiment, require_pseudo_means, *further)
    document = copy.deepcopy(document)
    reported: list[FieldError] = []
    seen: set[str] = set()
    replaced: list[str] = []
    for _ in range(MAX_ROUNDS):
        errors = list(_check(document, checks))
        reported += [each for each in errors if each.at not in seen and not _may_come_of(each, replaced)]
        if not errors or not all(each.at for each in errors):
            break
        for each in errors:
            seen.add(each.at)
            replaced.append(_replace(document, each.at, len(seen)))
    return reported


def with_all(
    error: InvalidInput, experiment: Experiment, further: Sequence[ExperimentCheck] = ()
) -> InvalidInput:
    """Returns the error to raise in place of `error`: one that lists all mistakes of the refused experiment."""
    content = msgspec.json.encode(experiment)
    if len(content) > MAX_EXPLAINED_BYTES:
        return error
    errors = every_mistake(msgspec.json.decode(content), further)
    return _as_invalid_experiment(errors) if errors else error


def mistakes_of_policy(document: Any) -> list[FieldError]:
    """Lists the mistakes in the types and the kind of a document that is to be a policy."""
    errors, kind = mistakes(document, PolicySpec, field_error), _inside(document, "kind")
    error = kind_error(kind) if isinstance(kind, str) else None
    if error is not None and all(each.at != "kind" for each in errors):
        errors.append(FieldError("kind", error.detail))
    return errors


def _as_invalid_experiment(errors: Sequence[FieldError]) -> InvalidInput:
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return InvalidInput(f"The experiment is not valid: {errors[0].at}: {errors[0].detail}{more}.", errors)


def _check(document: Any, checks: Sequence[ExperimentCheck]) -> Iterator[FieldError]:
    of_types, seen = mistakes(document, Experiment, field_error), set()
    yield from of_types
    # The policy's kind can be checked whatever else is wrong, and other checks of the policy need it.
    kind = _inside(document, "policy", "kind")
    error = kind_error(kind) if isinstance(kind, str) else None
    if error is not None and all(mistake.at != error.at for mistake in of_types):
        yield error
        seen.add(error.at)
    if of_types:
        return
    experiment = msgspec.convert(document, Experiment)
    try:
        experiment = validated(experiment)
    except InvalidInput as error:
        yield from error.errors
        return
    for check in checks:
        try:
            check(experiment)
        except InvalidInput as error:
            errors = error.errors or (FieldError("", str(error).rstrip(".")),)
            yield from (each for each in errors if each.at not in seen)
            seen |= {each.at for each in errors}


def _may_come_of(mistake: FieldError, replaced: Sequence[str]) -> bool:
    """Whether a stand-in at one of the `replaced` places may have caused the mistake."""
    at = mistake.at
    patterns = [_NAMES] if OTHER_ARMS in mistake.detail else []
    patterns += [
        cause.format(re.escape(match[1]) if match.re.groups else "")
        for effect, cause in _CAUSES
        if (match := re.fullmatch(effect, at))
    ]
    return any(
        at == place
        or at.startswith((f"{place}.", f"{place}["))
        or any(re.fullmatch(pattern, place) for pattern in patterns)
        for place in replaced
    )


def _inside(document: Any, *names: str) -> Any:
    for name in names:
        document = document.get(name) if isinstance(document, Mapping) else None
    return document


def _replace(document: Any, at: str, number: int) -> str:
    """Puts a valid stand-in in the place of a wrong value; a list keeps its length.

    Returns the path of the stand-in, or "" if it can not cause another mistake.
    """
    if not isinstance(document, dict):
        return at
    steps = list(_steps(document, at))
    name, generic = f"stand-in-{number}", re.sub(r"\[\d+\]", "[]", at)
    holder, key = steps[-1]
    value = holder[key] if isinstance(holder, list) else holder.get(key)
    match generic:
        case "id" | "arms[].name" | "metrics[].name" | "context[].name":
            holder[key] = name
        case "arms" if isinstance(value, list) and value:
            holder[key] = [_without(arm, "features") for arm in value[:1000]]
        case "arms":
            holder[key] = [{"name": name}]
        case "arms[]" if isinstance(value, dict):
            holder[key] = _without(_without(value, "model"), "version")
            return f"{at}.version"
        case "arms[]":
            holder[key] = {"name": name}
        case "metrics" if isinstance(value, list) and value:
            holder[key] = [_without(metric, "role") for metric in value[:32]]
        case "metrics":
            holder[key] = [{"name": name, "kind": _PLAIN_KIND}]
        case "metrics[]" if isinstance(value, dict):
            _part(value)
            _bound(value)
        case "metrics[]":
            holder[key] = {"name": name, "kind": _PLAIN_KIND}
        case "metrics[].kind":
            holder[key] = _PLAIN_KIND
            _part(holder)
            _bound(holder)
        case "metrics[].margin" if holder.get("role") == "guardrail":
            holder[key] = {"absolute": 0.0}
        case "metrics[].numerator" | "metrics[].denominator":
            _part(holder)
        case "metrics[].goal":
            del holder[key]
            # The goal decides which policies can use some kinds.
            kind = _kind_of(holder)
            return at if kind is not None and kind.mirror is not None else ""
        case "metrics[].low" | "metrics[].high":
            _bound(holder)
        case "attribution.missing":
            document["attribution"] = _only(document.get("attribution"), "window") | {"missing": "ignore"}
        case "stopping.expected_samples" if isinstance(holder, dict):
            holder[key] = EXPECTED_SAMPLES
        case "policy.kind":
            trades = document.get("weights") or document.get("constraints")
            holder |= {"kind": Thompson.kind if trades else FixedSplit.kind}
            for own in OWN:
                holder.pop(own, None)
        case "context":
            holder[key] = [{"name": name, "kind": "numeric"}]
        case "context[]" | "context[].kind":
            field = value if generic == "context[]" else dict(holder)
            steps[1][0][steps[1][1]] = {"name": name} | _only(field, "name") | {"kind": "numeric"}
        case _ if (whole := re.match(r"(audience|layer|weights|constraints)\b", generic)) is not None:
            # Each part is needed, and rules are parts of rules. Another mistake in it may have taken it away.
            document.pop(whole[0], None)
        case _:
            # The value is left out; an item of a list takes the whole list with it.
            while isinstance(holder, list) and len(steps) > 1:
                steps.pop()
                holder, key = steps[-1]
            holder.pop(key, None)
    return "" if _is_secondary_metric(document, generic, steps) else at


def _is_secondary_metric(document: dict[str, Any], generic: str, steps: Sequence[tuple[Any, Any]]) -> bool:
    """Whether the place is in a metric other than the objective: no other check depends on those.

    That of a margin as a whole does depend on its parts.
    """
    if not generic.startswith("metrics[]") or generic == "metrics[].role":
        return False
    if generic.startswith("metrics[].margin."):
        return False
    roles = [_inside(metric, "role") for metric in document["metrics"]]
    objective = (
        roles.index("objective") if "objective" in roles else roles.index(None) if None in roles else 0
    )
    return bool(steps[1][1] != objective)


def _steps(document: Any, at: str) -> Iterator[tuple[Any, Any]]:
    """Yields each object or list on the path `at`, with the key or index that the path goes on with."""
    here, rest = document, at
    while rest:
        if isinstance(here, list) and (index := re.match(r"\[(\d+)\]\.?", rest)):
            key: Any = int(index[1])
            rest = rest[index.end() :]
        else:
            # A key may contain dots.
            names = [name for name in (here if isinstance(here, dict) else ()) if _begins(name, rest)]
            key = max(names, key=len, default=re.split(r"[.\[]", rest)[0])
            rest = rest[len(key) :].removeprefix(".")
        yield here, key
        inner = here.get(key) if isinstance(here, dict) else dict(enumerate(here)).get(key)
        if not isinstance(inner, dict | list):
            return
        here = inner


def _begins(name: str, rest: str) -> bool:
    """Whether the path `rest` begins with the key `name`."""
    return rest == name or rest.startswith((f"{name}.", f"{name}["))


def _only(value: Any, *names: str) -> dict[str, Any]:
    return {name: value[name] for name in names if name in value} if isinstance(value, dict) else {}


def _without(value: Any, name: str) -> Any:
    return {each: of for each, of in value.items() if each != name} if isinstance(value, dict) else value


def _bound(metric: dict[str, Any]) -> None:
    """Gives the metric valid bounds if its kind has bounds, and none otherwise."""
    metric.pop("low", None)
    metric.pop("high", None)
    kind = _kind_of(metric)
    if kind is not None and kind.takes_bounds:
        metric |= {"low": 0.0, "high": 1.0}


def _part(metric: dict[str, Any]) -> None:
    """Makes the metric one that is made of no others."""
    metric.pop("numerator", None)
    metric.pop("denominator", None)
    if metric.get("kind") == Ratio.name:
        metric["kind"] = _PLAIN_KIND


def _kind_of(metric: dict[str, Any]) -> type[MetricKind] | None:
    name = metric.get("kind")
    return KINDS.get(name) if isinstance(name, str) else None
