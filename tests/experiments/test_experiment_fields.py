"""Fields of an experiment: each survives being created, read, applied again and extended by arms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from commands import bandit_serve, save_model
from http_calls import new_name
from msgspec import Struct
from services import ThrowawayService

from bandit_serve.api.views import (
    ExperimentView,
    HistoryView,
    ModelHistoryView,
    VersionView,
    history_view,
    version_view,
)
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Arm, Attribution, Experiment, Ramp
from bandit_serve.experiments.stopping import Stopping
from bandit_serve.folds.experiment import HistoryEntry
from bandit_serve.policies.context import ContextField
from bandit_serve.registry.registry import ModelHistoryEntry, Version
from bandit_serve.server.handlers.experiments import ArmRequest, MetricRequest

ARM = {
    "name": "third",
    "model": "m",
    "version": "v1",
    "payload": {"any": ["json", 1.5]},
    "features": [0.5, -2.0],
}
WHOLE: dict[str, Any] = {
    "arms": [
        {**ARM, "name": "a", "features": [1.0, 0.0]},
        {**ARM, "name": "b", "payload": None, "features": [0.0, 1.0]},
    ],
    "control": "b",
    "unit": "user",
    "policy": {
        "kind": "lin_ts",
        "min_share": 0.02,
        "refresh": "70ms",
        "holdout": 0.05,
    },
    "metrics": [
        {
            "name": "score",
            "kind": "bounded",
            "goal": "minimize",
            "role": "objective",
            "low": -1.0,
            "high": 2.0,
        },
        {"name": "waited_s", "kind": "continuous", "goal": "minimize", "role": "secondary", "quantile": 0.95},
        {"name": "clicks", "kind": "count", "role": "secondary", "covariate": "clicks_before", "cap": 30.0},
        {"name": "visits", "kind": "count", "role": "secondary"},
        {
            "name": "clicks_a_visit",
            "kind": "ratio",
            "role": "secondary",
            "numerator": "clicks",
            "denominator": "visits",
        },
        {
            "name": "latency_ms",
            "kind": "continuous",
            "goal": "minimize",
            "role": "guardrail",
            "source": "served",
            "margin": {"relative": 0.1},
            "on_harm": "pause_arm",
        },
    ],
    "attribution": {"window": "30m", "missing": "ignore"},
    "context": [
        {"name": "hour", "kind": "numeric", "mean": 12.0, "std": 6.0, "interactions": ["device"]},
        {"name": "device", "kind": "categorical", "values": ["ios", "web"]},
        {"name": "city", "kind": "categorical", "buckets": 4},
    ],
    "stopping": {
        "duration": "14d",
        "min_samples": 100,
        "alpha": 0.1,
        "promote_winner": True,
        "expected_samples": 80_000,
        "start_at": "2099-03-02T09:00:00Z",
        "end_at": "2099-03-30T09:00:00.250000Z",
        "rule": {"futility": 0.01},
    },
    "description": "What it is.",
    "owner": "us",
    "tags": ["first", "second"],
    "hypothesis": "b is better.",
    "audience": {
        "any": [{"field": "country", "in": ["de", 1.0, True]}, {"not": {"field": "age", "lt": 18.0}}]
    },
    "layer": {"name": "page", "share": 0.25},
    "dimensions": ["device"],
}
TO_HORIZON: dict[str, Any] = WHOLE | {
    "policy": {"kind": "fixed_split"},
    "stopping": {"alpha": 0.1, "mode": "horizon", "expected_samples": 5_000, "looks": 7},
}
TRADED: dict[str, Any] = WHOLE | {
    "policy": {"kind": "thompson", "min_share": 0.02},
    "stopping": {
        name: part for name, part in WHOLE["stopping"].items() if name not in ("rule", "promote_winner")
    },
    "weights": {"clicks": 0.5},
    "constraints": [{"metric": "latency_ms", "at_most": 250.0}, {"metric": "visits", "at_least": 1.0}],
}
OF_THOMPSON = {"weights", "constraints"}
# Refused with a contextual policy, or for units: see test_kept_arms.py, test_interleaved.py, test_placed_over_http.py.
OF_OTHERS = {"keep_assigned", "mode", "slots"}


def named(parts: Any) -> set[str]:
    return {name for part in parts for name in part}


def test_the_example_has_every_field() -> None:
    """So that a field that is added later is in these tests, or they fail."""
    assert {*WHOLE, *TRADED, *OF_OTHERS, "id"} == set(Experiment.__struct_fields__)
    for kind, parts in (
        (Arm, WHOLE["arms"]),
        (Metric, WHOLE["metrics"]),
        (ContextField, WHOLE["context"]),
        (Attribution, [WHOLE["attribution"]]),
        (Stopping, [WHOLE["stopping"], TO_HORIZON["stopping"]]),
    ):
        assert named(parts) == set(kind.__struct_fields__), kind


@pytest.fixture(scope="module")
def with_model(service: ThrowawayService, tmp_path_factory: pytest.TempPathFactory) -> ThrowawayService:
    file = save_model(tmp_path_factory.mktemp("m") / "m")
    assert bandit_serve("models", "register", "m", file, "--data", service.data).status == 0
    return service


def of(view: Mapping[str, Any]) -> dict[str, Any]:
    """The experiment's own part of what is shown, as it would be sent."""
    left = OF_OTHERS | (OF_THOMPSON - view.keys())
    own = {name: view[name] for name in Experiment.__struct_fields__ if name not in left and name in view}
    plain: dict[str, Any] = msgspec.to_builtins(msgspec.convert(own, Experiment))
    return plain


@pytest.mark.parametrize("whole", [WHOLE, TO_HORIZON, TRADED], ids=["any time", "horizon", "traded"])
def test_all_of_it_survives_create_get_apply_and_add_arm(
    with_model: ThrowawayService, tmp_path: Path, whole: dict[str, Any]
) -> None:
    service = with_model
    wanted = {"id": new_name(), **whole}
    made = service.call("POST", "/v1/experiments", wanted)
    assert made.status == 201, made.body
    path = f"/v1/experiments/{wanted['id']}"
    expected = of(wanted)
    assert of(made.body) == of(service.call("GET", path).body) == expected

    shown = bandit_serve("experiments", "show", wanted["id"], "--json", "--data", service.data).document
    assert of(shown) == expected
    file = tmp_path / "e.json"
    file.write_text(json.dumps(of(shown)))
    applied = bandit_serve("experiments", "apply", file, "--json", "--data", service.data)
    assert [each["result"] for each in applied.document["experiments"]] == ["unchanged"]

    over_http = service.call(
        "POST", f"{path}/arms", {**ARM, "ramp": {"from": 0.1, "over": "2h"}, "reason": "r"}
    )
    assert over_http.status == 200, over_http.body
    flags = ["--model", "m", "--version", "v1", "--payload", json.dumps(ARM["payload"])]
    flags += [word for number in (0.25, -1.0) for word in ("--feature", str(number))]
    by_command = bandit_serve(
        "experiments", "add-arm", wanted["id"], "fourth", *flags, "--data", service.data
    )
    assert by_command.status == 0, by_command.err
    arms = service.call("GET", path).body["arms"]
    assert arms[2:] == [ARM, {**ARM, "name": "fourth", "features": [0.25, -1.0]}]

    file.write_text(json.dumps({**wanted, "arms": [*arms, {**ARM, "name": "fifth"}]}))
    applied = bandit_serve("experiments", "apply", file, "--json", "--data", service.data)
    assert [each["result"] for each in applied.document["experiments"]] == ["arms changed"], applied.err
    assert service.call("GET", path).body["arms"] == [*arms, {**ARM, "name": "fifth"}]


def filled(kind: type[Struct], **given: Any) -> dict[str, Any]:
    """A value that is no default for each field."""
    return {name: given.get(name, f"{name}-1") for name in kind.__struct_fields__}


def test_what_is_shown_has_every_field_of_what_is_known() -> None:
    request = ArmRequest(**{**ARM, "features": (0.5,), "ramp": Ramp(0.5, "1h"), "reason": "r"})
    assert msgspec.structs.asdict(request.arm) == {**ARM, "features": (0.5,)}
    metric = Metric(**filled(Metric))
    assert MetricRequest(**msgspec.structs.asdict(metric), reason="r").metric == metric
    assert set(Experiment.__struct_fields__) < set(ExperimentView.__struct_fields__)
    version = Version(
        **filled(Version, created_ms=1, updated_ms=2, size=3, metrics={"a": 1.0}, metadata={}, pruned=True)
    )
    shown = version_view(version)
    same = set(Version.__struct_fields__) & set(VersionView.__struct_fields__)
    assert set(Version.__struct_fields__) - same == {"created_ms", "updated_ms"}
    assert {name: getattr(shown, name) for name in same} == {name: getattr(version, name) for name in same}
    entry = HistoryEntry(**filled(HistoryEntry, revision=3, at_ms=1))
    view = history_view(entry)
    same = set(HistoryEntry.__struct_fields__) & set(HistoryView.__struct_fields__)
    assert set(HistoryEntry.__struct_fields__) - same == {"at_ms"}
    assert {name: getattr(view, name) for name in same} == {name: getattr(entry, name) for name in same}
    assert set(ModelHistoryEntry.__struct_fields__) - set(ModelHistoryView.__struct_fields__) == {"at_ms"}
