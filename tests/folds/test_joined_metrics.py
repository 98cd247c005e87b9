"""Metrics that join, in the policy fold: nothing is learned from them, and its state is that of the log."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from builders import created, experiment, exposed, rewards

from bandit_serve.experiments.checks import with_metric
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Joined
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log.events import Change, Changed, Rewarded, decode, encode
from bandit_serve.log.offset import Offset


@pytest.mark.parametrize("missing", ["zero", "ignore"])
def test_a_policy_goes_on_as_it_was(missing: str) -> None:
    made = created(experiment(attribution={"window": "1h", "missing": missing}))
    alone, live = LiveExperiment(made), LiveExperiment(made)
    late = Metric(name="late", kind="continuous", quantile=0.9)
    record = msgspec.structs.replace(
        made.record,
        experiment=with_metric(made.record.experiment, late),
        joined=(Joined("late", 20),),
        revision=2,
    )
    change = Changed(record, Change("add_metric", "me", metric="late"))
    event = decode(b"c", encode(change.without(live.record)))
    assert event.whole(made.record) == change
    rng = np.random.default_rng(1)
    for fold in (alone, live):
        fold.apply(Offset(10, 0), made)
        fold.apply(Offset(11, 0), exposed(0, [0, 1] * 10, [10] * 20))
    live.apply(Offset(20, 0), event)
    values = rng.integers(0, 2, 20).astype(float)
    for fold in (alone, live):
        fold.apply(Offset(21, 0), Rewarded(rewards(range(20), values=values, arms=[0, 1] * 10, times_ms=10)))
    live.apply(
        Offset(22, 0), Rewarded(rewards(range(20), values=1e6, arms=[0, 1] * 10, times_ms=10, metric=1))
    )
    np.testing.assert_equal(live.policy.state(), alone.policy.state())
    assert live.rewards.tolist() == alone.rewards.tolist()
    assert live.history[-1].metric == "late"
    again = LiveExperiment.from_state(live.offset, live.state())
    assert again.state() == live.state()
    assert again.record.since_ms == {"late": 20}
