"""Page of a model: its versions, two of them beside each other, shadows, records of training, and the history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from markupsafe import Markup

from bandit_serve.api.views import ModelView, VersionComparison, VersionView
from bandit_serve.base.clock import unix_ms
from bandit_serve.dashboard.numbers import text_of
from bandit_serve.dashboard.surroundings import ModelLook
from bandit_serve.dashboard.templates import rendered
from bandit_serve.dashboard.training_record import TrainingLook, training_of
from bandit_serve.pictures.course import CourseOfArm, lines
from bandit_serve.pictures.parallel import Combination, parallel
from bandit_serve.registry.agreement import AgreementReport

MAX_HISTORY = 100
MAX_VERSIONS = 50
MAX_METRICS = 6
"""Metrics of versions that are drawn, and that the table has."""
MAX_RECORDS = 10
PARTS = ("state", "agreement", "versions", "compared", "metrics", "records", "history")


class RecordOfVersion(NamedTuple):
    """Record of how a version came to be: the training run if it is known, with a picture of its search."""

    version: VersionView
    training: TrainingLook | None
    search: Markup


def model_parts(
    view: ModelView,
    look: ModelLook,
    workers: int,
    compared: VersionComparison | None,
    agreements: Mapping[str, AgreementReport],
) -> dict[str, Markup]:
    """HTML of each of `PARTS`. `workers` live, of which `look` says what they have in memory."""
    newest = view.versions[::-1][:MAX_VERSIONS]
    counted: dict[str, int] = {}
    for version in newest:
        for name in version.metrics:
            counted[name] = counted.get(name, 0) + 1
    names = sorted(counted, key=lambda name: -counted[name])[:MAX_METRICS]
    content = {
        "view": view,
        "look": look,
        "workers": workers,
        "versions": newest,
        "others": len(view.versions) - len(newest),
        "names": names,
        "compared": compared,
        "agreements": agreements,
        "records": [_record(version) for version in newest if version.metadata][:MAX_RECORDS],
        "history": view.history[-MAX_HISTORY:][::-1],
        "pictures": _over_versions(newest[::-1], names),
        "text": text_of,
    }
    return {part: rendered(f"model/{part}.html", **content) for part in PARTS}


def _record(version: VersionView) -> RecordOfVersion:
    training = training_of(version.metadata)
    tried = [] if training is None else [each for each in training.search if each.value is not None]
    picture = parallel(
        [Combination(each.parameters, each.value) for each in tried],
        training.searched_by if training is not None else "",
    )
    return RecordOfVersion(version, training, Markup(picture))


def _over_versions(versions: Sequence[VersionView], names: list[str]) -> list[Markup]:
    """A picture of each metric that two versions or more have, over the times at which they were made."""
    pictures: list[Markup] = []
    for name in names:
        known = [version for version in versions if name in version.metrics]
        if len(known) > 1:
            at_ms = [_time_ms(version.created_at) for version in known]
            values = [version.metrics[name] for version in known]
            series = [CourseOfArm(known[-1].version, 0, values)]
            pictures.append(Markup(lines(at_ms, series, name, name=f"metric-{len(pictures)}")))
    return pictures


def _time_ms(at: str) -> int:
    return unix_ms(datetime.fromisoformat(at))
