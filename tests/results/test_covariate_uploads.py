"""Covariates by unit in the results fold: what counts follows from the order of the log."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from simulated_results import START_MS, exposed, record, rewarded

from bandit_serve.errors import UnreadableEntry
from bandit_serve.experiments.metric import Metric
from bandit_serve.log import events
from bandit_serve.log.events import Change, Changed, Covariates
from bandit_serve.log.offset import Offset
from bandit_serve.results import ResultsFold, uploads

METRICS = (
    Metric(name="y", kind="continuous", covariate="before"),
    Metric(name="w", kind="continuous", covariate="other"),
)
UNITS = np.arange(10, 20, dtype=np.uint64)


def drafted(metrics=METRICS):
    return ResultsFold(record(metrics=metrics, unit="user", status="draft", revision=1))


def part(values, number=0, parts=1, upload=5, units=UNITS, names=("before",)):
    columns = np.asarray(values, "<f4").reshape(len(units), len(names))
    return Covariates(upload, number, parts, names, units.astype("<u8").tobytes(), columns.tobytes())


def apply(fold, *entries):
    for entry in entries:
        fold.apply(Offset(max(fold.offset.time_ms, START_MS) + 1, 0), entry)
    return fold


def started(fold):
    about = msgspec.structs.replace(fold.record, status="running", revision=2)
    return apply(fold, Changed(about, Change("start", "a")))


def companions(fold, given=(1.0, 2.0)):
    """Companions of the units after one decision each, which says `given` of both covariates."""
    x = np.tile(np.array(given), (len(UNITS), 1))
    arms = np.arange(len(UNITS)) % 2
    columns = {"counter": UNITS - 10, "arm": arms, "unit": UNITS, "propensity": 0.5}
    apply(fold, exposed(0, arms, np.full((1, 2), 0.5), [len(UNITS)], units=UNITS, x=x))
    for metric in range(2):
        apply(fold, rewarded(metric=metric, value=1.0, x=x, **columns))
    return [fold.pairs.companions.of_metric(pair)["total"].sum() for pair in range(2)]


def test_what_was_uploaded_counts_before_what_decisions_say():
    values = np.arange(10.0)
    fold = started(apply(drafted(), part(values)))
    assert companions(fold) == [values.sum(), 20.0]
    half = started(apply(drafted(), part(values[:5], units=UNITS[:5])))
    assert companions(half) == [values[:5].sum() + 5.0, 20.0]


def test_an_upload_counts_once_it_is_whole_and_replaces_the_one_before():
    fold = apply(drafted(), part(np.full(10, 7.0)))
    apply(fold, part(np.zeros(5), 0, 2, 6, UNITS[:5]))
    assert companions(started(ResultsFold.from_state(fold.offset, fold.state()))) == [70.0, 20.0]
    # Another one overtakes it; the rest of the first is nobody's.
    apply(fold, part(np.full(5, 3.0), 0, 2, 8, UNITS[:5]), part(np.zeros(5), 1, 2, 6, UNITS[5:]))
    apply(fold, part(np.full(5, 4.0), 1, 2, 8, UNITS[5:]))
    assert companions(started(fold)) == [35.0, 20.0]


def test_what_comes_after_the_start_and_before_another_draft_does_not_count():
    late = apply(started(drafted()), part(np.full(10, 7.0)))
    assert companions(late) == [10.0, 20.0]
    put = apply(drafted(), part(np.full(10, 7.0)))
    about = msgspec.structs.replace(put.record, revision=2)
    assert companions(started(apply(put, Changed(about, Change("put", "a"))))) == [10.0, 20.0]


@pytest.mark.parametrize("cut", range(7))
def test_a_snapshot_and_the_rest_of_the_log_are_the_whole_log_bit_for_bit(cut):
    parts = [
        part(np.arange(10.0)),
        part(np.ones(5), 0, 2, 6, UNITS[:5]),
        part(np.ones(5), 1, 2, 6, UNITS[5:]),
    ]
    whole = started(apply(drafted(), *parts))
    resumed = drafted()
    for i, each in enumerate(parts):
        if i == cut:
            resumed = ResultsFold.from_state(resumed.offset, resumed.state())
        apply(resumed, each)
    started(resumed)
    assert companions(resumed) == companions(whole)
    assert resumed.state() == whole.state()
    assert ResultsFold.from_state(whole.offset, whole.state()).state() == whole.state()


def test_without_an_upload_nothing_is_kept():
    assert "uploads" not in drafted()._columns()


def test_what_there_can_not_be_is_refused_and_changes_nothing(monkeypatch):
    fold = apply(drafted(), part(np.arange(10.0)))
    before = fold.state()
    monkeypatch.setattr(uploads, "MAX_UPLOADED_UNITS", 9)
    for wrong in (
        part(np.arange(10.0)),
        msgspec.structs.replace(part(np.arange(5.0), units=UNITS[:5]), values=b"1234"),
    ):
        with pytest.raises(UnreadableEntry):
            fold.apply(Offset(START_MS + 99, 0), wrong)
        assert fold.state() == before
    monkeypatch.undo()
    # Another draft, which has no such covariate, came before it.
    fold.apply(fold.offset, part(np.arange(5.0), units=UNITS[:5], names=("nobody",)))
    assert fold.state() == before
    for wrong in (part(np.full(10, np.nan)), part(np.arange(10.0), 2, 2), part(np.arange(10.0), 0, 0)):
        with pytest.raises(UnreadableEntry):
            events.decode(events.COVARIATES, events.encode(wrong))
    assert events.decode(events.COVARIATES, events.encode(part(np.arange(10.0)))) == part(np.arange(10.0))
