"""Spool and join: the rows are those of a plain join, however the log was cut and however little is kept in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import exposed, revisions, rewards
from numpy.typing import NDArray

from bandit_serve.export import spool as spooling
from bandit_serve.export.layout import RecordLayout
from bandit_serve.export.rows import ExportRows, distinct, joined
from bandit_serve.export.spool import Spool
from bandit_serve.log.events import Exposed, Revised, Rewarded, columns_of

WORKERS = (0xFEED, 0xF00D, 7)
N_EACH = 4_000


class Log:
    """Made-up log of three workers: exposures, rewards before and after them, and exposures that are lost."""

    def __init__(self, seed: int, n_each: int = N_EACH) -> None:
        random = np.random.default_rng(seed)
        self.events: list[tuple[int, Any]] = []
        self.expected: dict[tuple[int, int], dict[str, Any]] = {}
        for worker in WORKERS:
            first, time_ms = 0, 1_000_000
            while first < n_each:
                n = int(random.integers(1, 200))
                times = time_ms + np.sort(random.integers(0, 100, n))
                arms = random.integers(0, 2, n)
                event = exposed(first, arms.tolist(), times.tolist(), incarnation=worker)
                is_lost = random.random() < 0.05
                if not is_lost:
                    self.events.append((int(times[-1]) + 50, event))
                for i in np.flatnonzero(random.random(n) < 0.5).tolist():
                    at = int(times[i] + random.integers(0, 5_000))
                    value = float(random.random() < 0.5)
                    row = rewards(
                        [first + i],
                        values=value,
                        times_ms=int(times[i]),
                        arms=int(arms[i]),
                        incarnation=worker,
                    )
                    self.events.append((at, Rewarded(row)))
                    self.expected.setdefault((worker, first + i), {})["value"] = value
                for i in range(n):
                    if is_lost and (worker, first + i) not in self.expected:
                        continue
                    row = self.expected.setdefault((worker, first + i), {})
                    row.update(time=int(times[i]), arm=int(arms[i]), lost=is_lost)
                first, time_ms = first + n, time_ms + 100
        self.events.sort(key=lambda each: each[0])


def filled(log: Log, folder: Path, rows: int) -> Spool:
    spool = Spool(folder, RecordLayout(0), rows)
    for at_ms, event in log.events:
        if isinstance(event, Exposed):
            spool.decide(*spool.layout.decisions(event, columns_of(event, 0)))
        else:
            spool.reward(spool.layout.rewards(event, at_ms))
    return spool


def check(taken: list[ExportRows], expected: dict[tuple[int, int], dict[str, Any]]) -> None:
    found = {}
    for rows in taken:
        times = rows.decisions["time_ms"]
        assert (np.diff(times) >= 0).all()
        for i, decision in enumerate(rows.decisions):
            key = int(decision["incarnation"]), int(decision["counter"])
            assert key not in found
            value = rows.values[0, i]
            found[key] = {
                "time": int(decision["time_ms"]),
                "arm": int(decision["arm"]),
                "lost": not rows.exposed[i],
                **({} if np.isnan(value) else {"value": float(value)}),
            }
            assert decision["propensity"] == 0.5
            shares = rows.shares[i]
            assert np.isnan(shares).all() if found[key]["lost"] else (shares == 0.5).all()
    assert found == expected


@pytest.mark.parametrize(("buffer_bytes", "rows"), [(32 * 2**20, 131_072), (40_000, 2_048), (3_000, 1)])
def test_rows_are_those_of_a_plain_join(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer_bytes: int, rows: int
) -> None:
    monkeypatch.setattr(spooling, "MAX_BUFFER_BYTES", buffer_bytes)
    log = Log(1)
    assert any(row["lost"] for row in log.expected.values())
    spool = filled(log, tmp_path, rows)
    assert bool(list(tmp_path.iterdir())) == (buffer_bytes < 2**20)
    taken = [joined(batch, spool.layout, 1) for batch in spool.take(2**60)]
    check(taken, log.expected)
    assert len(taken) > 3 or rows > 2_048
    assert list(tmp_path.iterdir()) == []
    assert spool.first_ms is None


def test_what_is_taken_early_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the export that goes on does: it takes what is old, and reads on."""
    monkeypatch.setattr(spooling, "MAX_BUFFER_BYTES", 40_000)
    log = Log(2)
    spool = Spool(tmp_path, RecordLayout(0), 2_048)
    taken = []
    for number, (at_ms, event) in enumerate(log.events):
        if isinstance(event, Exposed):
            spool.decide(*spool.layout.decisions(event, columns_of(event, 0)))
        else:
            spool.reward(spool.layout.rewards(event, at_ms))
        if number % 500 == 0:
            taken += [joined(batch, spool.layout, 1) for batch in spool.take(at_ms - 6_000)]
            first_ms = spool.first_ms
            assert first_ms is None or first_ms >= at_ms - 6_000
    taken += [joined(batch, spool.layout, 1) for batch in spool.take(2**60)]
    check(taken, log.expected)


def test_the_last_value_counts_and_one_that_is_gone_is_none(tmp_path: Path) -> None:
    spool = Spool(tmp_path, RecordLayout(0), 100_000)
    event = exposed(0, [0, 1, 0], [10, 10, 11])
    spool.decide(*spool.layout.decisions(event, columns_of(event, 0)))
    nan = float("nan")
    for at_ms, rows in (
        (20, revisions([0, 1], nan, [3.0, 4.0], times_ms=[10, 10])),
        (30, revisions([0], 3.0, [5.0], 20, times_ms=[10])),
        (40, revisions([1], 4.0, [nan], 20, times_ms=[10])),
    ):
        spool.reward(spool.layout.rewards(Revised(rows), at_ms))
    (rows,) = (joined(batch, spool.layout, 1) for batch in spool.take(100))
    np.testing.assert_array_equal(rows.values, [[5.0, nan, nan]])
    assert rows.rewarded_ms[0, 0] == 30


def test_exposures_that_are_there_twice_are_one_row(tmp_path: Path) -> None:
    spool = Spool(tmp_path, RecordLayout(0), 100_000)
    event = exposed(5, [1, 0], [10, 10])
    for _ in range(2):
        spool.decide(*spool.layout.decisions(event, columns_of(event, 0)))
    (rows,) = (joined(batch, spool.layout, 1) for batch in spool.take(100))
    assert rows.decisions["counter"].tolist() == [5, 6]


def test_shares_of_arms_that_came_later(tmp_path: Path) -> None:
    spool = Spool(tmp_path, RecordLayout(0), 100_000)
    for n_arms, first in ((2, 0), (3, 2)):
        event = exposed(first, [1, 0], [10, 10], n_arms=n_arms)
        spool.decide(*spool.layout.decisions(event, columns_of(event, 0)))
    (rows,) = (joined(batch, spool.layout, 1) for batch in spool.take(100))
    assert rows.decisions["n_shares"].tolist() == [2, 2, 3, 3]
    assert rows.shares[0].tolist() == [0.5, 0.5, 0.0]
    assert rows.shares[3].tolist() == [1 / 3] * 3


@pytest.mark.parametrize("numbers", [[], [3], [2, 2, 2], [5, 1, 1, 5, 2**63, 0]])
def test_distinct_numbers(numbers: list[int]) -> None:
    column: NDArray[np.uint64] = np.array(numbers, np.uint64)
    assert distinct(column).tolist() == sorted(set(numbers))
