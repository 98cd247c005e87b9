"""Experiments in files (TOML, JSON or YAML), written by hand or printed by `experiments show`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bandit_serve.api.views import ExperimentView
from bandit_serve.base.validation import convert_or_explain
from bandit_serve.changes.experiment_mistakes import every_mistake
from bandit_serve.changes.experiments import servable
from bandit_serve.cli.described import STDIN, read_documents
from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.experiments.spec import Experiment

# What is only told of an experiment, and is not its own.
TOLD = frozenset(ExperimentView.__struct_fields__) - frozenset(Experiment.__struct_fields__)


def read_experiments(*paths: Path) -> list[Experiment]:
    """Reads the experiments of files, with their defaults. Raises `InvalidInput` with every mistake."""
    places, experiments, errors = [], [], []
    for path in paths:
        for at, document in _documents(path):
            places.append(f"{path}: {at}" if len(paths) > 1 and at else str(path) if len(paths) > 1 else at)
            try:
                experiments.append(servable(_experiment(document, places[-1])))
            except InvalidInput as error:
                errors += within(places[-1], error)
    errors += _repeated(places, experiments)
    refuse(named(paths), errors)
    return experiments


def named(paths: Sequence[Path]) -> str:
    """Names of files, for a sentence."""
    return " and ".join("the standard input" if path == STDIN else str(path) for path in paths)


def _documents(path: Path) -> list[tuple[str, Any]]:
    """Experiments of a file with their places in it: one document, a list, or a list under `experiments`."""
    contents = read_documents(path)
    if len(contents) == 1:
        return _listed(path, contents[0])
    documents = []
    for i, content in enumerate(contents, 1):
        documents += [(joined(f"document {i}", at), document) for at, document in _listed(path, content)]
    return documents


def _listed(path: Path, content: Any) -> list[tuple[str, Any]]:
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
        content = msgspec.json.encode(_as_written(document))
        return msgspec.json.decode(content, type=Experiment)
    except msgspec.ValidationError as error:
        return convert_or_explain(
            msgspec.json.decode(content), Experiment, error, find_mistakes=every_mistake
        )
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(f"{at}: {error}.") from None


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
        FieldError(joined(places[i], "id"), f"the experiment {name!r} is in the file twice")
        for i, name in enumerate(names)
        if name in names[:i]
    ]


def within(at: str, error: InvalidInput) -> list[FieldError]:
    if not error.errors:
        return [FieldError(at, str(error).rstrip("."))]
    return [FieldError(joined(at, each.at), each.detail) for each in error.errors]


def joined(outer: str, inner: str) -> str:
    return f"{outer}.{inner}" if outer and inner else outer or inner


def refuse(files: str, errors: Sequence[FieldError]) -> None:
    if errors:
        raise InvalidInput(f"Nothing was applied: {files} has mistakes.", errors)
