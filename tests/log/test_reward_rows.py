"""Kernels over reward rows, compared with NumPy."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from numpy.typing import NDArray

from bandit_serve.log._rewards import counting_places, event_places, learned
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


TWO_VALUED, HIGH = np.array([1, 0], np.uint8), np.array([1.0, 9.0])


def test_every_reward_has_a_bit_of_its_own_in_the_bitmap_of_its_metric_worker_and_block() -> None:
    rows = many(2_000)
    rows["value"] = np.random.default_rng(1).integers(0, 2, len(rows))
    bitmaps, values, checks = counting_places(rows, 60_000, TWO_VALUED, HIGH)
    assert len(set(bitmaps)) == len(bitmaps) == 2 * 3 * 3
    others = rows[rows["metric"] == 1]
    blocks = set(zip(others["incarnation"].tolist(), (others["counter"] // 512).tolist(), strict=True))
    assert len(set(values)) == len(values) == 3 * 3 + len(blocks)
    unpacked = struct.iter_unpack("<HHHIQ", checks)
    for row, (bitmap, bit, place, mark, deadline_ms) in zip(rows, unpacked, strict=True):
        metric, incarnation, block = bitmaps[bitmap]
        assert (metric, incarnation) == (row["metric"], row["incarnation"])
        assert block * 2**16 + bit == row["counter"]
        assert deadline_ms == row["time_ms"] + 60_000
        if metric == 0:
            assert values[place] == bitmaps[bitmap]
            assert mark == 2 * bit + row["value"]
        else:
            assert values[place] == (metric, incarnation, row["counter"] // 512)
            assert mark == 2**32 - 1


def test_a_value_that_is_none_counts_as_the_lower_of_two() -> None:
    rows = many(1)
    rows["metric"], rows["value"] = 0, np.nan
    _, _, checks = counting_places(rows, 0, TWO_VALUED, HIGH)
    _, bit, _, mark, _ = struct.unpack("<HHHIQ", checks)
    assert mark == 2 * bit


def test_a_metric_that_is_not_there_is_refused() -> None:
    rows = many(3)
    rows["metric"] = [0, 1, 2]
    with pytest.raises(ValueError, match="expected metrics below 2, not 2"):
        counting_places(rows, 0, TWO_VALUED, HIGH)


def test_events_are_in_the_hash_of_their_metric_worker_and_block() -> None:
    rows = many(2_000)
    keys, packed = event_places(rows, 0, 7)
    for row, places in zip(rows, struct.iter_unpack("<HHH", packed), strict=True):
        assert len(set(places)) == 1
        assert keys[places[0] - 7] == (row["metric"], row["incarnation"], row["counter"] // 256)


def test_events_of_a_unit_are_in_the_hash_of_their_decisions_period_or_next_to_it() -> None:
    rows = many(2_000)
    rows["unit"] = np.random.default_rng(1).integers(0, 50, len(rows), np.uint64) << np.uint64(58)
    keys, packed = event_places(rows, 100, 7)
    assert len(set(keys)) == len(keys)
    for row, places in zip(rows, struct.iter_unpack("<HHH", packed), strict=True):
        period = row["time_ms"] // 100
        assert [keys[place - 7] for place in places] == [(row["unit"], period + by) for by in (0, -1, 1)]
