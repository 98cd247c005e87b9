import math

import numpy as np
import pytest

from bandit_serve.errors import InvalidInput
from bandit_serve.models.descent import Schedule, descend


def test_the_rate_falls_geometrically():
    rates = [Schedule(5, 0.16, 0.01).rate(epoch) for epoch in range(5)]
    np.testing.assert_allclose(rates, [0.16, 0.08, 0.04, 0.02, 0.01])
    assert Schedule(1, 0.3, 0.1).rate(0) == 0.3


def test_the_best_epoch_is_kept_and_patience_ends_it():
    parameters, errors = np.zeros(3), iter([5.0, 3.0, 4.0, 2.0, 2.0, 6.0, 1.0])
    calls: list[tuple] = []

    def run(rate):
        parameters[:] += 1
        return 100.0

    kept = descend(
        Schedule(7, 0.1, 0.1),
        run,
        lambda: [parameters],
        validate=lambda: next(errors),
        patience=2,
        on_epoch=lambda *about: calls.append(about),
    )
    assert kept == 4
    assert parameters.tolist() == [4.0] * 3
    assert calls == [(done + 1, 7, math.sqrt(mse)) for done, mse in enumerate([5.0, 3.0, 4.0, 2.0, 2.0, 6.0])]


def test_without_validation_all_epochs_run():
    runs: list[float] = []

    def run(rate):
        runs.append(rate)
        return 4.0

    assert descend(Schedule(3, 0.1, 0.1), run, list, on_epoch=lambda *about: runs.append(about[2])) == 3
    assert runs == pytest.approx([0.1, 2.0] * 3)


def test_divergence_and_senseless_patience_are_refused():
    with pytest.raises(InvalidInput, match="diverged in epoch 1"):
        descend(Schedule(3, 0.1, 0.1), lambda rate: math.nan, list)
    with pytest.raises(InvalidInput, match="patience"):
        descend(Schedule(3, 0.1, 0.1), lambda rate: 1.0, list, patience=0)
