"""Join of decisions and rewards, whichever comes first."""

import msgspec
import numpy as np

from bandit_serve.log.events import (
    FIRST,
    HELD_OUT,
    REVISION,
    REWARD,
    Exposed,
    Pair,
    Revised,
    Rewarded,
    Tick,
    decode,
    encode,
)
from bandit_serve.log.offset import Offset
from bandit_serve.log.times import GRACE_MS
from bandit_serve.training.learning.reward_log import RewardLog
from bandit_serve.training.rating_rule import RatingRule

WINDOW_MS = 1_000


def exposed(first, pairs, held_out=b"", n=10):
    vectors, runs = np.ones(1).tobytes(), np.array([n], np.uint32).tobytes()
    return Exposed(
        7, first, 1, 0, bytes(2 * n), bytes(4 * n), b"", vectors, runs, held_out, b"", tuple(pairs)
    )


def rewarded(*rewards, metric=0, flags=0):
    rows = np.zeros(len(rewards), REWARD)
    rows["incarnation"], rows["metric"], rows["flags"] = 7, metric, flags
    rows["counter"], rows["value"] = [r[0] for r in rewards], [r[1] for r in rewards]
    return Rewarded(rows)


def revised(*changes, metric=0, flags=0, since_ms=FIRST):
    """Each change is a decision's number, its former value and the one from now on."""
    rows = np.zeros(len(changes), REVISION)
    rows["incarnation"], rows["metric"], rows["flags"], rows["since_ms"] = 7, metric, flags, since_ms
    rows["counter"], rows["former"], rows["value"] = zip(*changes, strict=True)
    return Revised(rows)


NONE = float("nan")


def fed(log, at_ms, event):
    return [
        (rating.user, rating.item, rating.value, rating.features)
        for rating in log.apply(Offset(at_ms, 0), event)
    ]


def test_pairs_wait_for_their_rewards():
    log = RewardLog(WINDOW_MS, RatingRule())
    assert fed(log, 0, exposed(100, [Pair(0, "u", "i"), Pair(3, "v", "j", {"a": 1})])) == []
    assert fed(log, 5, rewarded((103, 4.0), (101, 1.0), (100, 2.0))) == [
        ("v", "j", 4.0, {"a": 1}),
        ("u", "i", 2.0, None),
    ]
    assert fed(log, 6, rewarded((103, 4.0))) == []


def test_rewards_wait_for_their_pairs_and_other_metrics_are_not_ratings():
    log = RewardLog(WINDOW_MS, RatingRule(1))
    assert fed(log, 0, rewarded((100, 4.0), metric=1)) == []
    assert fed(log, 0, rewarded((101, 4.0), metric=0)) == []
    assert fed(log, 9, exposed(100, [Pair(0, "u", "i"), Pair(1, "v", "j")])) == [("u", "i", 4.0, None)]


def test_the_holdout_teaches_nothing():
    log = RewardLog(WINDOW_MS, RatingRule())
    fed(log, 0, exposed(100, [Pair(0, "u", "i"), Pair(1, "v", "j")], held_out=b"\x01\x00"))
    assert fed(log, 1, rewarded((100, 4.0), flags=HELD_OUT)) == []
    assert fed(log, 1, rewarded((101, 4.0))) == [("v", "j", 4.0, None)]


def test_what_is_too_late_is_forgotten():
    log = RewardLog(WINDOW_MS, RatingRule())
    fed(log, 0, exposed(100, [Pair(0, "u", "i"), Pair(1, "v", "j")]))
    assert fed(log, WINDOW_MS + GRACE_MS, rewarded((100, 4.0))) == [("u", "i", 4.0, None)]
    fed(log, WINDOW_MS + GRACE_MS + 1, Tick())
    assert fed(log, WINDOW_MS + GRACE_MS + 2, rewarded((101, 4.0))) == []


def test_a_state_is_all_that_the_rest_needs():
    random, events = np.random.default_rng(0), []
    for number in range(200):
        events.append(
            exposed(10 * number, [Pair(place, f"u{place}", f"i{number}") for place in range(0, 10, 2)])
        )
        chosen = random.choice(10 * number + 20, 5, replace=False)
        events.append(rewarded(*[(int(counter), float(counter % 5)) for counter in chosen]))
    whole, resumed = RewardLog(WINDOW_MS, RatingRule()), RewardLog(WINDOW_MS, RatingRule())
    for at, event in enumerate(events):
        resumed = RewardLog.from_state(resumed.offset, resumed.state(), WINDOW_MS, RatingRule())
        assert fed(resumed, 700 * at, event) == fed(whole, 700 * at, event)
    assert resumed.state() == whole.state()


def test_pairs_survive_the_wire_and_logs_without_them_are_read():
    event = exposed(1, [Pair(2, "ü", "i", {"a": [1, "b"]}), Pair(3, "v", "j")])
    assert decode(b"x", encode(event)) == event
    before = encode((7, 1, 1, 0, b"", b"", b"", b"", b"", b"", b""))
    assert decode(b"x", before).pairs == ()


def test_a_value_that_changes_is_a_rating_each_time_while_its_pair_is_kept():
    log = RewardLog(WINDOW_MS, RatingRule())
    fed(log, 0, exposed(100, [Pair(0, "u", "i"), Pair(1, "v", "j")]))
    assert fed(log, 1, revised((100, NONE, 1.0), (101, NONE, 2.0))) == [
        ("u", "i", 1.0, None),
        ("v", "j", 2.0, None),
    ]
    ratings = log.apply(Offset(2, 0), revised((100, 1.0, 3.0), since_ms=1))
    assert [(each.user, each.value, each.decision) for each in ratings] == [("u", 3.0, (7, 100))]
    (gone,) = log.apply(Offset(3, 0), revised((100, 3.0, NONE), since_ms=1))
    assert np.isnan(gone.value)
    assert gone.decision == (7, 100)
    assert fed(log, 4, revised((100, NONE, 5.0), since_ms=1)) == [("u", "i", 5.0, None)]
    fed(log, WINDOW_MS + GRACE_MS + 1, Tick())
    assert fed(log, WINDOW_MS + GRACE_MS + 2, revised((100, 5.0, 6.0), since_ms=1)) == []


def test_values_that_change_wait_for_their_pairs():
    log = RewardLog(WINDOW_MS, RatingRule())
    assert fed(log, 0, revised((100, NONE, 1.0), (101, NONE, 2.0), (102, NONE, 3.0))) == []
    assert fed(log, 1, revised((100, 1.0, 4.0), (101, 2.0, NONE), since_ms=0)) == []
    log = RewardLog.from_state(log.offset, log.state(), WINDOW_MS, RatingRule())
    pairs = [Pair(0, "u", "i"), Pair(1, "v", "j"), Pair(2, "w", "k")]
    assert fed(log, 2, exposed(100, pairs)) == [("u", "i", 4.0, None), ("w", "k", 3.0, None)]
    again = revised((100, 4.0, 5.0), (101, NONE, 6.0), (102, 3.0, 7.0), since_ms=0)
    assert fed(log, 3, again) == [("u", "i", 5.0, None), ("v", "j", 6.0, None), ("w", "k", 7.0, None)]


def test_changes_of_what_is_not_known_are_passed_over():
    log = RewardLog(WINDOW_MS, RatingRule(0))
    assert fed(log, 0, revised((100, 1.0, 2.0), (101, NONE, 2.0), since_ms=0)) == []
    assert fed(log, 0, revised((102, NONE, 1.0), metric=1)) == []
    assert fed(log, 0, revised((103, NONE, 1.0), flags=HELD_OUT)) == []
    assert fed(log, 1, exposed(100, [Pair(place, "u", "i") for place in range(4)])) == []
    # Of a reward that was given, later events are none.
    assert fed(log, 2, rewarded((100, 1.0))) == [("u", "i", 1.0, None)]
    assert fed(log, 3, revised((100, 1.0, 2.0), since_ms=2)) == []


def test_states_of_before_values_changed_are_read():
    log = RewardLog(WINDOW_MS, RatingRule())
    fed(log, 0, exposed(100, [Pair(0, "u", "i", {"a": 1})]))
    fed(log, 0, rewarded((300, 2.0)))
    content = msgspec.msgpack.decode(log.state())
    content[0] = [[key, waiting[:5]] for key, waiting in content[0]]
    assert all(len(waiting) == 5 for _, waiting in content[0])
    again = RewardLog.from_state(log.offset, msgspec.msgpack.encode(content), WINDOW_MS, RatingRule())
    assert again.state() == log.state()
