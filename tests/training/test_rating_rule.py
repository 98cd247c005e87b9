"""Rewards as ratings: by utility or by a given rule; of one kind and one scale in a model."""

import msgspec
import numpy as np
import pytest
from builders import experiment, exposed, rewards

from bandit_serve.errors import UsageError
from bandit_serve.log.events import Pair, Rewarded
from bandit_serve.log.offset import Offset
from bandit_serve.models import MatrixFactorization
from bandit_serve.training.learning.learner import CHECKPOINT, ContinuousLearner, Followed
from bandit_serve.training.rating_rule import RatingRule, read_rule, read_rules, rule_of

WINDOW_MS = 3_600_000
METRICS = [
    {"name": "m", "kind": "binary"},
    {"name": "m", "kind": "bounded", "low": -2.0, "high": 10.0},
    {"name": "m", "kind": "count"},
    {"name": "m", "kind": "continuous"},
]


def of(metric, **fields):
    return experiment(metrics=[{**metric, **fields}])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("goal", ["maximize", "minimize"])
def test_a_rating_is_the_utility(metric, goal):
    made = of(metric, goal=goal)
    rule = rule_of(made)
    for reward in (0.0, 1.0):
        assert rule.rating(reward) == made.objective.utility(reward)
    assert (rule.rating(1.0) > rule.rating(0.0)) == (goal == "maximize")


def test_units_are_those_of_kinds_scales_and_goals():
    kinds = [rule_of(of(metric, goal=goal)).unit for metric in METRICS for goal in ("maximize", "minimize")]
    kinds += [rule_of(of(METRICS[1], high=5.0)).unit]
    kinds += [rule_of(of(metric, name="x")).unit for metric in METRICS[2:]]
    assert len(set(kinds)) == len(kinds)
    for metric in METRICS[:2]:
        assert rule_of(of(metric)).unit == rule_of(of(metric, name="n")).unit, "its scale is declared"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("click", (0, 1.0, 0.0)),
        ("4*click", (0, 4.0, 0.0)),
        ("1 + 4 * click", (0, 4.0, 1.0)),
        ("5 - dwell-time", (1, -1.0, 5.0)),
        ("-2.5e-1 * dwell-time", (1, -0.25, 0.0)),
    ],
)
def test_what_is_told_is_a_line(text, expected):
    made = experiment(
        metrics=[
            {"name": "click", "kind": "binary", "role": "objective"},
            {"name": "dwell-time", "kind": "continuous"},
        ]
    )
    assert read_rules([f"e = {text}"]) == {"e": text}
    rule = read_rule(text, made)
    assert (rule.metric, rule.factor, rule.shift, rule.unit) == (*expected, None)
    assert rule.rating(2.0) == expected[2] + 2.0 * expected[1]


def test_what_is_no_line_is_refused():
    for text in ("click", "e=", "e=1 + * click", "e=a b"):
        with pytest.raises(UsageError, match="Expected a rating as"):
            read_rules([text])
    for text, match in (
        ("none", "no metric 'none'; it has click"),
        ("0 * click", "not 0"),
        ("1e999 * click", "finite"),
    ):
        with pytest.raises(UsageError, match=match):
            read_rule(text, experiment())


def model(values=(1.0, 2.0, 3.0, 5.0)):
    return MatrixFactorization(4, n_epochs=2).fit(
        ["u", "v", "u", "v"], ["i", "i", "j", "j"], np.array(values)
    )


def followed(name, rule, uid=1):
    return Followed(name, uid, WINDOW_MS, rule)


def log(values, name="a", first=0):
    """Decisions about items that take turns, and their rewards."""
    n = len(values)
    pairs = tuple(Pair(place, "u", "ij"[place % 2]) for place in range(n))
    event = msgspec.structs.replace(exposed(first, [0] * n, [0] * n), pairs=pairs)
    return [
        (name, Offset(1_000 + first, 0), event),
        (name, Offset(1_001 + first, 0), Rewarded(rewards(range(first, first + n), values=values))),
    ]


def learned(learner, entries):
    for name, offset, event in entries:
        learner.apply(name, offset, event)
    return learner


def test_what_is_skipped_most_is_ranked_last():
    skips = [5.0 if place % 2 else 0.0 for place in range(60)]  # of j
    rule = rule_of(of(METRICS[2], goal="minimize"))
    learner = learned(ContinuousLearner(model(), model(), [followed("a", rule)]), log(skips))
    assert learner.learned == 60
    assert [item for item, _ in learner.model.top_k("u", 2)] == ["i", "j"]
    assert learner.model.predict("u", "j") < learner.model.predict("u", "i") < 1.5


def test_experiments_of_another_kind_or_scale_are_not_followed_unless_told():
    binary, counts = rule_of(of(METRICS[0])), rule_of(of(METRICS[2]))
    learner = ContinuousLearner(model(), model(), [followed("a", binary)])
    assert not learner.follow(followed("b", counts))
    assert not learner.follow(followed("b", rule_of(of(METRICS[0], goal="minimize"))))
    assert set(learner.offsets) == {"a"}
    assert learner.follow(followed("c", binary))
    assert learner.follow(followed("b", RatingRule(0, 0.1, 0.0)))
    assert learner.unit == binary.unit
    assert set(learner.offsets) == {"a", "b", "c"}


def test_a_checkpoint_keeps_what_rewards_were(tmp_path):
    given, binary = RatingRule(0, 4.0, 1.0), rule_of(of(METRICS[0]))
    names = {"a": followed("a", given), "b": followed("b", binary)}
    learner = learned(ContinuousLearner(model(), model(), names.values()), log([1.0, 0.0], "a"))
    learner.save(tmp_path)
    again = ContinuousLearner.load(tmp_path, {**names, "a": followed("a", binary)})
    assert again.rules == {"a": given, "b": binary}, "what was told once need not be told again"
    learned(learner, log([1.0, 0.0], "a", 2)), learned(again, log([1.0, 0.0], "a", 2))
    assert again.model.predict("u", "i") == pytest.approx(learner.model.predict("u", "i"), abs=1e-6)
    with pytest.raises(UsageError, match="learned otherwise so far: 1 \\+ 4 times"):
        ContinuousLearner.load(tmp_path, {"a": followed("a", RatingRule(0, 5.0, 1.0))})
    only = ContinuousLearner.load(tmp_path, {"a": names["a"]})
    assert not only.follow(followed("c", rule_of(of(METRICS[2])))), "what was followed once counts"


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
def test_a_checkpoint_of_before_is_gone_on_with_unless_it_took_rewards_the_wrong_way(tmp_path, goal):
    rule = rule_of(of(METRICS[2], goal=goal))
    learned(ContinuousLearner(model(), model(), [followed("a", rule)]), log([1.0, 3.0])).save(tmp_path)
    checkpoint = msgspec.msgpack.decode((tmp_path / CHECKPOINT).read_bytes())
    del checkpoint["rules"]
    (tmp_path / CHECKPOINT).write_bytes(msgspec.msgpack.encode(checkpoint))
    learner = ContinuousLearner.load(tmp_path, {"a": followed("a", rule)})
    if goal == "minimize":
        assert learner is None
    else:
        assert (learner.learned, learner.rules) == (2, {"a": rule})
