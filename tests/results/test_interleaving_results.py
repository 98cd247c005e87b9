"""Sign test of interleaved lists: its fold, its error rate and its interval."""

from __future__ import annotations

import math
import os
import random

import numpy as np
import pytest
from builders import experiment
from simulated_results import START_MS, rewarded

from bandit_serve.experiments.spec import Record
from bandit_serve.log.events import REVISION, REWARD, Tick
from bandit_serve.log.offset import Offset
from bandit_serve.results import ResultsFold, explanation, report
from bandit_serve.results.columns import RewardColumns
from bandit_serve.results.ending import ending
from bandit_serve.results.interleaving import Contests

RUNS = 2_000 if os.environ.get("BANDIT_SERVE_TEST_SCALE") == "full" else 400
WINDOW_MS = 1_000


def clicks(*rows: tuple[int, int, int, float]) -> RewardColumns:
    """Rewards of requests: number, time, arm and value."""
    made = np.zeros(len(rows), REWARD)
    for i, (request, time_ms, arm, value) in enumerate(rows):
        made[i]["unit"], made[i]["time_ms"], made[i]["arm"], made[i]["value"] = request, time_ms, arm, value
    return RewardColumns(made, None)


def revised(request: int, time_ms: int, arm: int, former: float, value: float) -> RewardColumns:
    row = np.zeros(1, REVISION)
    row["unit"], row["time_ms"], row["arm"], row["former"], row["value"] = (
        request,
        time_ms,
        arm,
        former,
        value,
    )
    return RewardColumns(row, None, True)


def test_a_request_counts_once_when_its_window_closes_for_the_arm_with_more_clicks() -> None:
    contests = Contests(0.05, 500.0)
    contests.take(clicks((1, 10, 0, 1.0), (1, 10, 1, 1.0), (1, 10, 1, 1.0), (2, 20, 0, 1.0)), 0, 0)
    contests.take(clicks((3, 30, 0, 1.0), (3, 30, 1, 1.0), (4, 40, 1, 1.0)), 0, 0)
    contests.close(10)
    assert (contests.wins, contests.pending) == ([0, 0], 4)
    contests.close(31)
    assert (contests.wins, contests.ties, contests.pending) == ([1, 1], 1, 1)
    # Too late for the first; the last is corrected and then taken back.
    contests.take(clicks((1, 10, 0, 1.0)), 0, 31)
    contests.take(revised(4, 40, 1, 1.0, 3.0), 0, 31)
    contests.take(revised(4, 40, 1, 3.0, math.nan), 0, 31)
    contests.close(100)
    assert (contests.wins, contests.ties, contests.pending) == ([1, 1], 2, 0)


def test_other_metrics_say_nothing() -> None:
    contests = Contests(0.05, 500.0)
    contests.take(clicks((1, 10, 0, 1.0)), 1, 0)
    assert contests.pending == 0


def test_a_state_goes_on_as_the_whole_does() -> None:
    chance = random.Random(8)
    whole, cut = Contests(0.05, 500.0), Contests(0.05, 500.0)
    for now_ms in range(0, 4_000, 10):
        rows = clicks(*[(chance.randrange(500), now_ms, chance.randrange(2), 1.0) for _ in range(5)])
        for each in (whole, cut):
            each.take(rows, 0, now_ms - WINDOW_MS)
            each.close(now_ms - WINDOW_MS)
        if now_ms % 700 == 0:
            state, cut = cut.state(), Contests(0.05, 500.0)
            cut.restore(state)
    assert whole.wins[0] > 50
    assert {name: column.tobytes() for name, column in whole.state().items()} == {
        name: column.tobytes() for name, column in cut.state().items()
    }


@pytest.mark.parametrize("column", ["wins", "time_ms", "lead"])
def test_a_state_that_does_not_fit_is_refused(column: str) -> None:
    contests = Contests(0.05, 500.0)
    contests.take(clicks((1, 10, 0, 1.0)), 0, 0)
    state = contests.state()
    with pytest.raises(ValueError, match="snapshot"):
        Contests(0.05, 500.0).restore(state | {column: np.append(state[column], 1)})


def play(chance: np.random.Generator, win_rate: float, n: int, expected: float = 500.0) -> tuple[bool, bool]:
    """Whether n contests ever rejected a fair coin, and whether the interval ever left the truth out.

    Looks come at each 2 % of growth.
    """
    contests = Contests(0.05, expected)
    rejected = missed = False
    wins = np.cumsum(chance.random(n) < win_rate)
    for look in np.unique(np.geomspace(1, n, 350).astype(int)).tolist():
        won = int(wins[look - 1])
        contests.wins = [look - won, won]
        rejected |= contests.winner() is not None
        missed |= contests.log_e_against(win_rate) >= -math.log(0.05)
    return rejected, missed


@pytest.mark.parametrize("win_rate", [0.5, 0.55, 0.8, 0.99])
def test_error_rates_hold_at_every_time(win_rate: float) -> None:
    chance = np.random.default_rng(17)
    played = [play(chance, win_rate, 1_000) for _ in range(RUNS)]
    missed = np.mean([each[1] for each in played])
    assert missed <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / RUNS)
    if win_rate == 0.5:
        assert np.mean([each[0] for each in played]) == missed
    if win_rate == 0.8:
        assert np.mean([each[0] for each in played]) > 0.99


def test_the_interval_has_the_values_that_are_not_refused() -> None:
    contests = Contests(0.05, 500.0)
    assert contests.interval() is None
    for wins in ([30, 70], [0, 40], [200, 180]):
        contests.wins = wins
        low, high = contests.interval() or (0.0, 0.0)
        assert 0.0 <= low < wins[1] / sum(wins) <= high <= 1.0
        for end in (low, high):
            if 0.0 < end < 1.0:
                assert contests.log_e_against(end) == pytest.approx(-math.log(0.05), abs=1e-6)


def test_of_more_open_requests_than_are_kept_the_earliest_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bandit_serve.results.interleaving.MAX_OPEN_REQUESTS", 3)
    contests = Contests(0.05, 500.0)
    contests.take(clicks(*[(i, 100 + i, i % 2, 1.0) for i in range(1, 6)]), 0, 0)
    assert contests.pending == 3
    assert contests.wins == [1, 1]


def interleaved(n_wins: int, min_samples: int = 0) -> ResultsFold:
    """Fold in which arm b won so many lists, and had two clicks in each."""
    about = experiment(
        arms=[{"name": name, "model": "m", "version": name} for name in "ab"],
        mode="interleave",
        unit="request",
        policy={"kind": "fixed_split"},
        attribution={"window": "1s", "missing": "ignore"},
        stopping={"rule": "winner", "min_samples": min_samples},
    )
    fold = ResultsFold(Record(about, 7, "running", 1, created_ms=0, updated_ms=0, started_ms=START_MS))
    if n_wins:
        both = np.repeat(np.arange(n_wins), 2)
        columns = {
            "counter": np.arange(2 * n_wins),
            "value": 1.0,
            "arm": 1,
            "propensity": 0.5,
            "unit": both + 1,
        }
        fold.apply(Offset(START_MS + 10, 0), rewarded(**columns))
    fold.apply(Offset(START_MS + 10**6, 0), Tick())
    return fold


@pytest.mark.parametrize(
    ("n_wins", "min_samples", "decided"), [(60, 0, True), (60, 60, True), (60, 61, False)]
)
def test_more_clicks_are_no_mismatch_of_the_sample_ratio(
    n_wins: int, min_samples: int, decided: bool
) -> None:
    """`min_samples` counts the lists that an arm won."""
    fold = interleaved(n_wins, min_samples)
    shown = report(fold, fold.record, {}, START_MS)
    assert (shown.srm.verdict, shown.srm.p_value) == ("insufficient", None)
    assert (shown.winner == "b") == decided
    stop = ending(fold, fold.record, START_MS + 10**6)
    assert (stop is not None) == decided
    assert stop is None or (stop.what, stop.winner) == ("stop", "b")


def test_what_would_decide_it_is_more_lists_and_so_many_do() -> None:
    fold = interleaved(6)
    (sentence,) = explanation(fold, report(fold, fold.record, {}, START_MS), []).would_decide
    assert sentence.startswith("If b goes on to win 100% of the requests that prefer an arm, about ")
    more = int(sentence.split("about ")[1].split()[0])
    for n_wins, decided in ((6 + more // 2, False), (6 + 2 * more, True)):
        later = interleaved(n_wins)
        assert (report(later, later.record, {}, START_MS).winner == "b") == decided
    none = interleaved(0)
    assert explanation(none, report(none, none.record, {}, START_MS), []).would_decide == [
        "Neither arm is preferred so far as to say how many more lists decide it."
    ]
