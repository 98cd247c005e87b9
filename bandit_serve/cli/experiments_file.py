"""Experiments in a file (TOML, JSON or YAML), and what applying them would change."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from bandit_serve.cli.described import read_described
from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.experiment import Arm, Experiment
from bandit_serve.live import LiveExperiment
from bandit_serve.log.experiment_changes import require_version, require_versions, servable
from bandit_serve.models.registry import Registry
from bandit_serve.validation import field_error

Outcome = Literal["created", "policy changed", "arms changed", "arms and policy changed", "unchanged"]

MAX_SHOWN = 60


class Planned(NamedTuple):
    """What is to be done for one experiment, seen at `etag` (None: it is not there).

    `added` and `removed` are arms that the file has more and does not have any more.
    """

    experiment: Experiment
    outcome: Outcome
    etag: str | None
    added: tuple[Arm, ...] = ()
    removed: tuple[str, ...] = ()
    changes_policy: bool = False


def read_experiments(path: Path) -> list[Experiment]:
    """The experiments of a file with their defaults; `InvalidInput` names everything that is wrong."""
    documents = _documents(path, read_described(path))
    experiments, errors = [], []
    for at, document in documents:
        try:
            experiments.append(servable(_experiment(document, at)))
        except InvalidInput as error:
            errors += _within(at, error)
    errors += _repeated([at for at, _ in documents], experiments)
    _raise(path, errors)
    return experiments


def plan(
    path: Path, experiments: Sequence[Experiment], live: Mapping[str, LiveExperiment], registry: Registry
) -> list[Planned]:
    """What each experiment needs; `InvalidInput` when any of them can not be had."""
    planned, errors = [], []
    for experiment in experiments:
        existing = live.get(experiment.id)
        try:
            if existing is None:
                require_versions(experiment, registry)
                planned.append(Planned(experiment, "created", None))
            else:
                planned.append(_change(existing, experiment, registry))
        except InvalidInput as error:
            errors += _within(experiment.id, error)
    _raise(path, errors)
    return planned


def _change(existing: LiveExperiment, wanted: Experiment, registry: Registry) -> Planned:
    present, record = existing.experiment, existing.record
    fixed = [name for name in Experiment.__struct_fields__ if name not in ("policy", "arms")]
    errors = [
        FieldError(at, f"is {_shown(before)} and can not become {_shown(after)}: it is fixed once created")
        for name in fixed
        for at, before, after in _differences(
            _plain(getattr(present, name)), _plain(getattr(wanted, name)), name
        )
    ]
    errors += _arm_errors(existing, wanted, registry)
    names = set(wanted.arm_names)
    added = tuple(arm for arm in wanted.arms if arm.name not in present.arm_names)
    removed = tuple(
        name for name, status in record.arm_statuses.items() if status != "removed" and name not in names
    )
    changes_policy = present.policy != wanted.policy
    if not errors:
        _require_steps(present, added, wanted)
    if record.status == "stopped":
        if changes_policy:
            errors.append(FieldError("policy", "is final, as the experiment is stopped"))
        if added or removed:
            errors.append(FieldError("arms", "are final, as the experiment is stopped"))
    if errors:
        raise InvalidInput(f"{errors[0].at}: {errors[0].detail}.", errors)
    outcome: Outcome = "policy changed" if changes_policy else "unchanged"
    if added or removed:
        outcome = "arms and policy changed" if changes_policy else "arms changed"
    return Planned(wanted, outcome, existing.etag, added, removed, changes_policy)


def _require_steps(present: Experiment, added: Sequence[Arm], wanted: Experiment) -> None:
    """`InvalidInput` or `NotBuilt` where the experiment could not be served on the way to what is wanted.

    Arms come one by one before the policy changes; those that go keep their place.
    """
    for arm in added:
        present = servable(present.with_arm(arm))
    servable(present.with_policy(wanted.policy))


def _arm_errors(existing: LiveExperiment, wanted: Experiment, registry: Registry) -> list[FieldError]:
    """An arm is known by its name: what it is stays, and a name is not used again."""
    present, statuses = existing.experiment, existing.record.arm_statuses
    errors = []
    for i, arm in enumerate(wanted.arms):
        if statuses.get(arm.name) == "removed":
            detail = f"the arm {arm.name!r} was removed, and a name is not used again"
            errors.append(FieldError(f"arms[{i}].name", detail))
        elif arm.name in statuses:
            before = present.arms[present.arm_names.index(arm.name)]
            errors += [
                FieldError(
                    at, f"is {_shown(one)} and can not become {_shown(other)}: add another arm instead"
                )
                for at, one, other in _differences(_plain(before), _plain(arm), f"arms[{i}]")
            ]
        else:
            try:
                require_version(arm, f"arms[{i}].version", registry)
            except InvalidInput as error:
                errors += error.errors
    return errors


def _documents(path: Path, content: Any) -> list[tuple[str, Any]]:
    """Each document and where it is: one alone, a list of them, or a list under `experiments`."""
    if isinstance(content, dict) and "experiments" in content:
        other = [name for name in content if name != "experiments"]
        if other:
            raise InvalidInput(f"The file {path} has {other[0]!r} beside experiments: expected nothing else.")
        documents = content["experiments"]
        if not isinstance(documents, list):
            raise InvalidInput(f"experiments: expected a list, in {path}.")
        return [(f"experiments[{i}]", document) for i, document in enumerate(documents)]
    if isinstance(content, list):
        return [(f"[{i}]", document) for i, document in enumerate(content)]
    return [("", content)]


def _experiment(document: Any, at: str) -> Experiment:
    errors = [FieldError(path, "expected a finite number") for path in _not_finite(document, "")]
    if errors:
        raise InvalidInput("The file has numbers that are not finite.", errors)
    try:
        # As it would come over HTTP: TOML and YAML have kinds of values that JSON does not.
        return msgspec.json.decode(msgspec.json.encode(document), type=Experiment)
    except msgspec.ValidationError as error:
        raise InvalidInput(str(error), [field_error(error)]) from None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(f"{at}: {error}.") from None


def _not_finite(value: Any, at: str) -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield at
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _not_finite(each, f"{at}.{name}".removeprefix("."))
    elif isinstance(value, list):
        for i, each in enumerate(value):
            yield from _not_finite(each, f"{at}[{i}]")


def _repeated(places: Sequence[str], experiments: Sequence[Experiment]) -> list[FieldError]:
    if len(places) != len(experiments):
        return []
    names = [experiment.id for experiment in experiments]
    return [
        FieldError(f"{places[i]}.id", f"the experiment {name!r} is in the file twice")
        for i, name in enumerate(names)
        if name in names[:i]
    ]


def _within(at: str, error: InvalidInput) -> list[FieldError]:
    if not error.errors:
        return [FieldError(at, str(error).rstrip("."))]
    return [FieldError(_joined(at, each.at), each.detail) for each in error.errors]


def _joined(outer: str, inner: str) -> str:
    return f"{outer}.{inner}" if outer and inner else outer or inner


def _raise(path: Path, errors: Sequence[FieldError]) -> None:
    if errors:
        raise InvalidInput(f"Nothing was applied, as {path} has what can not be:", errors)


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value)


def _differences(before: Any, after: Any, at: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            yield from _differences(before.get(name), after.get(name), f"{at}.{name}")
    elif isinstance(before, list | tuple) and isinstance(after, list | tuple) and len(before) == len(after):
        for i, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _differences(one, other, f"{at}[{i}]")
    elif before != after:
        yield at, before, after


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple) and len(value) != 1:
        return f"a list of {len(value)}"
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
