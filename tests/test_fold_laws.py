"""What holds for every legal experiment, reward, gap, change and order: nothing raises, and no number is no number.

Histories come from `histories.py`. 600 by default; 100,000 with BANDIT_SERVE_TEST_SCALE=full.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from histories import Choices, Entry, History, RandomChoices
from numpy.typing import NDArray

from bandit_serve import events
from bandit_serve.events import Changed
from bandit_serve.live import LiveExperiment
from bandit_serve.results import ResultsFold, report


def check_shares(shares: NDArray[np.float64], among: NDArray[np.bool_]) -> None:
    assert np.isfinite(shares).all(), shares
    assert (shares >= 0.0).all(), shares
    assert (shares <= 1.0).all(), shares
    assert abs(shares.sum() - 1.0) <= 1e-12, shares
    assert (shares[~among] == 0.0).all(), shares


def check_live(live: LiveExperiment, history: History) -> None:
    state = live.state()
    restored = LiveExperiment.from_state(live.offset, state)
    assert restored.state() == state
    mask, x = history.mask(), history.x()
    for among in (live.active, mask):
        now_ms = live.offset.time_ms
        shares = live.shares(among, now_ms, x)
        check_shares(shares, among)
        assert restored.shares(among, now_ms, x).tobytes() == shares.tobytes()
    check_shares(live.current_shares(live.offset.time_ms), live.active)
    means = live.means()
    waiting = 0.0 if live.pending is None else live.pending.weights(live.offset.time_ms)
    assert np.isfinite(waiting).all()
    known = live.policy.counts + waiting > 0.0
    assert np.isfinite(means[known]).all(), means
    objective = live.experiment.objective
    if objective.kind in ("binary", "bounded"):
        low, high = objective.floor, objective.ceiling
        assert (means[known] >= low).all() and (means[known] <= high).all(), means


def check_results(fold: ResultsFold, live: LiveExperiment) -> None:
    state = fold.state()
    assert ResultsFold.from_state(state).state() == state
    shares = dict(zip(live.experiment.arm_names, live.current_shares(live.offset.time_ms).tolist(), strict=True))
    check_numbers(msgspec.to_builtins(report(fold, live.record, shares, live.offset.time_ms)))


def check_numbers(value: Any) -> None:
    """No number in a document is infinite or none."""
    match value:
        case dict():
            for each in value.values():
                check_numbers(each)
        case list() | tuple():
            for each in value:
                check_numbers(each)
        case float():
            assert np.isfinite(value), value


def follow(choices: Choices, n_entries: int, *, former: bool = False) -> History:
    """Folds a history from its wire form, and checks everything every few entries."""
    history = History(choices, former=former)
    fold: ResultsFold | None = None
    pause = 0
    for entry in history.written(n_entries):
        fold = fold_entry(history, fold, entry)
        if pause == 0:
            check_live(history.live, history)
            check_results(fold, history.live)
            pause = choices.integer(0, 5)
        else:
            pause -= 1
    assert fold is not None
    check_live(history.live, history)
    check_results(fold, history.live)
    return history


def fold_entry(history: History, fold: ResultsFold | None, entry: Entry) -> ResultsFold:
    offset, kind, data = entry
    event = events.decode(kind, data, history.live.n_features)
    if fold is None:
        assert isinstance(event, Changed)
        fold = ResultsFold(event.record)
    history.live.apply(offset, event)
    fold.apply(offset.time_ms, event)
    return fold
