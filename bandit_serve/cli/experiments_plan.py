"""Plan of the changes that applying experiments from files makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Struct

from bandit_serve.changes.experiments import require_version, require_versions, servable
from bandit_serve.cli.described import within
from bandit_serve.cli.experiments_file import refuse
from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.experiments.checks import with_arm, with_policy
from bandit_serve.experiments.spec import Arm, Experiment
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.registry.registry import Registry

Outcome = Literal[
    "created", "draft changed", "policy changed", "arms changed", "arms and policy changed", "unchanged"
]

MAX_SHOWN = 60
# What is known by name in an experiment.
NAMED = ("arms", "metrics", "context")


class FieldChange(Struct, frozen=True):
    """Change of a field. `before` is null for a new field, `after` for one that is removed."""

    at: str
    before: Any
    after: Any

    @property
    def shown(self) -> str:
        """Line about the change, for people."""
        if self.before is None:
            return f"+ {self.at}: {shown(self.after)}"
        if self.after is None:
            return f"- {self.at}: {shown(self.before)}"
        return f"~ {self.at}: {shown(self.before)} → {shown(self.after)}"


class Planned(NamedTuple):
    """Changes planned for one experiment, whose ETag was `etag`; None if it does not exist.

    `added` are arms that only the file has, `removed` those that only the experiment has. A draft is replaced as a
    `whole` where single steps are not enough. `changes` lists every field that will differ.
    """

    experiment: Experiment
    outcome: Outcome
    etag: int | None
    added: tuple[Arm, ...] = ()
    removed: tuple[str, ...] = ()
    changes_policy: bool = False
    whole: bool = False
    changes: tuple[FieldChange, ...] = ()


def plan(
    files: str, experiments: Sequence[Experiment], live: Mapping[str, LiveExperiment], registry: Registry
) -> list[Planned]:
    """Plans the changes for each experiment. Raises `InvalidInput` if one of them is impossible."""
    planned, errors = [], []
    for experiment in experiments:
        existing = live.get(experiment.id)
        try:
            if existing is None:
                require_versions(experiment, registry)
                planned.append(Planned(experiment, "created", None, changes=_changes(None, experiment)))
            else:
                planned.append(_change(existing, experiment, registry))
        except InvalidInput as error:
            errors += within(experiment.id, error)
    refuse(files, errors)
    return planned


def _change(existing: LiveExperiment, wanted: Experiment, registry: Registry) -> Planned:
    present, record = existing.experiment, existing.record
    changes = _changes(_standing(existing), wanted)
    if record.status == "draft" and _is_another_draft(existing, wanted):
        require_versions(wanted, registry)
        return Planned(wanted, "draft changed", existing.etag, whole=True, changes=changes)
    fixed = [name for name in Experiment.__struct_fields__ if name not in ("policy", "arms")]
    stands, asked = _plain(present), _plain(wanted)
    errors = [
        FieldError(at, f"is {shown(before)} and can not become {shown(after)}: {_why_fixed(at)}")
        for name in fixed
        for at, before, after in _differences(stands.get(name), asked.get(name), name)
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
    changes = () if outcome == "unchanged" else changes
    return Planned(wanted, outcome, existing.etag, added, removed, changes_policy, changes=changes)


def _why_fixed(at: str) -> str:
    return "see bandit-serve experiments layer" if at == "layer.share" else "it is fixed once created"


def _is_another_draft(existing: LiveExperiment, wanted: Experiment) -> bool:
    """Whether the documents differ in more than the policy and added or removed arms."""
    present, statuses = existing.experiment, existing.record.arm_statuses
    kept = {arm.name: arm for arm in present.arms}
    return msgspec.structs.replace(wanted, policy=present.policy, arms=present.arms) != present or any(
        statuses.get(arm.name) == "removed" or kept.get(arm.name, arm) != arm for arm in wanted.arms
    )


def _standing(existing: LiveExperiment) -> Experiment:
    """Experiment without its removed arms."""
    statuses = existing.record.arm_statuses
    arms = tuple(arm for arm in existing.experiment.arms if statuses[arm.name] != "removed")
    return msgspec.structs.replace(existing.experiment, arms=arms)


def _changes(present: Experiment | None, wanted: Experiment) -> tuple[FieldChange, ...]:
    """Changed fields; arms and metrics are compared by name."""
    before: dict[str, Any] = {"id": wanted.id, **{at: {} for at in NAMED}}
    if present is not None:
        before = _by_name(_plain(present))
    return tuple(
        FieldChange(at.removeprefix("."), one, other)
        for at, one, other in _differences(before, _by_name(_plain(wanted)), "")
    )


def _by_name(experiment: dict[str, Any]) -> dict[str, Any]:
    """Document without null fields; its arms, metrics and context fields are in mappings by name."""
    named = {
        at: {each["name"]: {k: v for k, v in each.items() if v is not None} for each in experiment[at]}
        for at in NAMED
    }
    return {**experiment, **named}


def _require_steps(present: Experiment, added: Sequence[Arm], wanted: Experiment) -> None:
    """Raises `InvalidInput` where the experiment would be invalid between two steps.

    Arms are added one by one before the policy changes; removed arms keep their place.
    """
    for arm in added:
        present = servable(with_arm(present, arm))
    servable(with_policy(present, wanted.policy))


def _arm_errors(existing: LiveExperiment, wanted: Experiment, registry: Registry) -> list[FieldError]:
    """Mistakes of arms: an existing arm can not change, and the name of a removed one can not be used again."""
    present, statuses = existing.experiment, existing.record.arm_statuses
    errors = []
    for i, arm in enumerate(wanted.arms):
        if statuses.get(arm.name) == "removed":
            detail = f"the arm {arm.name!r} was removed, and a name is not used again"
            errors.append(FieldError(f"arms[{i}].name", detail))
        elif arm.name in statuses:
            before = present.arms[present.arm_names.index(arm.name)]
            errors += [
                FieldError(at, f"is {shown(one)} and can not become {shown(other)}: add another arm instead")
                for at, one, other in _differences(_plain(before), _plain(arm), f"arms[{i}]")
            ]
        else:
            try:
                require_version(arm, f"arms[{i}].version", registry)
            except InvalidInput as error:
                errors += error.errors
    return errors


def _plain(value: Any) -> Any:
    return None if value is UNSET else msgspec.to_builtins(value)


def _differences(before: Any, after: Any, at: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            yield from _differences(before.get(name), after.get(name), f"{at}.{name}")
    elif isinstance(before, list | tuple) and isinstance(after, list | tuple) and len(before) == len(after):
        for i, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _differences(one, other, f"{at}[{i}]")
    elif before != after:
        yield at, before, after


def shown(value: Any) -> str:
    if isinstance(value, list | tuple) and len(value) != 1:
        return f"a list of {len(value)}"
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
