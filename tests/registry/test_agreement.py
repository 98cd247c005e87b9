import numpy as np
import pytest

from bandit_serve.registry.agreement import Agreement, report


def test_sums_of_workers_are_the_figures_of_all():
    random = np.random.default_rng(0)
    live = random.normal(3, 1, 500)
    shadow = live + random.normal(0.2, 0.5, 500)
    parts = []
    for start in range(0, 500, 125):
        sums = Agreement(requests=125, seconds=0.25)
        sums.add_scores(live[start : start + 125].tolist(), shadow[start : start + 125].tolist())
        sums.add_ranking(["a", "b", "c", "d"], ["d", "x", "a", "y"])
        parts.append(sums)
    total = Agreement()
    for part in parts:
        total = total.plus(part)
    results = report("m", "v2", total)
    assert (results.scores, results.requests, results.rankings) == (500, 500, 4)
    assert results.mean_difference == pytest.approx(np.mean(shadow - live))
    assert results.mean_absolute_difference == pytest.approx(np.mean(np.abs(shadow - live)))
    assert results.rms_difference == pytest.approx(np.sqrt(np.mean((shadow - live) ** 2)))
    assert results.correlation == pytest.approx(np.corrcoef(live, shadow)[0, 1])
    assert results.overlap == 0.5
    assert results.mean_latency_ms == 2.0


def test_what_there_is_nothing_for_is_null():
    results = report("m", "v2", Agreement())
    assert (
        results.mean_difference is results.correlation is results.overlap is results.mean_latency_ms is None
    )
    constant = Agreement()
    constant.add_scores([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])
    assert report("m", "v2", constant).correlation is None
    assert report("m", "v2", constant).mean_difference == 1.0
