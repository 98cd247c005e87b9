"""Experiments in files (TOML, JSON or YAML), written by hand or printed by `experiments show`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bandit_serve.api.views import ExperimentView
from bandit_serve.base.validation import convert_or_explain
from bandit_serve.changes.experiment_mistakes import every_mistake
from bandit_serve.changes.experiments import servable
from bandit_serve.cli.described import STDIN, as_json, joined, read_listed, within
from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.experiments.named_metric import Definitions, filled_experiment
from bandit_serve.experiments.spec import Experiment

DefinitionsOf = Callable[[str], Definitions]
"""Definitions of metrics that the experiment of this name may name."""

# What is only told of an experiment, and is not its own.
TOLD = frozenset(ExperimentView.__struct_fields__) - frozenset(Experiment.__struct_fields__)


def read_experiments(*paths: Path, definitions_of: DefinitionsOf = lambda _: {}) -> list[Experiment]:
    """Reads the experiments of files, with their defaults. Raises `InvalidInput` with every mistake."""
    places, experiments, errors = [], [], []
    for path in paths:
        for at, document in read_listed(path, "experiments"):
            places.append(f"{path}: {at}" if len(paths) > 1 and at else str(path) if len(paths) > 1 else at)
            try:
                experiments.append(servable(_experiment(document, definitions_of)))
            except InvalidInput as error:
                errors += within(places[-1], error)
    errors += _repeated(places, experiments)
    refuse(named(paths), errors)
    return experiments


def named(paths: Sequence[Path]) -> str:
    """Names of files, for a sentence."""
    return " and ".join("the standard input" if path == STDIN else str(path) for path in paths)


def _experiment(document: Any, definitions_of: DefinitionsOf) -> Experiment:
    content = as_json(_as_written(document))
    try:
        return msgspec.json.decode(content, type=Experiment)
    except msgspec.ValidationError as refused:
        error = refused
    except RecursionError as refused:
        raise InvalidInput(f"{refused}.") from None
    name = document.get("id") if isinstance(document, dict) else None
    filled = filled_experiment(content, definitions_of(name) if isinstance(name, str) else {})
    return convert_or_explain(
        msgspec.json.decode(filled.body),
        Experiment,
        error,
        find_mistakes=every_mistake,
        others=filled.errors,
    )


def _as_written(document: Any) -> Any:
    """Removes what `experiments show` adds to an experiment, and the arms that it shows as removed."""
    if not isinstance(document, dict) or not {"status", "revision"} <= document.keys():
        return document
    own = {name: value for name, value in document.items() if name not in TOLD}
    statuses, arms = document.get("arm_status"), own.get("arms")
    if isinstance(statuses, dict) and isinstance(arms, list):
        own["arms"] = [
            arm for arm in arms if not isinstance(arm, dict) or statuses.get(arm.get("name")) != "removed"
        ]
    return own


def _repeated(places: Sequence[str], experiments: Sequence[Experiment]) -> list[FieldError]:
    if len(places) != len(experiments):
        return []
    names = [experiment.id for experiment in experiments]
    return [
        FieldError(joined(places[i], "id"), f"the experiment {name!r} is in the file twice")
        for i, name in enumerate(names)
        if name in names[:i]
    ]


def refuse(files: str, errors: Sequence[FieldError]) -> None:
    if errors:
        raise InvalidInput(f"Nothing was applied: {files} has mistakes.", errors)
