"""Loss by entries that are left out, as far as they can be read."""

import numpy as np
import pytest
from builders import exposed, revisions, rewards

from bandit_serve.changes.repair import Cost, _with
from bandit_serve.log import events
from bandit_serve.log.entry import Entry
from bandit_serve.log.offset import Offset


@pytest.mark.parametrize(
    ("kind", "data", "cost"),
    [
        (events.EXPOSED, events.encode(exposed(0, [0, 1, 0], [5, 6, 7])), Cost(1, decisions=3)),
        (events.REWARDED, rewards([1, 2]).tobytes(), Cost(1, rewards=2)),
        (events.REVISED, revisions([1, 2, 3], np.nan, 1.0).tobytes(), Cost(1, rewards=3)),
        (events.REVISED, b"x" * 71, Cost(1)),
        (events.TICK, b"", Cost(1)),
    ],
)
def test_rewards_and_their_changes_are_counted(kind: bytes, data: bytes, cost: Cost) -> None:
    assert _with(Cost(), Entry(Offset(1, 0), kind, data), 0) == cost
