import math

import numpy as np
import pytest
from scale import scaled

from bandit_serve.training.prequential import LEVEL, WINDOW, Prequential


def test_errors_are_averaged_over_all_and_over_the_last():
    random, prequential = np.random.default_rng(0), Prequential()
    errors, frozen = random.normal(0, 1, 1_500), random.normal(0, 2, 1_500)
    for error, other in zip(errors.tolist(), frozen.tolist(), strict=True):
        prequential.add(error, other)
    found = prequential.metrics()
    assert found["prequential.rmse"] == pytest.approx(math.sqrt(np.mean(errors**2)))
    assert found["prequential.mae"] == pytest.approx(np.mean(np.abs(errors)))
    assert found["window.rmse"] == pytest.approx(math.sqrt(np.mean(errors[-WINDOW:] ** 2)))
    assert found["frozen.rmse"] == pytest.approx(math.sqrt(np.mean(frozen**2)))
    assert Prequential().metrics() == {}


def test_a_state_goes_on_as_if_it_had_not_stopped():
    random, whole, resumed = np.random.default_rng(1), Prequential(), Prequential()
    for _ in range(600):
        error = float(random.normal())
        whole.add(error, error)
        state, resumed = resumed.state(), Prequential()
        resumed.restore(state)
        resumed.add(error, error)
    assert resumed.state() == whole.state()


def test_false_alarms_are_as_rare_as_they_say():
    """At level .001, 400 streams of 2,000 errors without drift alarm about never."""
    random, runs, alarms = np.random.default_rng(2), scaled(60, 1_000), 0
    for run in range(runs):
        prequential = Prequential()
        # Heavy tails, ties, and errors that shrink as a model learns.
        errors = [
            lambda: random.standard_t(2),
            lambda: float(random.integers(0, 3)),
            lambda: random.normal(),
        ][run % 3]
        for number in range(1_000):
            shrink = 1.0 if run % 2 else 1.0 / (1.0 + number / 500)
            prequential.add(float(errors()) * shrink, 0.0)
        alarms += prequential.drift_at is not None
    assert alarms <= max(1, 4 * runs * LEVEL)


def test_a_drift_is_found_soon():
    random, delays = np.random.default_rng(3), []
    for _ in range(20):
        prequential = Prequential()
        for number in range(3_000):
            prequential.add(float(random.normal(0, 1.0 if number < 1_000 else 1.5)), 0.0)
            if prequential.drift_at is not None:
                break
        assert prequential.drift_at is not None
        assert prequential.drift_at > 1_000
        delays.append(prequential.drift_at - 1_000)
    assert np.median(delays) < 600
