"""Explanation in sentences: what happened, whether it is decided, and what would decide it."""

from __future__ import annotations

import re

import msgspec
import numpy as np
import pytest
from simulated_results import START_MS, Play, bernoulli, record

from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Record
from bandit_serve.experiments.stopping import Stopping
from bandit_serve.log.events import Tick
from bandit_serve.log.offset import Offset
from bandit_serve.results import Explanation, ResultsFold, TimelineChange, explanation, report

EVEN = np.array([0.5, 0.5])


def explained(fold: ResultsFold, changes: list[TimelineChange] | None = None) -> Explanation:
    return explanation(fold, report(fold, fold.record, {}, START_MS), changes or [])


def played(means: tuple[float, ...], steps: int, about: Record | None = None, each: int = 200) -> ResultsFold:
    fold = ResultsFold(about or record(len(means)))
    play = Play(fold, np.random.default_rng(5), bernoulli(*means), len(means))
    for _ in range(steps):
        play.step(np.full(len(means), 1 / len(means)), each)
    return fold


def with_status(fold: ResultsFold, **fields: object) -> ResultsFold:
    fold.record = msgspec.structs.replace(fold.record, **fields)
    return fold


def test_nothing_has_happened_before_the_start() -> None:
    fold = ResultsFold(record(2, status="draft"))
    fold.apply(Offset(START_MS, 0), Tick())
    told = explained(fold)
    assert told.happened == ["e is draft and has decided nothing yet."]
    assert told.would_decide == ["It has to be started: `bandit-serve experiments start e`."]


def test_a_clear_difference_is_decided_since_a_time() -> None:
    fold = played((0.2, 0.4), 40)
    told = explained(fold)
    assert told.decided[0].startswith("b is better on m than a")
    assert told.decided[1].startswith("b brought 0.3")
    p = fold.history.column("p_value")[:, 0, 1]
    at = fold.history.column("at_ms")[np.flatnonzero(~(p <= 0.05))[-1] + 1]
    assert at > START_MS
    assert told.decided[-1] == "That has been shown since 2023-11-14 22:13Z."
    assert told.would_decide == ["It is decided; `bandit-serve experiments stop e --winner b` ends it."]
    stopped = explained(with_status(fold, status="stopped", winner="b"))
    assert stopped.would_decide == ["It is stopped: nothing more is learned."]


def test_control_can_be_what_is_better() -> None:
    told = explained(played((0.5, 0.3, 0.2), 40))
    assert told.decided[0].startswith("a is better on m than every other arm")
    assert told.decided[-1].startswith("That has been shown since")


def test_as_much_traffic_as_is_named_decides_it() -> None:
    """A fold with the same means and as much more traffic has a winner, and one with half as much more has none."""
    about = record(2)
    fold = played((0.30, 0.34), 10, about)
    (sentence,) = explained(fold).would_decide
    named = re.fullmatch(
        r"If the difference of b stays \+(\S+), about ([\d,]+) more decisions show it\.", sentence
    )
    assert named is not None, sentence
    more = int(named[2].replace(",", ""))
    difference = report(fold, about, {}, 0).arms[1].metrics["m"].difference
    assert difference is not None
    assert float(named[1]) == pytest.approx(difference, rel=1e-3)
    winners = []
    for times in (0.5, 1.05):
        grown, total = ResultsFold(about), 2_000 + int(times * more)
        mean = report(fold, about, {}, 0).arms[0].metrics["m"].mean or 0.0
        play = Play(grown, np.random.default_rng(0), exactly(mean, mean + difference), 2)
        arms = np.arange(total) % 2
        play.play(arms.astype(np.int64), EVEN)
        winners.append(report(grown, about, {}, 0).winner)
    assert winners == [None, "b"]


def exactly(*means: float):  # type: ignore[no-untyped-def]
    """Values 0 and 1 with these means, to the nearest value."""
    return lambda rng, k, n: rng.permutation((np.arange(n) < round(n * means[k])).astype(float))


def test_time_is_named_where_enough_of_it_was_seen() -> None:
    (sentence,) = explained(played((0.30, 0.31), 300, each=10)).would_decide
    assert re.search(r"more decisions show it: about [\d.]+ (minutes|hours|days) at this traffic\.", sentence)


def test_what_no_traffic_decides_is_said() -> None:
    unfloored = record(2, policy=PolicySpec(kind="thompson", min_share=0.0))
    assert explained(played((0.2, 0.4), 3, unfloored)).would_decide == [
        "No traffic decides it: the last sentence of the reason says why."
    ]
    few = explained(played((0.2, 0.4), 1, record(2, min_samples=5_000)))
    assert few.would_decide[0].startswith(
        "Every arm needs 5,000 observations of m; the fewest that one has are"
    )
    none = explained(played((0.2, 0.4), 1, each=20))
    assert none.would_decide == ["b can not be compared yet: see the reason."]
    paused = explained(with_status(played((0.2, 0.3), 2), status="paused"))
    assert paused.would_decide[0] == "It is paused: nothing is learned until it goes on."


def test_of_a_horizon_the_next_look_is_told() -> None:
    stopping = Stopping(mode="horizon", expected_samples=1_000, looks=4)
    about = record(2)
    experiment = msgspec.structs.replace(about.experiment, stopping=stopping)
    about = msgspec.structs.replace(about, experiment=experiment)
    told = [explained(played((0.5, 0.5), steps, about, each=100)).would_decide for steps in (2, 3, 10)]
    assert told[0] == [
        "It is decided at its looks alone. The next is at 250 of 1,000 values of m; 200 have been analysed."
    ]
    assert told[1] == [
        "It is decided at its looks alone. "
        "The next after 1 of them is at 500 of 1,000 values of m; 300 have been analysed."
    ]
    assert told[2] == ["Its last look, at 1,000 values of m, decided nothing: no more comes."]


def test_changes_are_told_with_their_reasons() -> None:
    start = TimelineChange("2026-01-02T10:00:00.000Z", "start", "ann")
    pause = TimelineChange("2026-01-03T11:30:00.000Z", "pause_arm", "guardrail", "b", "latency.")
    told = explained(played((0.2, 0.2), 2), [start, pause])
    assert told.happened[-2:] == [
        "2026-01-02 10:00Z, ann: start.",
        "2026-01-03 11:30Z, guardrail: pause_arm b, because: latency.",
    ]
    many = explained(played((0.2, 0.2), 2), [start] * 15 + [pause])
    assert "6 earlier changes are in the history." in many.happened
    assert len([each for each in many.happened if "ann: start." in each]) == 9


def test_shares_that_moved_are_told() -> None:
    fold = ResultsFold(record(2, policy=PolicySpec(kind="thompson")))
    play = Play(fold, np.random.default_rng(5), bernoulli(0.2, 0.3), 2)
    for share in (0.5, 0.6, 0.8):
        play.step(np.array([1 - share, share]), 100)
    assert "The share of b went from 50% to 80% under thompson." in explained(fold).happened
