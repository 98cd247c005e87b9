"""Finding versions of a model, and comparing two of them."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from bandit_serve.base.names import TEXT_END
from bandit_serve.errors import InvalidInput, NotFound
from bandit_serve.models.family import FAMILIES
from bandit_serve.models.onnx.file import FAMILY as ONNX
from bandit_serve.registry.registry import MOVES, REMOTE, RegisteredModel, Version

MAX_PAGE = 1_000
KNOWN_FAMILIES = (*FAMILIES, ONNX, REMOTE)
"""Families of versions: those that are trained here, graphs, and upstreams."""
CONDITION_PATTERN = (
    r"^ *([A-Za-z0-9_.@-]{1,128}) *(<=|>=|<|>|=) *(-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?) *" + TEXT_END
)
COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}


class MatchingVersions(NamedTuple):
    """Page of versions. `after` asks for the next page, None on the last; `total` counts the versions of all pages."""

    versions: list[Version]
    total: int
    after: str | None


def find_versions(
    model: RegisteredModel,
    *,
    statuses: Collection[str] = (),
    family: str | None = None,
    metrics: Collection[str] = (),
    text: str | None = None,
    sort: str = "-created",
    limit: int = 100,
    after: str | None = None,
) -> MatchingVersions:
    """Versions that fit all that is given, a page of them.

    statuses : one of these. metrics : conditions such as `rmse<=0.9`. text : a part of the version's name, its
    reason, or the text of its metadata. sort : `created`, `version` or a metric, with `-` the largest first; what has
    no such metric comes last. after : the last version of the page before.

    The newest of a status is the first with `statuses=[…], limit=1`. Raises `InvalidInput` for a condition that is
    none and for a status or a family that does not exist, `NotFound` for an `after` that does not fit.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"limit: expected a whole number from 1 to {MAX_PAGE}.")
    for status in statuses:
        if status not in MOVES:
            raise InvalidInput(f"status: expected {', '.join(MOVES)}, not {status[:128]!r}.")
    if family is not None and family not in KNOWN_FAMILIES:
        raise InvalidInput(f"family: expected {', '.join(KNOWN_FAMILIES)}, not {family[:128]!r}.")
    conditions = [_condition(condition) for condition in metrics]
    versions = [
        version
        for version in model.versions.values()
        if (not statuses or version.status in statuses)
        and (family is None or version.family == family)
        and all(_fulfils(version, *condition) for condition in conditions)
        and (text is None or text.lower() in _text_of(version))
    ]
    versions = _sorted(versions, sort)
    start = 0
    if after is not None:
        names = [version.version for version in versions]
        if after not in names:
            raise NotFound(f"after: there is no version {after[:128]!r} among those that fit.")
        start = names.index(after) + 1
    page = versions[start : start + limit]
    more = start + limit < len(versions)
    return MatchingVersions(page, len(versions), page[-1].version if more else None)


def _condition(text: str) -> tuple[str, str, float]:
    match = re.match(CONDITION_PATTERN, text)
    if match is None:
        raise InvalidInput(f"metric: expected a condition such as rmse<=0.9, not {text[:100]!r}.")
    return match[1], match[2], float(match[3])


def _fulfils(version: Version, name: str, symbol: str, limit: float) -> bool:
    value = version.metrics.get(name)
    return value is not None and COMPARISONS[symbol](value, limit)


def _text_of(version: Version) -> str:
    return f"{version.version} {version.reason or ''} {version.metadata}".lower()


def _sorted(versions: list[Version], sort: str) -> list[Version]:
    name, largest_first = sort.removeprefix("-"), sort.startswith("-")
    if name == "created":
        return sorted(versions, key=lambda one: (one.created_ms, one.version), reverse=largest_first)
    if name == "version":
        return sorted(versions, key=lambda one: one.version, reverse=largest_first)
    with_it = [version for version in versions if name in version.metrics]
    without = [version for version in versions if name not in version.metrics]
    ranked = sorted(with_it, key=lambda one: (one.metrics[name], one.version), reverse=largest_first)
    return [*ranked, *sorted(without, key=lambda one: one.version)]


def parameters_of(version: Version) -> Mapping[str, Any]:
    """Hyper-parameters that training recorded; empty where it recorded none."""
    training = version.metadata.get("training")
    parameters = training.get("parameters") if isinstance(training, dict) else None
    return parameters if isinstance(parameters, dict) else {}


def prunable(
    models: Mapping[str, RegisteredModel], needed: Collection[tuple[str, str]], keep: int
) -> list[Version]:
    """Retired and failed versions whose files nothing needs, of each model all but the newest `keep`.

    `needed` are (model, version) that experiments may still ask for. Never given: the version to roll back to, one
    with `"keep": true` in its metadata, and one whose file another version shares that is needed.
    """
    chosen, kept_files = [], set[str]()
    for name, model in models.items():
        rollback = [former for former in model.former if model.versions[former].status == "retired"][-1:]
        ended = [version for version in model.versions.values() if version.status in ("retired", "failed")]
        ended.sort(key=lambda one: (one.updated_ms, one.version), reverse=True)
        candidates = [
            version
            for version in ended[keep:]
            if version.version not in rollback
            and (name, version.version) not in needed
            and version.metadata.get("keep") is not True
            and not version.pruned
            and version.sha256
        ]
        chosen += candidates
        gone = {version.version for version in candidates}
        kept_files |= {
            version.sha256
            for version in model.versions.values()
            if version.version not in gone and not version.pruned
        }
    return [version for version in chosen if version.sha256 not in kept_files]
