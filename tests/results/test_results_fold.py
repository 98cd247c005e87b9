"""Results fold against its reference, on irregular logs; snapshots, refusals and bounds."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from builders import revisions
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference_results import ReferenceFold
from result_states import parts_of, state_of
from scale import scaled
from simulated_results import START_MS, Play, bernoulli, exposed, random_log, record, rewarded, with_arm

from bandit_serve.errors import UnreadableEntry
from bandit_serve.experiments.checks import with_policy
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.log.events import Census, Change, Changed, Exposed, Revised, Rewarded, Tick
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.times import GRACE_MS, LINGER_MS
from bandit_serve.results import ResultsFold, report
from bandit_serve.results.state import CODEC, ResultsState

METRICS = (Metric(name="hit", kind="binary"), Metric(name="worth", kind="continuous"))
MODES = [(unit, missing) for unit in ("request", "user") for missing in ("ignore", "zero")]
WINDOW_MS = 500


def mixed(
    unit: str, missing: str, n_arms: int = 3, policy: PolicySpec | None = None, window_ms: int = WINDOW_MS
):
    return record(n_arms, unit=unit, missing=missing, window=f"{window_ms}ms", metrics=METRICS, policy=policy)


def played(fold, log):
    for time_ms, event in log:
        fold.apply(Offset(time_ms, 0), event)
    return fold


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fixed_split", "lin_ts"])
@pytest.mark.parametrize(("unit", "missing"), MODES)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=scaled(6, 30), deadline=None, derandomize=True)
def test_it_folds_what_the_reference_folds(unit, missing, kind, seed):
    check_folds_what_the_reference_folds(unit, missing, seed, PolicySpec(kind=kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fixed_split", "lin_ts"])
@example(seed=20_085, window_ms=WINDOW_MS)
@given(seed=st.integers(0, 2**32), window_ms=st.sampled_from([20, 60, 150, WINDOW_MS]))
@settings(max_examples=scaled(10, 60), deadline=None, derandomize=True)
def test_it_folds_what_the_reference_folds_of_late_exposures(kind, seed, window_ms):
    """Where windows are short, decisions are analysed before their exposures come, with shares that are guessed, and
    rewarded on another metric before or after that.
    """
    check_folds_what_the_reference_folds("request", "zero", seed, PolicySpec(kind=kind), window_ms)


def check_folds_what_the_reference_folds(unit, missing, seed, policy=None, window_ms=WINDOW_MS):
    about = mixed(unit, missing, policy=policy, window_ms=window_ms)
    log = random_log(np.random.default_rng(seed), 3, 2, WINDOW_MS)
    assert len({len(event.arms) for _, event in log if isinstance(event, Exposed)}) > 3
    fold, reference = ResultsFold(about), ReferenceFold(about.experiment, [1 / 3] * 3)
    for time_ms, event in log:
        fold.apply(Offset(time_ms, 0), event)
        reference.apply(Offset(time_ms, 0), event)
        assert fold.pending == reference.pending
        assert fold.crossovers == reference.crossovers
    for _ in range(2):
        assert fold.exposures.tolist() == reference.exposures
        for m in range(2):
            sums = fold.sums.of_metric(m)
            assert sums["analysed"] == len(reference.entered[m].arms)
            for name, expected in reference.entered[m].sums(0).items():
                np.testing.assert_allclose(sums[name], expected, rtol=1e-9, atol=1e-7, err_msg=name)
        end = log[-1][0] + 3 * WINDOW_MS
        fold.apply(Offset(end, 0), Tick())
        reference.apply(Offset(end, 0), Tick())
        assert fold.pending == reference.pending == 0


@pytest.mark.slow
@pytest.mark.parametrize(("unit", "missing"), MODES)
@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=scaled(5, 30), deadline=None)
def test_a_snapshot_and_the_rest_of_the_log_are_the_whole_log_bit_for_bit(unit, missing, seed, data):
    log = random_log(np.random.default_rng(seed), 3, 2, WINDOW_MS, steps=60)
    about = mixed(unit, missing, window_ms=data.draw(st.sampled_from([60, WINDOW_MS])))
    whole = played(ResultsFold(about), log)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(log)), min_size=1, max_size=6)))
    resumed, at = ResultsFold(about), 0
    for cut in [*cuts, len(log)]:
        played(resumed, log[at:cut])
        resumed, at = ResultsFold.from_state(resumed.offset, resumed.state()), cut
    assert resumed.state() == whole.state()
    assert msgspec.json.encode(report(resumed, resumed.record, {}, 0)) == msgspec.json.encode(
        report(whole, whole.record, {}, 0)
    )


def padded(event, n_arms):
    """The event as it would have been had arms up to `n_arms` been there without a share."""
    if not isinstance(event, Exposed):
        return event
    vectors = np.frombuffer(event.vectors, "<f8").reshape(len(event.runs) // 4, -1)
    wide = np.pad(vectors, ((0, 0), (0, n_arms - vectors.shape[1])))
    return msgspec.structs.replace(event, vectors=wide.tobytes())


@pytest.mark.slow
@pytest.mark.parametrize(("unit", "missing"), MODES)
@given(seed=st.integers(0, 2**32), cut=st.integers(0, 100))
@settings(max_examples=scaled(4, 30), deadline=None)
def test_an_arm_that_comes_is_as_one_that_had_no_share_before(unit, missing, seed, cut):
    """Decisions that were made before it came are logged after it, too."""
    split = PolicySpec(kind="fixed_split", shares=dict.fromkeys("abc", 1.0))
    about = {
        "unit": unit,
        "missing": missing,
        "window": f"{WINDOW_MS}ms",
        "metrics": METRICS,
        "policy": split,
    }
    first, rng = record(3, **about), np.random.default_rng(seed)
    comes_ms = START_MS + 30 * 97
    later = [(at + comes_ms - START_MS, event) for at, event in random_log(rng, 4, 2, WINDOW_MS)]
    log = sorted([*random_log(rng, 3, 2, WINDOW_MS), *later], key=lambda entry: entry[0])
    before = [entry for entry in log if entry[0] < comes_ms]
    assert 0 < len(before) < len(log)
    grown = played(ResultsFold(first), before)
    grown.apply(Offset(comes_ms, 0), Changed(with_arm(first, "d"), Change("add_arm", "me")))
    # A change closes windows as every entry does, and what closes together depends on when.
    ticked = [*before, (comes_ms, Tick()), *log[len(before) :]]
    wide = played(ResultsFold(record(4, **about)), [(at, padded(event, 4)) for at, event in ticked])
    whole = ResultsFold.from_state(grown.offset, grown.state())
    played(grown, log[len(before) :])
    at = len(before) + cut % (len(log) - len(before))
    played(whole, log[len(before) : at])
    whole = played(ResultsFold.from_state(whole.offset, whole.state()), log[at:])
    assert whole.state() == grown.state()
    for m in range(2):
        sums, expected = grown.sums.of_metric(m), wide.sums.of_metric(m)
        assert all(np.array_equal(sums[name], expected[name]) for name in sums)
        assert sums["eligible"][3] < sums["eligible"][0]
    assert grown.exposures[3] > 0
    assert grown.exposures.tolist() == wide.exposures.tolist()
    assert (grown.pending, grown.crossovers) == (wide.pending, wide.crossovers)


@pytest.mark.slow
@given(seed=st.integers(0, 2**32))
@settings(max_examples=scaled(8, 60), deadline=None)
def test_every_reward_counts_exactly_once_with_or_without_its_exposure(seed):
    log = random_log(np.random.default_rng(seed), 3, 2, WINDOW_MS)
    rewards = np.concatenate([event.rows for _, event in log if isinstance(event, Rewarded)])
    decided = {(int(row["incarnation"]), int(row["counter"])) for row in rewards}
    for _, event in log:
        if isinstance(event, Exposed):
            decided |= {(event.incarnation, event.first + i) for i in range(len(event.arms) // 2)}
    end = (log[-1][0] + 3 * WINDOW_MS, Tick())
    for missing in ("ignore", "zero"):
        fold = played(ResultsFold(mixed("request", missing)), [*log, end])
        for m in range(2):
            sums, mine = fold.complete().sums.of_metric(m), rewards[rewards["metric"] == m]
            totals = np.bincount(mine["arm"], mine["value"], minlength=3)
            np.testing.assert_allclose(sums["total"], totals, atol=1e-9)
            assert sums["analysed"] == (len(mine) if missing == "ignore" else len(decided))


def test_memory_follows_what_is_open_and_not_the_log():
    rng = np.random.default_rng(5)
    fold = ResultsFold(mixed("request", "zero"))
    sizes = []
    for hour in range(60):
        for i in range(40):
            at = START_MS + hour * 3_600_000 + i * 100
            vector = rng.dirichlet(np.full(3, 5.0))
            arms = rng.choice(3, 50, p=vector)
            fold.apply(Offset(at, 0), exposed((hour * 40 + i) * 50, arms, vector[None], [50], time_ms=at))
        # Points of the past are kept besides, MAX_POINTS at most.
        columns = {part: each for part, each in fold._columns().items() if part != "history"}
        sizes.append((len(CODEC.pack(ResultsState(b"", columns))), fold._shares.n_vectors))
    assert sizes[-1][0] < 1.05 * sizes[4][0]
    assert sizes[-1][1] < 130
    fold.apply(Offset(at + WINDOW_MS + LINGER_MS + 2, 0), Tick())
    assert fold._shares.n_runs == 0
    assert fold._shares.n_vectors == 1


def test_equal_vectors_in_a_row_are_stored_once():
    fold = ResultsFold(mixed("user", "ignore"))
    even = np.full((1, 3), 1 / 3)
    for i in range(100):
        fold.apply(
            Offset(START_MS, 0),
            exposed(10 * i, np.arange(10) % 3, even, [10], units=np.arange(10 * i, 10 * i + 10)),
        )
    assert fold._shares.n_vectors == 1
    assert fold._shares.n_runs == 1


def test_a_reward_without_an_exposure_has_its_own_propensity_and_the_proportions_of_the_vector_before():
    fold = ResultsFold(mixed("request", "ignore"))
    fold.apply(Offset(START_MS, 0), exposed(0, np.array([0]), np.array([[0.2, 0.2, 0.6]]), [1]))
    fold.apply(Offset(START_MS, 0), rewarded(counter=5, arm=0, propensity=0.5, value=1.0))
    np.testing.assert_allclose(fold.complete().sums.of_metric(0)["split"], [0.5, 0.125, 0.375])
    fold.apply(Offset(START_MS, 0), rewarded(counter=6, arm=0, propensity=0.5, value=1.0))
    np.testing.assert_allclose(fold.complete().sums.of_metric(0)["inverse"], [2.0, 8.0, 8 / 3])
    fold.apply(Offset(START_MS, 0), rewarded(incarnation=99, counter=5, arm=2, propensity=1.0, value=1.0))
    np.testing.assert_allclose(fold.complete().sums.of_metric(0)["inverse"], [2.0, 8.0, 8 / 3 + 1.0])
    assert fold.complete().sums.of_metric(0)["eligible"].tolist() == [1, 1, 2]


def test_a_fixed_split_stands_in_for_its_own_vector_before_the_first_exposure():
    policy = PolicySpec(kind="fixed_split", shares={"a": 1, "b": 3})
    fold = ResultsFold(record(2, policy=policy))
    fold.apply(Offset(START_MS, 0), rewarded(counter=0, arm=1, propensity=0.75, value=1.0))
    fold.apply(Offset(START_MS, 0), rewarded(counter=1, arm=0, propensity=0.25, value=1.0))
    np.testing.assert_allclose(fold.complete().sums.of_metric(0)["split"], [0.25, 0.75])
    assert fold.complete().sums.of_metric(0)["moved"] == 0


def test_a_window_closes_after_its_last_millisecond():
    fold = ResultsFold(mixed("request", "zero"))
    fold.apply(
        Offset(START_MS, 0),
        exposed(0, np.array([1, 2]), np.full((1, 3), 1 / 3), [2], ages_ms=np.array([0, 7])),
    )
    fold.apply(Offset(START_MS + WINDOW_MS, 0), Tick())
    assert (fold.pending, fold.sums.counts()[0]) == (2, 0)
    fold.apply(Offset(START_MS + WINDOW_MS + 1, 0), Census(key="k"))
    assert (fold.pending, fold.sums.counts()[0]) == (1, 1)
    late = rewarded(counter=1, arm=2, propensity=1 / 3, value=1.0, time_ms=START_MS + 7)
    fold.apply(Offset(START_MS + WINDOW_MS + 9, 0), late)
    assert (fold.pending, fold.complete().sums.of_metric(0)["total"].tolist()) == (0, [0.0, 0.0, 1.0])


def orphan(fold):
    """A decision that is analysed by its reward, as its window closes before its exposure comes."""
    fold.apply(Offset(START_MS, 0), exposed(0, np.array([1]), np.full((1, 3), 1 / 3), [1]))
    row = rewarded(counter=7, arm=1, metric=1, value=4.0, propensity=0.5)
    fold.apply(Offset(START_MS, 0), row)
    fold.apply(Offset(START_MS + WINDOW_MS + 1, 0), Tick())
    return fold


def expose_orphan(fold):
    fold.apply(Offset(fold.now_ms, 0), exposed(7, np.array([1]), np.array([[0.1, 0.5, 0.4]]), [1]))
    return fold


LATE_HIT = rewarded(counter=7, arm=1, value=1.0, propensity=0.5)


def test_what_was_analysed_without_its_exposure_keeps_the_shares_that_it_was_analysed_with():
    """The difference to control is spread over the pair that it was weighed as: (1/4, 1/2), not (1/10, 1/2)."""
    fold = expose_orphan(orphan(ResultsFold(mixed("request", "zero"))))
    before = fold.sums.of_metric(0)
    again = ResultsFold.from_state(fold.offset, fold.state())
    for each in (fold, again):
        each.apply(Offset(fold.now_ms, 0), LATE_HIT)
        sums = each.sums.of_metric(0)
        assert sums["total"].tolist() == [0.0, 1.0, 0.0]
        # A reward of 1 at propensity 1/2, times e_a e_b/(e_a + e_b).
        assert (sums["pair_score"] - before["pair_score"])[1] == pytest.approx(2.0 * (0.25 * 0.5 / 0.75))
        assert sums["pair_weight"][1] == before["pair_weight"][1]
    assert again.state() == fold.state()


def test_shares_of_what_was_analysed_without_its_exposure_are_kept_for_as_long_as_others():
    fold = expose_orphan(orphan(ResultsFold(mixed("request", "zero"))))
    closed_ms = fold.now_ms - WINDOW_MS
    fold.apply(Offset(closed_ms + GRACE_MS + WINDOW_MS, 0), Tick())
    assert fold._decisions.state(fold._decisions.vectors())["held_counter"].tolist() == [7]
    fold.apply(Offset(closed_ms + GRACE_MS + WINDOW_MS + 1, 0), Tick())
    assert fold._decisions.vectors().size == 0
    fold.apply(Offset(fold.now_ms + WINDOW_MS + 1, 0), Tick())
    assert fold._shares.n_vectors == 1, "that of now"


def test_only_so_many_shares_are_kept_of_what_was_analysed_without_its_exposure(monkeypatch):
    monkeypatch.setattr("bandit_serve.results.kernels.MAX_VECTOR_BYTES", 8 * 3 * 16 * 5)
    fold = orphan(ResultsFold(mixed("request", "zero")))
    for counter in range(8, 20):
        row = rewarded(counter=counter, arm=1, value=1.0, propensity=0.02 * counter)
        fold.apply(Offset(fold.now_ms, 0), row)
    fold.apply(Offset(fold.now_ms + WINDOW_MS + 1, 0), Tick())
    assert np.count_nonzero(fold._decisions.vectors() >= 0) == 5
    assert fold.one_in == 1
    again = ResultsFold.from_state(fold.offset, fold.state())
    for each in (fold, again):
        each.apply(Offset(fold.now_ms, 0), rewarded(counter=19, arm=1, metric=1, value=2.0, propensity=0.38))
        assert each.sums.of_metric(1)["total"][1] == 6.0
    assert again.state() == fold.state()


def test_a_snapshot_of_before_shares_were_kept_for_late_rewards_is_read():
    fold = orphan(ResultsFold(mixed("request", "zero")))
    about, parts = parts_of(fold.state())
    del parts["decisions"]["held_vector"]
    again = ResultsFold.from_state(START, state_of(about, parts))
    assert again._decisions.vectors().tolist() == [-1]
    again.apply(Offset(fold.now_ms, 0), LATE_HIT)
    assert again.sums.of_metric(0)["total"].tolist() == [0.0, 1.0, 0.0]


def test_an_exposure_that_disagrees_with_its_token_about_the_time_keeps_the_reward():
    fold = ResultsFold(mixed("request", "zero"))
    fold.apply(
        Offset(START_MS, 0), exposed(0, np.array([1]), np.full((1, 3), 1 / 3), [1], ages_ms=np.array([3]))
    )
    fold.apply(
        Offset(START_MS, 0), rewarded(counter=0, arm=1, propensity=1 / 3, value=1.0, time_ms=START_MS + 1)
    )
    fold.apply(Offset(START_MS + WINDOW_MS + 3, 0), Tick())
    fold.apply(Offset(START_MS + WINDOW_MS + 9, 0), Tick())
    assert fold.pending == 0
    assert fold.complete().sums.of_metric(0)["n"].tolist() == [0, 1, 0]
    assert fold.complete().sums.of_metric(0)["total"].tolist() == [0.0, 1.0, 0.0]


def test_a_change_of_policy_says_which_decisions_had_no_floor():
    about = record(2, policy=PolicySpec(kind="thompson", min_share=0.1), revision=3)
    bare = msgspec.structs.replace(
        about,
        revision=4,
        experiment=with_policy(about.experiment, PolicySpec(kind="thompson", min_share=0.0)),
    )
    fold = ResultsFold(about)
    fold.apply(Offset(START_MS, 0), rewarded(counter=0, value=1.0, propensity=0.5, revision=3))
    fold.apply(Offset(START_MS, 0), Changed(bare, Change("policy", "me")))
    assert fold.record.revision == 4
    fold.apply(Offset(START_MS, 0), rewarded(counter=1, value=1.0, propensity=0.5, revision=3))
    assert fold.complete().sums.of_metric(0)["unfloored"] == 0
    fold = ResultsFold.from_state(fold.offset, fold.state())
    fold.apply(Offset(START_MS, 0), rewarded(counter=2, value=1.0, propensity=0.5, revision=4))
    assert fold.complete().sums.of_metric(0)["unfloored"] == 1
    assert ResultsFold(bare).apply(Offset(START_MS, 0), Changed(about, Change("create", "me"))) is None
    other = msgspec.structs.replace(about.experiment, arms=about.experiment.arms[::-1])
    with pytest.raises(UnreadableEntry, match="in no other order"):
        fold.apply(
            Offset(START_MS, 0),
            Changed(msgspec.structs.replace(about, experiment=other), Change("create", "me")),
        )


EVEN = np.full((1, 2), 0.5)


@pytest.mark.parametrize(
    "event",
    [
        exposed(0, np.array([2]), EVEN, [1]),
        exposed(0, np.array([0, 1]), EVEN, [1]),
        exposed(0, np.array([0]), EVEN, [1, 1]),
        exposed(0, np.array([0]), np.array([[0.0, 1.0]]), [1]),
        exposed(0, np.array([0]), np.array([[np.nan, 1.0]]), [1]),
        exposed(0, np.array([0]), np.full((1, 3), 1 / 3), [1]),
        exposed(2**42, np.array([0]), EVEN, [1]),
        exposed(-1, np.array([0]), EVEN, [1]),
        exposed(0, np.array([0]), EVEN, [1], incarnation=2**64),
        exposed(0, np.array([0]), EVEN, [1], time_ms=2**60),
        exposed(0, np.array([0]), EVEN, [1], ages_ms=np.array([1, 2])),
        exposed(0, np.array([0]), EVEN, [1], units=np.arange(2)),
        msgspec.structs.replace(exposed(0, np.array([0]), EVEN, [1]), arms=b"abc"),
        rewarded(counter=0, arm=2, value=1.0),
        rewarded(counter=0, metric=1, value=1.0),
        rewarded(counter=0, value=np.nan),
        rewarded(counter=0, value=1.0, propensity=0.0),
        rewarded(counter=0, value=1.0, propensity=1.5),
        rewarded(counter=2**42, value=1.0),
        rewarded(counter=0, value=1.0, time_ms=2**62),
        Rewarded(np.zeros(3)),
        Revised(np.zeros(3)),
        Revised(rewarded(counter=0, value=1.0).rows),
        Rewarded(revisions([0], np.nan, 1.0)),
        Revised(revisions([0], np.nan, np.nan)),
        Revised(revisions([0], np.nan, 1.0, 5, arms=2)),
    ],
)
@pytest.mark.parametrize(("unit", "missing"), MODES)
def test_a_bad_entry_is_an_error_and_changes_nothing(event, unit, missing):
    fold = ResultsFold(record(2, unit=unit, missing=missing))
    before = fold.state()
    with pytest.raises(UnreadableEntry, match="can not fold: expected"):
        fold.apply(Offset(START_MS, 0), event)
    assert fold.state() == before


def test_an_exposure_without_its_units_is_refused_where_units_are_analysed():
    with pytest.raises(UnreadableEntry, match="as many units as arms"):
        ResultsFold(record(2, unit="user")).apply(Offset(START_MS, 0), exposed(0, np.array([0]), EVEN, [1]))


def test_an_empty_entry_and_columns_that_are_not_contiguous_are_taken():
    fold = ResultsFold(record(2))
    fold.apply(Offset(START_MS, 0), exposed(0, np.zeros(0, int), np.zeros((0, 2)), []))
    fold.apply(Offset(START_MS, 0), Rewarded(rewarded(counter=np.arange(9), value=1.0).rows[::2]))
    fold.apply(Offset(START_MS, 0), Rewarded(rewarded(counter=np.arange(9), value=1.0).rows[:0]))
    assert fold.complete().sums.counts()[0] == 5


@given(st.binary(max_size=200), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_bytes_that_are_no_snapshot_are_refused(noise, at):
    whole = played(
        ResultsFold(mixed("user", "zero")), random_log(np.random.default_rng(1), 3, 2, 500)
    ).state()
    at %= len(whole)
    for data in (noise, whole[:at], whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :]):
        try:
            restored = ResultsFold.from_state(START, data)
        except UnreadableEntry:
            continue
        # A flipped bit may lead the decompression to the same content by another way.
        assert restored.state() == whole
        assert len(data) == len(whole)


def test_a_unit_is_its_first_exposure_and_all_its_rewards():
    fold = ResultsFold(mixed("user", "ignore"))
    third = np.full((1, 3), 1 / 3)
    fold.apply(Offset(START_MS, 0), exposed(0, np.array([1, 2, 0]), third, [3], units=np.array([7, 7, 3])))
    for counter, arm, value, unit in ((2, 0, 0.0, 3), (0, 1, 2.0, 7), (1, 2, 5.0, 7)):
        row = rewarded(counter=counter, arm=arm, value=value, metric=1, unit=unit, propensity=1 / 3)
        fold.apply(Offset(START_MS, 0), row)
    for counter, arm, value in ((0, 1, 0.0), (1, 2, 1.0)):
        row = rewarded(counter=counter, arm=arm, value=value, metric=0, unit=7, propensity=1 / 3)
        fold.apply(Offset(START_MS, 0), row)
    assert fold.crossovers == 1
    assert fold.complete().sums.of_metric(1)["total"].tolist() == [0.0, 7.0, 0.0]
    assert fold.complete().sums.of_metric(0)["total"].tolist() == [0.0, 1.0, 0.0]
    assert fold.complete().sums.of_metric(0)["n"].tolist() == [0, 1, 0]
    np.testing.assert_allclose(fold.complete().sums.of_metric(1)["score"], [0.0, 21.0, 0.0])
    assert fold.complete().sums.of_metric(0)["eligible"].tolist() == [0, 0, 0]


def test_an_earlier_exposure_takes_the_place_of_a_reward_that_overtook_it():
    fold = ResultsFold(mixed("user", "zero"))
    late = rewarded(counter=9, arm=2, value=1.0, unit=7, propensity=0.5, time_ms=START_MS + 50, incarnation=3)
    fold.apply(Offset(START_MS + 60, 0), late)
    fold.apply(
        Offset(START_MS + 100, 0),
        exposed(0, np.array([1]), np.array([[0.2, 0.7, 0.1]]), [1], units=np.array([7])),
    )
    fold.apply(Offset(START_MS + WINDOW_MS + 1, 0), Tick())
    assert fold.pending == 0
    assert fold.crossovers == 1
    sums = fold.complete().sums.of_metric(0)
    assert sums["total"].tolist() == [0.0, 1.0, 0.0]
    np.testing.assert_allclose(sums["split"], [0.2, 0.7, 0.1])


# Many units


def many_units(fold: ResultsFold, first: int, n: int, at_ms: int, *, rewarded_too: bool = True) -> None:
    """`n` units from number `first` on, each with a decision and a reward of 1, evenly over three arms."""
    arms = np.arange(first, first + n) % 3
    fold.apply(
        Offset(at_ms, 0),
        exposed(first, arms, np.full((1, 3), 1 / 3), [n], time_ms=at_ms, units=units_of(first, n)),
    )
    if rewarded_too:
        reward_all(fold, first, n, at_ms)


def units_of(first: int, n: int) -> np.ndarray:
    return np.random.default_rng(5).integers(1, 2**64, first + n, np.uint64)[first:]


def reward_all(fold: ResultsFold, first: int, n: int, at_ms: int) -> None:
    numbers = np.arange(first, first + n)
    row = {"counter": numbers, "arm": numbers % 3, "unit": units_of(first, n)}
    fold.apply(Offset(at_ms, 0), rewarded(**row, time_ms=at_ms, value=1.0, propensity=1 / 3))


@pytest.mark.parametrize("missing", ["zero", "ignore"])
def test_more_units_than_are_kept_are_thinned_by_their_hash(monkeypatch, missing):
    """A few rows are kept, twice as many units come as fit, and twice as many again, and so on."""
    kept = 2_000
    monkeypatch.setattr("bandit_serve.results.kernels.MAX_UNIT_BYTES", kept * (39 + 8 * 2))
    fold, n, step = ResultsFold(mixed("user", missing)), 0, 1_000
    sizes, one_in = [], []
    for i in range(64):
        many_units(fold, n, step, START_MS + i)
        n += step
        sizes.append(fold._decisions.state(fold._decisions.vectors())["unit"].size)
        one_in.append(fold.one_in)
    assert sizes[0] == 1_000
    assert one_in[0] == 1
    assert one_in == sorted(one_in)
    assert one_in[-1] >= 64
    assert kept <= sizes[-1] <= 3.5 * kept + step
    assert all(high - low <= step for low, high in pairwise(sizes))
    assert fold.exposures.sum() == n, "exposures are counted all the same"
    state = fold.state()
    assert ResultsFold.from_state(START, state).state() == state

    # Who was not taken is not taken later, by an exposure or by a reward.
    again = ResultsFold.from_state(START, state)
    for each in (fold, again):
        reward_all(each, 0, n, START_MS + 64)
        assert each._decisions.state(each._decisions.vectors())["unit"].size == sizes[-1]
    assert again.state() == fold.state()

    if missing == "zero":
        fold.apply(Offset(START_MS + WINDOW_MS + 1_000, 0), Tick())
    analysed = fold.complete().sums.of_metric(0)
    counts = analysed["n"]
    assert counts.sum() == sizes[-1]
    # Evenly over the arms, as everybody is: 5 standard deviations.
    assert np.abs(counts - counts.sum() / 3).max() < 5 * np.sqrt(counts.sum() * 2 / 9)
    assert (analysed["total"] == counts).all(), "each with its one reward, none twice"


def test_units_that_fit_are_all_analysed():
    fold = ResultsFold(mixed("user", "ignore"))
    many_units(fold, 0, 5_000, START_MS)
    assert fold.one_in == 1
    assert fold.complete().sums.of_metric(0)["n"].sum() == 5_000


def test_a_snapshot_of_units_of_before_any_were_left_out_is_read():
    fold = ResultsFold(mixed("user", "ignore"))
    many_units(fold, 0, 100, START_MS)
    about, parts = parts_of(fold.state())
    del parts["decisions"]["halvings"]
    assert ResultsFold.from_state(START, state_of(about, parts)).state() == fold.state()


FORMER_SUMS = (
    *("n", "eligible", "pair_eligible", "total", "m2", "score", "inverse", "balance", "spread", "pair_score"),
    *("pair_inverse", "pair_control_inverse", "split", "analysed", "unfloored", "moved", "grand"),
)


def former(fold):
    """The state as builds wrote it that kept no squares, weighed all pairs alike and knew no directions."""
    about, parts = parts_of(fold.state())
    sums, evidence = parts["sums"], parts["evidence"]
    weight = sums["pair_weight"] / np.maximum(sums["pair_eligible"], 1)
    of = np.where(weight > 0, weight, 1.0)
    plain = {
        "pair_score": sums["pair_score"] / of,
        "pair_inverse": sums["pair_inverse"] / of**2,
        "pair_control_inverse": sums["pair_control_inverse"] / of**2,
        "score": sums["score"] + sums["eligible"] * sums["origin"][:, None],
        "grand": sums["total"].sum(axis=1),
    }
    parts["sums"] = {name: (sums | plain)[name] for name in FORMER_SUMS}
    loud = np.full_like(evidence["fixed_above"], 50.0)
    kept = {name: evidence[name] for name in ("ratio_fixed", "ratio_moving", "next_look", "peers")}
    parts["evidence"] = kept | {"fixed": loud, "moving": loud}
    return state_of(about, parts)


@pytest.mark.parametrize("kind", ["thompson", "lin_ts"])
@pytest.mark.parametrize("unit", ["request", "user"])
def test_a_snapshot_without_squares_is_read_and_goes_on(kind, unit):
    """Under a contextual policy nothing is claimed of what was analysed so, as the reason says."""
    about = record(2, policy=PolicySpec(kind=kind, min_share=0.1), unit=unit)
    fold, rng = ResultsFold(about), np.random.default_rng(3)
    play = Play(fold, rng, bernoulli(0.3, 0.5))
    halves = np.array_split(np.arange(2_000).astype(np.uint64), 10)
    for units in halves[:5]:
        play.step(np.array([0.5, 0.5]), 200, units)
    metric = report(fold, about, {}, 0).arms[1].metrics["m"]
    again = ResultsFold.from_state(START, former(fold))
    results = report(again, about, {}, 0)
    row = results.arms[1].metrics["m"]
    assert (row.n, row.mean) == (metric.n, metric.mean)
    assert row.difference_interval == pytest.approx(metric.difference_interval, rel=1e-9)
    assert row.p_value > 1e-20, "evidence of variances that were too small is not taken over"
    play.fold = again
    for shares, units in zip([0.3, 0.5] * 3, halves[5:], strict=False):
        play.step(np.array([shares, 1 - shares]), 200, units)
    assert ResultsFold.from_state(again.offset, again.state()).state() == again.state()
    results = report(again, about, {}, 0)
    row = results.arms[1].metrics["m"]
    assert row.difference == pytest.approx(0.2, abs=0.08)
    if kind == "lin_ts":
        assert row.p_value is row.interval is row.difference_interval is results.winner is None
        assert "1000 of 2000" in results.reason
        assert "did not keep the squares" in results.reason
    else:
        low, high = row.difference_interval
        assert low < 0.2 < high
