"""Join of decisions and rewards, whichever comes first."""

import numpy as np

from bandit_serve.log.events import HELD_OUT, REWARD, Exposed, Pair, Rewarded, Tick, decode, encode
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
