"""Retraining: when a run is to be repeated, by what the registry knows of its model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from bandit_serve.base.durations import Duration, parse_duration_ms
from bandit_serve.base.names import Name
from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.registry.registry import Version
from bandit_serve.training.gates import Gate
from bandit_serve.training.learning.prequential import PREQUENTIAL_METRICS

MIN_PAUSE_MS = 1_000
RESULTS = "results."
"""What a name of the gate begins with that asks the results of the experiment."""
RESULTS_FACTS = ("results.n", "results.mean", "results.lower", "results.upper")


class Retraining(Struct, frozen=True, forbid_unknown_fields=True):
    """Reasons to repeat a run: a time, a drift, or a metric. The first that holds is enough.

    every: time since the last training. drift: `learn` has published a version since then, and says in it that errors
    have grown. when: a gate on metrics of the newest version by `learn` since then, on `current.` and those of the
    version in production, and on `results.n`, `.mean`, `.lower` and `.upper`. These are of the objective of
    `experiment`, for the arm with the version in production. pause: least time between two trainings, whatever the
    reason. gated: file with the plan by whose steps the best version goes on.
    """

    every: Duration | None = None
    drift: bool = False
    when: str | None = None
    experiment: Name | None = None
    pause: Duration = "1h"
    gated: str | None = None

    def check(self) -> None:
        """Raises `InvalidInput` that names the field for what can never be due, or is not known."""
        if self.every is None and not self.drift and self.when is None:
            raise _mistake("retrain", "expected every, drift or when")
        for name, value in (("every", self.every), ("pause", self.pause)):
            if value is not None and parse_duration_ms(value) < MIN_PAUSE_MS:
                raise _mistake(f"retrain.{name}", "expected a second or more")
        gate = self.gate
        if gate is not None and (gate.compares or not gate.names):
            raise _mistake("retrain.when", "expected metrics, and what they are compared with")
        asked = {name for name in gate.names if name.startswith(RESULTS)} if gate else set()
        unknown = next((name for name in sorted(asked) if name not in RESULTS_FACTS), None)
        if unknown is not None:
            raise _mistake("retrain.when", f"expected one of {', '.join(RESULTS_FACTS)}, not {unknown}")
        if gate is not None:
            try:
                gate.require_known({*PREQUENTIAL_METRICS, *RESULTS_FACTS}, any_current=True)
            except InvalidInput as error:
                raise _mistake("retrain.when", str(error).rstrip(".")) from None
        if bool(asked) != (self.experiment is not None):
            raise _mistake("retrain.experiment", "expected with a gate that asks its results, and only then")

    @property
    def gate(self) -> Gate | None:
        return None if self.when is None else Gate(self.when)


def reason_to_train(
    retraining: Retraining,
    versions: Iterable[Version],
    production: Version | None,
    results: Mapping[str, float],
    now_ms: int,
) -> str | None:
    """Reason why a model is to be trained now, in words; None where there is none.

    versions: all of the model. results: `RESULTS_FACTS` that have a value. now_ms: log time.
    """
    known = sorted(versions, key=lambda each: each.created_ms)
    trained = trained_last(known)
    if trained is None:
        return "no version of it was trained yet"
    age_ms = now_ms - trained.created_ms
    if age_ms < parse_duration_ms(retraining.pause):
        return None
    if retraining.every is not None and age_ms >= parse_duration_ms(retraining.every):
        return f"{trained.version} was trained {retraining.every} ago or longer"
    learned = [each for each in known if isinstance(each.metadata.get("learner"), dict)]
    read_ms = _read_ms(trained)
    news = [each for each in learned if each.created_ms > read_ms]
    if retraining.drift:
        answered = {_drift(each) for each in learned if each.created_ms <= read_ms}
        drifted = next((each for each in news if _drift(each) not in answered | {None}), None)
        if drifted is not None:
            return f"the errors of {drifted.version} have grown"
    gate = retraining.gate
    if gate is not None:
        facts = {**(news[-1].metrics if news else {}), **results}
        verdict = gate.check(facts, "", production.metrics if production is not None else None, strict=True)
        if verdict.open:
            return verdict.reason
    return None


def trained_last(versions: Iterable[Version]) -> Version | None:
    """Version that was trained last, of those whose registration was not cut short; None without any."""
    trained = (
        each
        for each in versions
        if isinstance(each.metadata.get("training"), dict) and each.status != "training"
    )
    return max(trained, key=lambda each: each.created_ms, default=None)


def _read_ms(version: Version) -> int:
    """Log time before the ratings of a version were read; of its registration where that is not known."""
    began_ms = version.metadata["training"].get("began_ms")
    return began_ms if isinstance(began_ms, int) else version.created_ms


def _drift(version: Version) -> tuple[str, str] | None:
    """Drift that a learner has found: where it started, and the rating. Later versions of it repeat that."""
    learner: Mapping[str, Any] = version.metadata["learner"]
    at = learner.get("drift_at")
    return None if at is None else (str(learner.get("started_from")), str(at))


def _mistake(at: str, detail: str) -> InvalidInput:
    return InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])
