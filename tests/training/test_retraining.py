"""When a run is due, by versions of its model: a table of the laws, and clocks of any kind."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_serve.base.durations import parse_duration_ms
from bandit_serve.errors import InvalidInput
from bandit_serve.registry.registry import Version
from bandit_serve.training.plan import read_plan
from bandit_serve.training.retraining import Retraining, reason_to_train

HOUR_MS = 3_600_000


def version(name: str, hours: float, metrics: dict[str, float] | None = None, **metadata: Any) -> Version:
    at_ms = round(hours * HOUR_MS)
    return Version("films", name, "staged", "00", 1, "bias", at_ms, at_ms, metrics or {}, metadata)


def trained(name: str, hours: float) -> Version:
    return version(name, hours, training={})


def learned(name: str, hours: float, drift_at: int | None = None, **metrics: float) -> Version:
    return version(name, hours, metrics, learner={"started_from": "v1", "drift_at": drift_at})


def reason(
    retraining: dict[str, Any],
    versions: list[Version],
    now_h: float,
    production: Version | None = None,
    **results: float,
) -> str | None:
    described = msgspec.convert(retraining, Retraining)
    described.check()
    facts = {f"results.{name}": value for name, value in results.items()}
    return reason_to_train(described, versions, production, facts, round(now_h * HOUR_MS))


DAILY = {"every": "24h"}
DRIFT = {"drift": True}
WHEN = {"when": "window.rmse > 1.1 * current.rmse"}
RESULTS = {"when": "results.upper < 0.1 and results.n >= 100", "experiment": "e"}
V1 = version("v1", 0, {"rmse": 1.0}, training={})
FIRST = [trained("v1", 0)]
LAWS: dict[str, tuple[dict[str, Any], list[Version], float, bool]] = {
    "nothing was trained": (DAILY, [], 0, True),
    "what others registered is no training": (DAILY, [version("hand", 0)], 0.5, True),
    "a day has passed": (DAILY, FIRST, 24, True),
    "not yet a day": (DAILY, FIRST, 23.999, False),
    "the newest training counts": (DAILY, [trained("v2", 20), *FIRST], 30, False),
    "a schedule below the pause waits for it": ({"every": "1s"}, FIRST, 0.9, False),
    "a shorter pause": ({"every": "1s", "pause": "1s"}, FIRST, 0.9, True),
    "no drift": (DRIFT, [*FIRST, learned("l1", 2)], 9, False),
    "drift": (DRIFT, [*FIRST, learned("l1", 2, 700)], 9, True),
    "drift within the pause": (DRIFT, [*FIRST, learned("l1", 0.5, 700)], 0.9, False),
    "drift that was answered": (DRIFT, [learned("l1", -1, 700), *FIRST, learned("l2", 2, 700)], 9, False),
    "another drift": (DRIFT, [learned("l1", -1, 700), *FIRST, learned("l2", 2, 900)], 9, True),
    "a metric": (WHEN, [V1, learned("l1", 2, **{"window.rmse": 1.2})], 9, True),
    "a metric that holds": (WHEN, [V1, learned("l1", 2, **{"window.rmse": 1.05})], 9, False),
    "a metric of before": (WHEN, [learned("l1", -2, **{"window.rmse": 1.2}), V1], 9, False),
    "the newest metric": (
        WHEN,
        [V1, learned("l1", 2, **{"window.rmse": 1.2}), learned("l2", 3, **{"window.rmse": 1.0})],
        9,
        False,
    ),
    "a registration that was cut short is no training": (
        DAILY,
        [*FIRST, msgspec.structs.replace(trained("v2", 20), status="training")],
        25,
        True,
    ),
    "what comes while it trains is news": (
        DRIFT,
        [version("v1", 5, training={"began_ms": HOUR_MS}), learned("l1", 3, 700)],
        9,
        True,
    ),
    "what came before it read its data is not": (
        DRIFT,
        [version("v1", 5, training={"began_ms": 4 * HOUR_MS}), learned("l1", 3, 700)],
        9,
        False,
    ),
    "metadata of others": (
        DRIFT,
        [
            *FIRST,
            version("a", 2, learner="x"),
            version("b", 3, learner={"started_from": [1], "drift_at": {}}),
        ],
        9,
        True,
    ),
    "no metric opens no gate": ({"when": "not window.rmse <= 1"}, FIRST, 9, False),
}


@pytest.mark.parametrize("law", LAWS)
def test_a_run_is_due(law: str) -> None:
    retraining, versions, now_h, due = LAWS[law]
    assert (reason(retraining, versions, now_h, V1) is not None) is due


@pytest.mark.parametrize(
    ("results", "due"),
    [
        ({}, False),
        ({"n": 100, "upper": 0.09}, True),
        ({"n": 99, "upper": 0.09}, False),
        ({"n": 100, "upper": 0.1}, False),
        ({"n": 100}, False),
    ],
)
def test_a_run_is_due_by_results(results: dict[str, float], due: bool) -> None:
    assert (reason(RESULTS, FIRST, 9, V1, **results) is not None) is due


@given(
    st.lists(
        st.tuples(st.integers(0, 10**9), st.sampled_from(["training", "learner", "mlflow"])), max_size=8
    ),
    st.sampled_from(["1s", "1h", "30d"]),
    st.sampled_from(["1s", "1h", "2d"]),
    st.integers(0, 2 * 10**9),
)
def test_a_schedule_waits_for_the_longer_of_both_times_after_the_last_training(
    made: list[tuple[int, str]], every: str, pause: str, now_ms: int
) -> None:
    versions = [
        Version("films", f"v{n}", "failed", "00", 1, "bias", at_ms, at_ms, {}, {what: {}})
        for n, (at_ms, what) in enumerate(made)
    ]
    found = reason_to_train(Retraining(every=every, pause=pause), versions, None, {}, now_ms)
    last = max((at_ms for at_ms, what in made if what == "training"), default=None)
    wait_ms = max(parse_duration_ms(every), parse_duration_ms(pause))
    assert (found is not None) is (last is None or now_ms - last >= wait_ms)


@pytest.mark.parametrize(
    ("retraining", "at"),
    [
        ({}, "retrain"),
        ({"every": "0s"}, "retrain.every"),
        ({"every": "1d", "pause": "10ms"}, "retrain.pause"),
        ({"when": "results.median < 1", "experiment": "e"}, "retrain.when"),
        ({"when": "window.rmsee < 1"}, "retrain.when"),
        ({"when": "results.mean < 1"}, "retrain.experiment"),
        ({"when": "not worse than the current one"}, "retrain.when"),
        ({"when": "1 < 2"}, "retrain.when"),
        ({"every": "1d", "experiment": "e"}, "retrain.experiment"),
    ],
)
def test_what_can_not_be_due_is_refused_at_its_field(retraining: dict[str, Any], at: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_plan({"data": {"path": "r.csv"}, "retrain": retraining})
    assert [each.at for each in caught.value.errors] == [at]


@pytest.mark.parametrize("wrong", [{"every": "1 day"}, {"when": "rmse <"}, {"weekly": True}, {"every": 1}])
def test_what_can_not_be_read_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        read_plan({"data": {"path": "r.csv"}, "retrain": wrong})
