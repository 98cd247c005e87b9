"""Everything that is wrong with an experiment, told at once.

What is checked later supposes that what was checked before is right: a policy is not made of metrics that are none.
So what is wrong is told, put right by a stand-in, and the whole looked at again; what is found then is told unless it
may come of the stand-in.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from bandit_serve.base.mistakes import mistakes
from bandit_serve.base.validation import field_error
from bandit_serve.errors import FieldError, InvalidInput, NotBuilt
from bandit_serve.experiments.policy import from_experiment, kind_error, require_pseudo_means
from bandit_serve.experiments.policy_spec import OWN, PolicySpec
from bandit_serve.experiments.spec import OTHER_ARMS, Experiment, unbuilt, validated
from bandit_serve.metrics import KINDS, MetricKind

Check = Callable[[Experiment], object]
"""`InvalidInput` where an experiment that is valid can not be all the same."""

MOST_ROUNDS = 8
PATIENT_BYTES = 64 * 1024
"""Of an experiment, as JSON: of a larger one, what the first check finds is told."""

# Of a metric that stands in for another: it needs nothing else.
_PLAIN_KIND = next(name for name, kind in KINDS.items() if not kind.takes_bounds and not kind.asks_missing)
# Where a mistake may be that comes of another one, and where that is; {} is the first group.
_ARMS, _NAMES = r"arms(\[\d+\])?", r"arms(\[\d+\](\.name)?)?"
_METRICS = r"metrics(\[\d+\](\.(kind|role|goal|low|high))?)?"
_COMES_OF = [
    (r"metrics", r"metrics(\[\d+\](\.role)?)?"),
    (r"(metrics\[\d+\])(\.\w+)?", r"{}(\.(kind|low|high))?"),
    (r"arms", r"arms\[\d+\](\.features.*)?|policy\.kind"),
    (r"(arms\[\d+\])(\.version)?", r"{}\.(model|version)"),
    (r"control", _NAMES),
    (r"context", rf"policy\.kind|context.*|{_ARMS}|arms\[\d+\]\.features.*"),
    (r"(context\[\d+\])(\.\w+)?", r"{}\..*"),
    (r"context\[\d+\]\.interactions.*", r"context\[\d+\](\.name)?"),
    (r"attribution\.missing", r"metrics(\[\d+\](\.(kind|role|low|high))?)?"),
    (r"policy\.kind", rf"{_METRICS}|unit"),
    (r"policy\.(min_share|max_share)", r"arms|policy\.(min_share|max_share)"),
    (r"policy\.(prior|pseudo_history)\b.*", _METRICS),
    (r"(policy\.(shares|prior|pseudo_history))", r"{}\..*"),
    (rf"policy\.({'|'.join(OWN)})\b.*", r"policy\.kind"),
]


def every_mistake(document: Any, further: Sequence[Check] = ()) -> list[FieldError]:
    """What keeps a document from being an experiment that can be served, each at its field; what is not built yet is
    among it. `further` are asked of an experiment that is valid.
    """
    checks = (from_experiment, require_pseudo_means, *further)
    document = copy.deepcopy(document)
    told: list[FieldError] = []
    met: set[str] = set()
    wrong: list[str] = []
    for _ in range(MOST_ROUNDS):
        found = list(_found(document, checks))
        told += [mistake for mistake in found if mistake.at not in met and not _comes_of(mistake, wrong)]
        if not found or not all(mistake.at for mistake in found):
            break
        for mistake in found:
            met.add(mistake.at)
            wrong.append(_put_right(document, mistake.at, len(met)))
    return told


def with_all(
    error: InvalidInput | NotBuilt, experiment: Experiment, further: Sequence[Check] = ()
) -> InvalidInput | NotBuilt:
    """What to raise in place of `error`, for which an experiment was refused: with everything that is wrong."""
    content = msgspec.json.encode(experiment)
    if len(content) > PATIENT_BYTES:
        return error
    found = every_mistake(msgspec.json.decode(content), further)
    only_unbuilt = isinstance(error, NotBuilt) and len(found) <= len(unbuilt(experiment))
    return error if not found or only_unbuilt else all_of(found)


def mistakes_of_policy(document: Any) -> list[FieldError]:
    """What is wrong with a document that is no policy, each at its field: of its types and its kind."""
    found, kind = mistakes(document, PolicySpec, field_error), _inside(document, "kind")
    error = kind_error(kind) if isinstance(kind, str) else None
    if error is not None and all(mistake.at != "kind" for mistake in found):
        found.append(FieldError("kind", error.detail))
    return found


def all_of(found: Sequence[FieldError]) -> InvalidInput:
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return InvalidInput(f"The experiment is not valid: {found[0].at}: {found[0].detail}{more}.", found)


def _found(document: Any, checks: Sequence[Check]) -> Iterator[FieldError]:
    of_types, met = mistakes(document, Experiment, field_error), set()
    yield from of_types
    # It supposes nothing, and nothing can be said of a policy without it.
    kind = _inside(document, "policy", "kind")
    error = kind_error(kind) if isinstance(kind, str) else None
    if error is not None and all(mistake.at != error.at for mistake in of_types):
        yield error
        met.add(error.at)
    if of_types:
        return
    experiment = msgspec.convert(document, Experiment)
    not_built = unbuilt(experiment)
    if not_built:
        yield from not_built
        experiment = msgspec.structs.replace(
            experiment,
            stopping=msgspec.structs.replace(experiment.stopping, duration=None, promote_winner=False),
            metrics=tuple(
                msgspec.structs.replace(metric, role="secondary") if metric.role == "guardrail" else metric
                for metric in experiment.metrics
            ),
        )
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
            yield from (each for each in errors if each.at not in met)
            met |= {each.at for each in errors}


def _comes_of(mistake: FieldError, wrong: Sequence[str]) -> bool:
    at = mistake.at
    patterns = [_NAMES] if OTHER_ARMS in mistake.detail else []
    patterns += [
        before.format(re.escape(found[1]) if found.re.groups else "")
        for after, before in _COMES_OF
        if (found := re.fullmatch(after, at))
    ]
    return any(
        at == place
        or at.startswith((f"{place}.", f"{place}["))
        or any(re.fullmatch(pattern, place) for pattern in patterns)
        for place in wrong
    )


def _inside(document: Any, *names: str) -> Any:
    for name in names:
        document = document.get(name) if isinstance(document, Mapping) else None
    return document


def _put_right(document: Any, at: str, number: int) -> str:
    """Puts something that may be there in the place of what may not; a list keeps its length.

    Where that is, if anything may come of it.
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
            _bound(value)
        case "metrics[]":
            holder[key] = {"name": name, "kind": _PLAIN_KIND}
        case "metrics[].kind":
            holder[key] = _PLAIN_KIND
            _bound(holder)
        case "metrics[].role" if value == "guardrail":
            holder[key] = "secondary"
            return ""
        case "metrics[].goal":
            del holder[key]
            # Of some kinds it says what a policy takes them for.
            kind = _kind_of(holder)
            return at if kind is not None and kind.mirror is not None else ""
        case "metrics[].low" | "metrics[].high":
            _bound(holder)
        case "attribution.missing":
            document["attribution"] = _only(document.get("attribution"), "window") | {"missing": "ignore"}
        case "policy.kind":
            holder |= {"kind": "fixed_split"}
            for own in OWN:
                holder.pop(own, None)
        case "context":
            holder[key] = [{"name": name, "kind": "numeric"}]
        case "context[]" | "context[].kind":
            field = value if generic == "context[]" else dict(holder)
            steps[1][0][steps[1][1]] = {"name": name} | _only(field, "name") | {"kind": "numeric"}
        case _:
            # What may be left out is: of an item, the list that it is in.
            while isinstance(holder, list) and len(steps) > 1:
                steps.pop()
                holder, key = steps[-1]
            holder.pop(key, None)
    return "" if _is_of_no_objective(document, generic, steps) else at


def _is_of_no_objective(document: dict[str, Any], generic: str, steps: Sequence[tuple[Any, Any]]) -> bool:
    """Whether it is of a metric that is not the objective: nothing else is made of those."""
    if not generic.startswith("metrics[]") or generic == "metrics[].role":
        return False
    roles = [_inside(metric, "role") for metric in document["metrics"]]
    objective = (
        roles.index("objective") if "objective" in roles else roles.index(None) if None in roles else 0
    )
    return bool(steps[1][1] != objective)


def _steps(document: Any, at: str) -> Iterator[tuple[Any, Any]]:
    """Each object or list on the way to a place in a document, and where the way goes on in it."""
    here, rest = document, at
    while rest:
        if isinstance(here, list) and (index := re.match(r"\[(\d+)\]\.?", rest)):
            key: Any = int(index[1])
            rest = rest[index.end() :]
        else:
            # A name may have dots in it.
            names = [name for name in (here if isinstance(here, dict) else ()) if _leads(name, rest)]
            key = max(names, key=len, default=re.split(r"[.\[]", rest)[0])
            rest = rest[len(key) :].removeprefix(".")
        yield here, key
        inner = here.get(key) if isinstance(here, dict) else dict(enumerate(here)).get(key)
        if not isinstance(inner, dict | list):
            return
        here = inner


def _leads(name: str, rest: str) -> bool:
    return rest == name or rest.startswith((f"{name}.", f"{name}["))


def _only(value: Any, *names: str) -> dict[str, Any]:
    return {name: value[name] for name in names if name in value} if isinstance(value, dict) else {}


def _without(value: Any, name: str) -> Any:
    return {each: of for each, of in value.items() if each != name} if isinstance(value, dict) else value


def _bound(metric: dict[str, Any]) -> None:
    """With bounds if its kind has some."""
    metric.pop("low", None)
    metric.pop("high", None)
    kind = _kind_of(metric)
    if kind is not None and kind.takes_bounds:
        metric |= {"low": 0.0, "high": 1.0}


def _kind_of(metric: dict[str, Any]) -> type[MetricKind] | None:
    name = metric.get("kind")
    return KINDS.get(name) if isinstance(name, str) else None
