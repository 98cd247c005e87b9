"""Kernels over reward rows, compared with NumPy."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from numpy.typing import NDArray

from bandit_serve.log._rewards import learned, seen_bits
from bandit_serve.log.events import HELD_OUT, REWARD

K = 5


def many(n: int, seed: int = 0) -> NDArray[np.void]:
    rng = np.random.default_rng(seed)
    rows = np.zeros(n, REWARD)
    rows["arm"] = rng.integers(0, K, n)
    rows["metric"] = rng.integers(0, 2, n)
    rows["flags"] = np.where(rng.random(n) < 0.2, HELD_OUT, 0)
    rows["time_ms"] = rng.integers(0, 1_000, n)
    rows["value"] = rng.normal(size=n)
    rows["propensity"] = rng.random(n)
    rows["incarnation"] = rng.integers(2**63, 2**63 + 3, n, np.uint64)
    rows["counter"] = rng.integers(0, 3 * 2**16, n)
    return rows


@pytest.mark.parametrize(("metric", "since_ms"), [(0, 0), (1, 500), (1, 2_000), (7, 0)])
def test_learned_are_the_rewards_of_a_metric_outside_the_holdout_since_a_time(
    metric: int, since_ms: int
) -> None:
    rows = many(3_000)
    counts = np.full(K, 10)
    arms, values, propensities, places = learned(rows, metric, since_ms, counts)
    chosen = rows["metric"] == metric
    assert (counts - 10).tolist() == np.bincount(rows["arm"][chosen], minlength=K).tolist()
    chosen &= (rows["flags"] & HELD_OUT == 0) & (rows["time_ms"] >= since_ms)
    assert places is not None
    assert places.tolist() == np.flatnonzero(chosen).tolist()
    assert arms.tolist() == rows["arm"][chosen].tolist()
    assert values.tolist() == rows["value"][chosen].tolist()
    assert propensities.tolist() == rows["propensity"][chosen].tolist()


def test_where_all_rows_are_learned_no_places_are_named() -> None:
    rows = many(100)
    rows["metric"] = rows["flags"] = 0
    arms, *_, places = learned(rows, 0, 0, np.zeros(K, np.int64))
    assert places is None
    assert arms.tolist() == rows["arm"].tolist()


def test_an_arm_that_is_not_there_is_refused_and_nothing_is_counted() -> None:
    rows = many(100)
    rows["arm"][-1] = K
    counts = np.zeros(K, np.int64)
    with pytest.raises(ValueError, match=f"expected arms below {K}, not {K}"):
        learned(rows, 0, 0, counts)
    assert not counts.any()


def test_every_reward_has_a_bit_of_its_own_in_the_bitmap_of_its_metric_worker_and_block() -> None:
    rows = many(2_000)
    bitmaps, checks = seen_bits(rows, 60_000)
    assert len(set(bitmaps)) == len(bitmaps) == 2 * 3 * 3
    for row, (bitmap, bit, deadline_ms) in zip(rows, struct.iter_unpack("<HHQ", checks), strict=True):
        metric, incarnation, block = bitmaps[bitmap]
        assert (metric, incarnation) == (row["metric"], row["incarnation"])
        assert block * 2**16 + bit == row["counter"]
        assert deadline_ms == row["time_ms"] + 60_000
